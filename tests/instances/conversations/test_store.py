"""Which saved conversations are kept, by rule and against a list that is kept in the plainest way."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.conversations.store import LARGEST, Pause, Saved, Stamp, Store, default_limit
from slotproxy.instances.slots.claim import Prefix


def saved(name: str, *numbers: int, size: int = 10, principal: str = "me", build: str = "b") -> Saved:
    prefix = Prefix(numbers=numbers, ends=tuple(range(1, len(numbers) + 1)))
    stamp = Stamp(size=size, mtime_ns=1, inode=1)
    return Saved(name=name, principal=principal, prefix=prefix, tokens=9, build=build, stamp=stamp)


def names(store: Store) -> list[str]:
    return [one.name for one in store.values()]


def test_a_conversation_that_goes_on_takes_the_place_of_what_was_saved_before() -> None:
    store = Store(100)
    assert store.add(saved("a", 1, 2)) == ()
    assert store.add(saved("b", 1, 2, 3, 4)) == ("a",)
    assert (names(store), store.size) == (["b"], 10)


def test_a_conversation_saved_again_as_it_was_is_kept_once() -> None:
    store = Store(100)
    store.add(saved("a", 1, 2))
    assert store.add(saved("b", 1, 2)) == ("a",)


def test_only_a_whole_beginning_is_replaced() -> None:
    store = Store(100)
    store.add(saved("longer", 1, 2, 3))
    store.add(saved("branch", 1, 4))
    assert store.add(saved("shorter", 1, 2)) == ()
    assert names(store) == ["longer", "branch", "shorter"]


@pytest.mark.parametrize("other", [{"principal": "you"}, {"build": "c"}])
def test_nothing_of_another_principal_or_build_is_replaced(other: dict[str, Any]) -> None:
    store = Store(100)
    store.add(saved("a", 1, **other))
    assert store.add(saved("b", 1, 2)) == ()


def test_what_the_caller_knows_to_be_older_is_replaced_too() -> None:
    store = Store(100)
    store.add(saved("a", 1, 2))
    assert store.add(saved("b", 7, 8), replaces=("a", "unknown")) == ("a",)


def test_conversations_of_which_nothing_is_known_do_not_replace_each_other() -> None:
    store = Store(100)
    store.add(saved("a"))
    assert store.add(saved("b")) == ()


def test_the_least_recently_used_goes_when_there_is_no_room() -> None:
    store = Store(30)
    for name, number in (("a", 1), ("b", 2), ("c", 3)):
        store.add(saved(name, number))
    store.touch("a")
    assert store.add(saved("d", 4, size=15)) == ("b", "c")
    assert names(store) == ["a", "d"]


def test_one_that_is_too_large_is_not_kept_and_costs_the_others_nothing() -> None:
    store = Store(30)
    store.add(saved("a", 1))
    assert store.add(saved("b", 1, 2, size=31)) == ("b",)
    assert names(store) == ["a"]
    assert store.add(saved("c", 3, size=30)) == ("a",)


def test_a_file_that_was_written_again_is_not_to_be_deleted() -> None:
    store = Store(30)
    store.add(saved("a", 1))
    assert store.add(saved("a", 1, 2, size=20)) == ()
    assert store.size == 20
    assert store.add(saved("a", 1, 2, size=31)) == ("a",)
    assert (len(store), store.size) == (0, 0)


def test_no_more_than_so_many_are_kept_however_small_they_are() -> None:
    store = Store(100, most=2)
    for name, number in (("a", 1), ("b", 2)):
        store.add(saved(name, number, size=0))
    assert store.add(saved("c", 3, size=0)) == ("a",)


def test_a_smaller_limit_takes_effect_at_once() -> None:
    store = Store(30)
    for name, number in (("a", 1), ("b", 2), ("c", 3)):
        store.add(saved(name, number))
    assert store.confine(20) == ("a",)
    assert store.confine(0) == ("b", "c")
    assert store.add(saved("d", 4, size=1)) == ("d",)


def test_what_was_discarded_is_forgotten() -> None:
    store = Store(30)
    store.add(saved("a", 1))
    assert store.discard("a")
    assert not store.discard("a")
    assert store.find("a") is None
    store.touch("a")
    assert store.add(saved("b", 1, 2)) == ()
    assert store.find("b") == saved("b", 1, 2)


Step = tuple[str, Saved | str | int]
PROMPTS = st.lists(st.integers(0, 2), max_size=4).map(tuple)
ENTRIES = st.builds(
    lambda name, numbers, size, principal, build: saved(
        name, *(hash(numbers[: end + 1]) for end in range(len(numbers))), size=size, principal=principal, build=build
    ),
    st.sampled_from("abcdefgh"),
    PROMPTS,
    st.integers(0, 40),
    st.sampled_from(["me", "you"]),
    st.sampled_from(["b", "c"]),
)
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        st.tuples(st.just("add"), ENTRIES),
        st.tuples(st.sampled_from(["touch", "discard"]), st.sampled_from("abcdefgh")),
        st.tuples(st.just("confine"), st.integers(0, 120)),
    ),
    max_size=30,
)


class Plain:
    """The same rules over a list, without an index."""

    def __init__(self, limit: int, most: int) -> None:
        self.limit, self.most = limit, most
        self.kept: list[Saved] = []

    def add(self, new: Saved) -> None:
        self.kept = [one for one in self.kept if one.name != new.name]
        if new.size <= self.limit:
            self.kept = [one for one in self.kept if not self.begins(one, new)] + [new]
            self.evict()

    def begins(self, old: Saved, new: Saved) -> bool:
        same = (old.principal, old.build) == (new.principal, new.build)
        numbers = old.prefix.numbers
        return same and bool(numbers) and numbers == new.prefix.numbers[: len(numbers)]

    def touch(self, name: str) -> None:
        self.kept.sort(key=lambda one: one.name == name)

    def discard(self, name: str) -> None:
        self.kept = [one for one in self.kept if one.name != name]

    def confine(self, limit: int) -> None:
        self.limit = limit
        self.evict()

    def evict(self) -> None:
        while sum(one.size for one in self.kept) > self.limit or len(self.kept) > self.most:
            del self.kept[0]


@given(STEPS)
def test_the_store_is_never_over_its_limits_and_every_file_is_kept_or_reported_once(steps: Sequence[Step]) -> None:
    store, plain, files = Store(100, most=5), Plain(100, most=5), set[str]()
    for action, what in steps:
        if action == "add":
            assert isinstance(what, Saved)
            files.add(what.name)
        deleted = getattr(store, action)(what)
        getattr(plain, action)(what)
        if action == "discard":
            files.discard(str(what))
        elif deleted is not None:
            assert len(set(deleted)) == len(deleted)
            assert set(deleted) <= files
            files -= set(deleted)
        assert [*store.values()] == plain.kept
        assert {one.name for one in store.values()} == files
        assert store.size == sum(one.size for one in store.values()) <= store.limit
        assert len(store) <= 5


def test_a_tenth_of_the_free_disk_is_used_and_at_most_8_gib() -> None:
    assert default_limit(1000) == 100
    assert default_limit(80 << 30) == LARGEST
    assert default_limit(1 << 50) == LARGEST == 8 << 30


def test_after_a_full_disk_nothing_is_saved_for_a_minute_and_that_is_said_once() -> None:
    pause = Pause()
    assert pause.over(0.0)
    assert pause.begin(100.0)
    assert not pause.over(159.9)
    assert pause.over(160.0)
    assert not pause.begin(160.0)
    assert not pause.over(219.9)
    pause.end()
    assert pause.over(161.0)
    assert pause.begin(300.0)


def test_a_saved_conversation_is_as_large_as_its_file() -> None:
    one = saved("a", 1, size=7)
    assert one.size == 7
    assert replace(one, stamp=replace(one.stamp, size=8)).size == 8
