"""Who holds what: whatever happens, both sides of the book say the same, and it stays within its bounds."""

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from slotproxy.instances.conversations.holdings import FIRST_DEPTH, MOST_HELD, Held, Holdings
from slotproxy.instances.conversations.index import Index, Record
from slotproxy.instances.conversations.store import Saved, Stamp
from slotproxy.instances.slots.claim import NO_PREFIX, Prefix
from tests.conversations_text import claim

ENGINES = "ab"
engines = st.sampled_from(ENGINES)
which = st.integers(0, 50)


def saved(name: str, prefix: Prefix = NO_PREFIX) -> Saved:
    stamp = Stamp(size=1, mtime_ns=0, inode=0)
    return Saved(name=name, principal="alice", prefix=prefix, tokens=100, build="build", stamp=stamp)


class Book:
    """Holdings, and conversations by number."""

    def __init__(self, records: int = 100) -> None:
        self.index = Index(records=records)
        self.holdings = Holdings(self.index)
        self.grants = itertools.count(1)

    def record(self, number: int) -> Record:
        return self.index.note(claim(f"system {number}", f"one {number}"), 0.0)

    def hold(self, member: str, record: Record) -> Held:
        held = Held(record, record.prefix, 100)
        self.holdings.hold(member, held, next(self.grants))
        return held

    def held(self, member: str) -> list[Record]:
        return [held.record for held in self.holdings.home(member).held]


class HoldingsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.book = Book(records=10)
        self.holdings = self.book.holdings
        self.records: list[Record] = []
        self.names = itertools.count()

    def any_record(self, number: int) -> Record:
        return self.records[number % len(self.records)]

    @rule(number=which)
    def note(self, number: int) -> None:
        self.records.append(self.book.record(number))
        self.holdings.make_room()

    @precondition(lambda self: self.records)
    @rule(member=engines, number=which)
    def hold(self, member: str, number: int) -> None:
        record = self.any_record(number)
        if record in self.book.index:
            held = self.book.hold(member, record)
            assert self.holdings.home(member).held[0] is held

    @precondition(lambda self: self.records)
    @rule(member=engines, number=which)
    def lose(self, member: str, number: int) -> None:
        record = self.any_record(number)
        self.holdings.lose(member, record)
        assert record not in self.book.held(member)

    @rule(member=engines)
    def lose_first(self, member: str) -> None:
        before = self.book.held(member)
        self.holdings.lose_first(member)
        assert self.book.held(member) == before[1:]

    @precondition(lambda self: self.records)
    @rule(member=engines, number=which, had=st.booleans())
    def correct(self, member: str, number: int, had: bool) -> None:
        self.holdings.correct(member, self.any_record(number), had=had)

    @rule(member=engines)
    def forget(self, member: str) -> None:
        self.holdings.forget(member)
        assert self.book.held(member) == []

    @precondition(lambda self: self.records)
    @rule(number=which)
    def save(self, number: int) -> None:
        self.holdings.save(self.any_record(number), saved(f"{next(self.names)}.kv"))

    @precondition(lambda self: self.records)
    @rule(number=which)
    def discard(self, number: int) -> None:
        there = self.holdings.saved(self.any_record(number))
        if there is not None:
            self.holdings.discard(there.name)
            assert self.holdings.saved(self.any_record(number)) is None

    @invariant()
    def engines_and_conversations_say_the_same(self) -> None:
        by_engine = {(member, held) for member in ENGINES for held in self.holdings.home(member).held}
        by_record = {(member, held) for one in set(self.records) for member, held in self.holdings.places(one)}
        assert by_engine == by_record

    @invariant()
    def an_engine_holds_a_conversation_once_and_not_too_many(self) -> None:
        for member in ENGINES:
            records = self.book.held(member)
            assert len(records) == len(set(records)) <= MOST_HELD
            assert self.holdings.home(member).depth >= 1

    @invariant()
    def what_is_forgotten_is_held_and_saved_nowhere(self) -> None:
        for record in self.records:
            if record not in self.book.index:
                assert not [*self.holdings.places(record)]
                assert self.holdings.saved(record) is None


