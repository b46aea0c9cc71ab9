"""Where turns go: what is a hit, when another engine is handed the conversation, when it is worth to wait."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from slotproxy.instances.conversations.affinity import Affinity, Result, Turn
from slotproxy.instances.conversations.holdings import Held
from slotproxy.instances.conversations.store import Saved, Stamp
from slotproxy.instances.slots.claim import Claim
from slotproxy.instances.slots.pool import Pool
from slotproxy.instances.slots.routing import least_busy
from tests.conversations_text import claim

SYSTEM = "s" * 2000
LONG = "w" * 4000  # 1000 tokens: ten seconds at first


class Bench:
    """A pool whose engines are named by letters, a clock, and the answers of engines that keep what they had."""

    def __init__(self, engines: str = "ab", *, build: str | None = None, **affinity: Any) -> None:
        self.affinity = Affinity(least_busy, **affinity)
        self.affinity.figures.kv.observe(1000.0)
        self.pool: Pool[str] = Pool(8, least_busy, claim_policy=self.affinity)
        self.now = 100.0
        for engine in engines:
            self.affinity.add(engine, build)
            self.pool.add(engine)

    def ask(self, one: Claim) -> tuple[int, str, Turn] | None:
        self.now += 1.0
        grant = self.pool.take_for(one, self.now)
        return None if grant is None else (grant.ticket, grant.member, grant.turn)

    def answer(
        self, ticket: int, turn: Turn, *, tokens: int | None = None, cached: int = 0, save: bool = False
    ) -> None:
        prompt = turn.claim.prefix.size // 4 if tokens is None else tokens
        if turn.restore is not None:
            self.affinity.restored(turn, 0.01)
        self.now += 1.0
        self.affinity.ended(
            turn, prompt=prompt, completion=10, cached=cached, prefill=(prompt - cached) * 0.01, total=3.0, now=self.now
        )
        if save:
            self.save(turn.member)
        self.pool.warm(turn.member, self.affinity.warmth(turn.member))
        self.pool.leave(ticket, self.now)

    def save(self, member: str) -> Held:
        held = self.affinity.to_be_saved(member)
        assert held is not None
        name = f"{id(held):x}.kv"
        saved = Saved(
            name=name,
            principal=held.record.principal,
            prefix=held.prefix,
            tokens=held.tokens,
            build="build",
            stamp=Stamp(size=held.tokens * 1000, mtime_ns=0, inode=0),
        )
        self.affinity.saved(held, saved, 0.01)
        return held

    def whole(self, one: Claim, *, cached: int = 0, save: bool = False) -> tuple[str, Result]:
        """A turn that nobody disturbs."""
        taken = self.ask(one)
        assert taken is not None
        ticket, member, turn = taken
        self.answer(ticket, turn, cached=cached, save=save)
        return member, turn.result


def test_a_conversation_returns_to_the_engine_that_has_it() -> None:
    bench = Bench()
    home, result = bench.whole(claim(SYSTEM, "one"))
    assert result is Result.COLD
    for number in range(3):
        turns = [f"turn {turn}" for turn in range(2 * number + 3)]
        bench.whole(claim("other" * 400, "x", *turns))
        assert bench.whole(claim(SYSTEM, "one", *turns), cached=500) == (home, Result.HIT)


def test_two_conversations_get_an_engine_each() -> None:
    bench = Bench()
    first, _ = bench.whole(claim(SYSTEM, "one"))
    second, _ = bench.whole(claim("t" * 2000, "two"))
    assert {first, second} == {"a", "b"}


def test_a_request_of_a_single_turn_goes_to_the_coldest_engine() -> None:
    bench = Bench("abc")
    agent, _ = bench.whole(claim(SYSTEM, "one", LONG))
    other, _ = bench.whole(claim("t" * 2000, "two"))
    (cold,) = {"a", "b", "c"} - {agent, other}
    for number in range(4):  # with the agent's system prompt: what is common to many does not count
        assert bench.whole(claim(SYSTEM, f"title {number}"))[0] == cold


def test_a_busy_engine_is_waited_for_where_that_is_cheaper_than_a_new_prefill() -> None:
    bench = Bench()
    home, _ = bench.whole(claim(SYSTEM, LONG))
    taken = bench.ask(claim(SYSTEM, LONG, "answer", "two"))
    assert taken is not None
    assert taken[1] == home
    third = claim(SYSTEM, LONG, "answer", "two", "more", "three")
    assert bench.ask(third) is None
    ticket, grants = bench.pool.join(claim=third, now=bench.now)
    assert grants == []
    due = bench.pool.next_expiry
    assert due is not None
    assert bench.now < due <= bench.now + 1500 * 0.01 + 1.0  # never longer than the prefill elsewhere
    bench.affinity.ended(taken[2], prompt=1500, completion=5, cached=1400, prefill=1.0, total=2.0, now=bench.now)
    (grant,) = bench.pool.leave(taken[0], bench.now)
    assert (grant.ticket, grant.member) == (ticket, home)
    assert grant.turn.result is Result.HIT


def test_whoever_waited_long_enough_takes_any_engine() -> None:
    bench = Bench()
    home, _ = bench.whole(claim(SYSTEM, LONG))
    assert bench.ask(claim(SYSTEM, LONG, "answer", "two")) is not None
    third = claim(SYSTEM, LONG, "answer", "two", "more", "three")
    ticket, grants = bench.pool.join(claim=third, now=bench.now)
    assert grants == []
    due = bench.pool.next_expiry
    assert due is not None
    assert bench.pool.expire(due - 0.1) == []
    (grant,) = bench.pool.expire(due)
    assert grant.ticket == ticket
    assert grant.member != home
    assert grant.turn.result is Result.SPILL


def test_nobody_is_waited_for_where_waiting_is_off() -> None:
    bench = Bench(waits=False)
    home, _ = bench.whole(claim(SYSTEM, LONG))
    assert bench.ask(claim(SYSTEM, LONG, "answer", "two")) is not None
    taken = bench.ask(claim(SYSTEM, LONG, "answer", "two", "more", "three"))
    assert taken is not None
    assert taken[1] != home


def test_others_take_the_slot_that_somebody_does_not_want() -> None:
    bench = Bench()
    home, _ = bench.whole(claim(SYSTEM, LONG))
    assert bench.ask(claim(SYSTEM, LONG, "answer", "two")) is not None
    assert bench.pool.join(claim=claim(SYSTEM, LONG, "answer", "two", "more", "three"), now=bench.now)[1] == []
    ticket, (grant,) = bench.pool.join(claim=claim("new", "one"), now=bench.now)
    assert grant.ticket == ticket
    assert grant.member != home


def test_a_saved_conversation_goes_on_where_there_is_room() -> None:
    bench = Bench(build="build")
    home, _ = bench.whole(claim(SYSTEM, LONG), save=True)
    busy = bench.ask(claim(SYSTEM, LONG, "another branch"))
    assert busy is not None
    assert busy[1] == home
    taken = bench.ask(claim(SYSTEM, LONG, "answer", "two"))
    assert taken is not None
    ticket, member, turn = taken
    assert member != home
    assert turn.result is Result.HANDED_OVER
    assert turn.restore is not None
    bench.answer(ticket, turn, cached=1500)
    assert bench.affinity.warmth(member) > 0  # its new turn is saved nowhere yet


def test_a_conversation_of_another_build_is_not_handed_over() -> None:
    bench = Bench(build="another")
    home, _ = bench.whole(claim(SYSTEM, LONG), save=True)
    bench.affinity.forget(home)
    taken = bench.ask(claim(SYSTEM, LONG, "answer", "two"))
    assert taken is not None
    assert taken[2].restore is None


def test_what_an_engine_holds_unsaved_is_saved_before_another_takes_its_place() -> None:
    bench = Bench("a", build="build")
    bench.whole(claim(SYSTEM, LONG), save=True)
    bench.whole(claim("t" * 2000, "two"))
    taken = bench.ask(claim(SYSTEM, LONG, "answer", "two"))
    assert taken is not None
    way = taken[2].way
    assert way.restore is not None
    assert way.keep is not None
    assert way.keep.prefix is not way.restore.prefix


def test_nothing_is_restored_over_what_takes_too_long_to_save() -> None:
    bench = Bench("a", build="build")
    bench.whole(claim(SYSTEM, LONG), save=True)
    bench.whole(claim("t" * 2000, "two"))
    for _ in range(20):
        bench.affinity.figures.write.observe(2e-6)  # a second for its half a megabyte: a fourteenth of what is spared
    taken = bench.ask(claim(SYSTEM, LONG, "answer", "two"))
    assert taken is not None
    assert taken[2].restore is None


def test_a_delay_that_is_a_small_share_of_what_it_spares_is_none() -> None:
    bench = Bench("a", build="build")
    bench.whole(claim(SYSTEM, LONG), save=True)
    bench.whole(claim("t" * 2000, "two"))
    for _ in range(20):
        bench.affinity.figures.write.observe(1e-6)  # half a second, beside fourteen
    first = bench.affinity.index.conversation(claim(SYSTEM, LONG, "answer", "two"))
    assert first is not None
    bench.affinity.holdings.lose("a", first)
    taken = bench.ask(claim(SYSTEM, LONG, "answer", "two"))
    assert taken is not None
    assert taken[2].way.keep is not None


def test_a_line_that_changes_with_every_turn_does_not_send_a_conversation_elsewhere() -> None:
    bench = Bench("ab")
    home, _ = bench.whole(claim("billed 1" + SYSTEM, "agent " + LONG))
    bench.whole(claim("t" * 2000, "other"))
    after = claim("billed 2" + SYSTEM, "agent " + LONG, "answer", "two")
    assert bench.whole(after, cached=1500) == (home, Result.HIT)
    assert bench.affinity.figures.beyond.value > 0.9


def test_a_beginning_that_all_have_before_such_a_line_hides_nothing() -> None:
    def agent(number: int, *turns: str) -> Claim:
        one = claim("tools" * 100, f"billed {number}" + SYSTEM, *turns)
        numbers, ends = one.prefix.turn_numbers, one.prefix.turn_ends
        assert len(numbers) == len(turns) + 1
        later = claim("", *turns).prefix
        prefix = replace(one.prefix, turn_numbers=later.turn_numbers, turn_ends=later.turn_ends)
        assert ends
        return replace(one, prefix=prefix)

    bench = Bench("ab")
    home, _ = bench.whole(agent(1, "agent " + LONG))
    other, _ = bench.whole(agent(2, "another " + LONG))
    assert home != other
    for number in range(3):
        turns = [f"turn {turn}" for turn in range(2 * number + 2)]
        assert bench.whole(agent(3 + number, "agent " + LONG, *turns), cached=1500) == (home, Result.HIT)
        assert bench.whole(agent(9 + number, "another " + LONG, *turns), cached=1500) == (other, Result.HIT)


def test_an_engine_that_does_not_leave_such_a_line_out_is_believed_in_the_end() -> None:
    bench = Bench("ab")
    for number in range(20):
        turns = [f"turn {turn}" for turn in range(number)]
        bench.whole(claim(f"billed {number % 2}" + SYSTEM, "agent " + LONG, *turns), cached=3)
    assert bench.affinity.figures.beyond.value < 0.1


def test_a_new_conversation_is_given_the_beginning_that_it_shares() -> None:
    bench = Bench(build="build")
    home, _ = bench.whole(claim(LONG, "one"), save=True)
    blocker = bench.ask(claim(LONG, "one", "answer", "two"))
    assert blocker is not None
    assert blocker[1] == home
    taken = bench.ask(claim(LONG, "a new one"))
    assert taken is not None
    assert taken[1] != home
    assert taken[2].result is Result.HANDED_OVER
    assert 900 <= taken[2].way.have <= 1000


def test_what_one_client_saved_is_nothing_to_another() -> None:
    bench = Bench(build="build")
    bench.whole(claim(LONG, "one", principal="alice"), save=True)
    bench.affinity.forget("a")
    bench.affinity.forget("b")
    taken = bench.ask(claim(LONG, "one", "answer", "two", principal="bob"))
    assert taken is not None
    assert taken[2].restore is None
    assert taken[2].result is Result.COLD


def test_an_engine_that_restarted_has_forgotten() -> None:
    bench = Bench()
    home, _ = bench.whole(claim(SYSTEM, LONG))
    bench.affinity.forget(home)
    taken = bench.ask(claim(SYSTEM, LONG, "answer", "two"))
    assert taken is not None
    assert taken[2].result is Result.COLD


def test_an_engine_that_said_it_had_less_is_believed() -> None:
    bench = Bench("a")
    names = "tuvwxyz"
    for name in names[:3]:
        bench.whole(claim(name * 2000, name + LONG))
    assert bench.affinity.conversations("a") == 3
    assert bench.whole(claim("t" * 2000, "t" + LONG, "answer", "two"), cached=3)[1] is Result.HIT  # so it was believed
    assert bench.affinity.conversations("a") == 2
    taken = bench.ask(claim("u" * 2000, "u" + LONG, "answer", "two"))
    assert taken is not None
    assert taken[2].result is not Result.HIT


def test_an_engine_that_has_more_than_it_was_believed_to_is_believed() -> None:
    bench = Bench("a")
    for name in "tuvwx":
        bench.whole(claim(name * 2000, name + LONG))
    assert bench.affinity.conversations("a") == 4
    bench.whole(claim("t" * 2000, "t" + LONG, "answer", "two"), cached=1400)  # it was the fifth
    assert bench.affinity.conversations("a") == 5


def test_other_requests_in_between_make_an_engine_less_sure() -> None:
    bench = Bench("a")
    bench.whole(claim(SYSTEM, LONG))
    ticket, _ = bench.pool.take() or (0, "")
    bench.pool.leave(ticket)
    taken = bench.ask(claim(SYSTEM, LONG, "answer", "two"))
    assert taken is not None
    assert taken[2].way.have == pytest.approx(0.8 * 1500, rel=0.01)


def test_a_client_that_stopped_the_answer_finds_its_conversation_again() -> None:
    bench = Bench()
    bench.whole(claim("t" * 2000, "other"))
    ticket, home, turn = bench.ask(claim(SYSTEM, LONG)) or (0, "", None)
    assert turn is not None
    turn.has_begun = True
    bench.affinity.failed(turn)
    bench.pool.leave(ticket)
    assert bench.whole(claim(SYSTEM, LONG, "half", "two"), cached=1400) == (home, Result.HIT)


def test_a_turn_that_failed_before_its_answer_leaves_nothing_to_return_to() -> None:
    bench = Bench()
    ticket, _, turn = bench.ask(claim(SYSTEM, LONG)) or (0, "", None)
    assert turn is not None
    bench.affinity.failed(turn)
    bench.pool.leave(ticket)
    taken = bench.ask(claim(SYSTEM, LONG, "half", "two"))
    assert taken is not None
    assert taken[2].result is Result.COLD


def test_a_conversation_that_could_not_be_read_is_not_tried_again() -> None:
    bench = Bench("a", build="build")
    bench.whole(claim(SYSTEM, LONG), save=True)
    bench.affinity.forget("a")
    bench.affinity.add("a", "build")
    taken = bench.ask(claim(SYSTEM, LONG, "answer", "two"))
    assert taken is not None
    ticket, _, turn = taken
    assert turn.restore is not None
    bench.affinity.not_restored(turn, again=False)
    assert turn.result is Result.SPILL
    bench.affinity.failed(turn)
    bench.pool.leave(ticket)
    again = bench.ask(claim(SYSTEM, LONG, "answer", "two"))
    assert again is not None
    assert again[2].restore is None


def test_a_saved_conversation_is_not_saved_again_until_it_has_gone_on() -> None:
    bench = Bench("a", build="build")
    bench.whole(claim(SYSTEM, LONG), save=True)
    assert bench.affinity.to_be_saved("a") is None
    bench.whole(claim(SYSTEM, LONG, "answer", "two"), cached=1500)
    assert bench.affinity.to_be_saved("a") is not None


def test_what_can_be_computed_faster_than_it_is_saved_is_not_saved() -> None:
    bench = Bench("a", build="build")
    bench.whole(claim(SYSTEM, LONG))
    for _ in range(50):
        bench.affinity.figures.write.observe(1e-5)  # ten times as slow as computing it
    assert bench.affinity.to_be_saved("a") is None


def test_without_a_store_nothing_is_saved() -> None:
    bench = Bench("a")
    bench.whole(claim(SYSTEM, LONG))
    assert bench.affinity.to_be_saved("a") is None


def test_the_same_snapshot_gives_the_same_choice() -> None:
    def choices() -> Iterator[tuple[str, Result]]:
        bench = Bench("abc", build="build")
        for number in range(30):
            turns = [f"turn {turn}" for turn in range(number // 5 + 1)]
            yield bench.whole(claim(f"system {number % 5}" * 200, *turns), save=number % 2 == 0)

    assert list(choices()) == list(choices())


def test_a_session_stays_where_it_is_although_its_prompts_have_nothing_in_common() -> None:
    bench = Bench("abc")
    home, _ = bench.whole(claim("short", "one", session="1"))
    for number in range(5):
        bench.whole(claim("other", f"{number}"))
        assert bench.whole(claim("short", f"turn {number}", session="1"))[0] == home


def test_a_sub_agent_does_not_take_the_place_of_its_agent() -> None:
    bench = Bench("ab")
    agent, _ = bench.whole(claim(SYSTEM, "agent " + LONG, session="1"))
    for number in range(3):
        assert bench.whole(claim(SYSTEM, f"sub-agent {number}", session="1"))[0] != agent
    assert bench.whole(claim(SYSTEM, "agent " + LONG, "answer", "two", session="1"), cached=1500)[0] == agent


def test_an_engine_that_finds_files_is_shown_those_of_others_when_its_conversation_is_elsewhere() -> None:
    bench = Bench("ab")
    for engine in "ab":
        bench.affinity.add(engine, finds_files=True)
    home, _ = bench.whole(claim(SYSTEM, LONG))
    first = bench.ask(claim(SYSTEM, LONG, "answer", "two"))
    assert first is not None
    assert (first[1], first[2].is_to_be_prepared) == (home, False)
    bench.affinity.waits = False
    second = bench.ask(claim(SYSTEM, LONG, "answer", "three"))
    assert second is not None
    assert (second[1] == home, second[2].is_to_be_prepared) == (False, True)


@pytest.mark.parametrize(("cached", "learned"), [(None, False), (1400, True)])
def test_an_engine_that_does_not_say_what_it_had_teaches_nothing_of_prompts_it_may_have_had(
    cached: int | None, learned: bool
) -> None:
    bench = Bench("a")
    bench.whole(claim(SYSTEM, LONG))
    before = bench.affinity.figures.prefill.value
    taken = bench.ask(claim(SYSTEM, LONG, "answer", "two"))
    assert taken is not None
    bench.affinity.ended(taken[2], prompt=1500, completion=2, cached=cached, prefill=0.1, total=0.2, now=bench.now)
    assert (bench.affinity.figures.prefill.value != before) is learned


@pytest.mark.parametrize("first_line", ["billed 1", "billed 2"])
def test_a_first_turn_that_is_nearly_computed_is_waited_for_also_if_a_line_changes(first_line: str) -> None:
    bench = Bench("ab")
    assert bench.ask(claim(first_line + SYSTEM, "agent " + LONG)) is not None
    bench.now += 14.0
    assert bench.ask(claim("billed 2" + SYSTEM, "agent " + LONG, "answer", "two")) is None


def test_a_first_turn_that_has_just_begun_is_not_waited_for() -> None:
    bench = Bench("ab")
    assert bench.ask(claim(SYSTEM, "agent " + LONG)) is not None
    assert bench.ask(claim(SYSTEM, "agent " + LONG, "answer", "two")) is not None