TestHoldings = HoldingsMachine.TestCase
TestHoldings.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def test_the_latest_is_first_and_its_lease_is_remembered() -> None:
    book = Book()
    one, other = book.record(1), book.record(2)
    for record in (one, other, one):
        book.hold("a", record)
    assert book.held("a") == [one, other]
    assert book.holdings.home("a").grant == 3


def test_an_engine_without_what_it_was_believed_to_have_has_nothing_older_either() -> None:
    book = Book()
    records = [book.record(number) for number in range(4)]
    for record in reversed(records):
        book.hold("a", record)
    book.holdings.correct("a", records[2], had=False)
    assert book.held("a") == records[:2]
    assert book.holdings.home("a").depth == 2
    book.holdings.correct("a", records[0], had=False)
    assert book.held("a") == []
    assert book.holdings.home("a").depth == 1


def test_an_engine_with_more_than_it_was_believed_to_have_is_believed_to_keep_as_many() -> None:
    book = Book()
    records = [book.record(number) for number in range(FIRST_DEPTH + 2)]
    for record in reversed(records):
        book.hold("a", record)
    book.holdings.correct("a", records[1], had=True)
    assert book.holdings.home("a").depth == FIRST_DEPTH
    book.holdings.correct("a", records[-1], had=True)
    assert book.holdings.home("a").depth == FIRST_DEPTH + 2
    assert book.held("a") == records


def test_what_an_engine_does_not_hold_cannot_be_corrected() -> None:
    book = Book()
    record = book.record(1)
    book.hold("a", record)
    book.holdings.correct("b", record, had=False)
    assert book.held("a") == [record]
    assert book.holdings.home("b").depth == FIRST_DEPTH


def test_only_the_turn_that_was_saved_is_saved() -> None:
    book = Book()
    record = book.record(1)
    first = book.hold("a", record)
    assert not book.holdings.is_saved(first)
    book.holdings.save(record, saved("1.kv", first.prefix))
    assert book.holdings.is_saved(first)
    later = Held(record, claim("system 1", "one 1", "answer", "two").prefix, 200)
    assert not book.holdings.is_saved(later)


def test_a_file_that_is_gone_is_forgotten_and_no_other() -> None:
    book = Book()
    one, other = book.record(1), book.record(2)
    book.holdings.save(one, saved("1.kv"))
    book.holdings.save(other, saved("2.kv"))
    book.holdings.discard("1.kv")
    book.holdings.discard("3.kv")
    assert book.holdings.saved(one) is None
    assert book.holdings.saved(other) is not None
    book.holdings.unsave(other)
    assert book.holdings.saved(other) is None


def test_of_one_engine_only_so_many_conversations_are_remembered() -> None:
    book = Book()
    records = [book.record(number) for number in range(MOST_HELD + 1)]
    for record in records:
        book.hold("a", record)
    assert book.held("a") == records[:0:-1]
    assert [*book.holdings.places(records[0])] == []


def test_a_conversation_that_is_forgotten_is_not_saved_under_its_name() -> None:
    book = Book(records=1)
    one = book.record(1)
    held = book.hold("a", one)
    book.holdings.save(one, saved("0.kv"))
    assert book.holdings.is_wanted(held)
    book.record(2)
    book.holdings.make_room()
    assert not book.holdings.is_wanted(held)
    assert book.holdings.saved(one) is None
    book.holdings.save(one, saved("1.kv"))
    assert book.holdings.saved(one) is None
    assert book.held("a") == []


def test_an_engine_that_is_added_again_keeps_what_it_holds_and_its_build() -> None:
    book = Book()
    book.holdings.add("a", "build")
    record = book.record(1)
    book.hold("a", record)
    book.holdings.add("a", None)
    assert book.holdings.home("a").build == "build"
    assert book.held("a") == [record]
