"""The laboratory computes what it says: nothing is lost, small cases come out as by hand, and engines as recorded."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slotproxy.instances.slots.routing import least_busy
from tests.laboratory import recording
from tests.laboratory.contenders import POLICIES, WHOLE, pins, simulate
from tests.laboratory.dispatch import Done, Given, Plain
from tests.laboratory.figures import covered, figures, jain, longest_waits, percentile
from tests.laboratory.kv import EngineMemory, PerfectMemory
from tests.laboratory.machines import DECODE, MACHINES, MIB, PREFILL, TWO_CORES, Machine
from tests.laboratory.processors import Processors
from tests.laboratory.simulation import Run, Simulation
from tests.laboratory.texts import BLOCK, Piece, Text, common, prefix, size
from tests.laboratory.trace import Trace, Turn, Writer
from tests.laboratory.traces import TRACES, agents, chat

PLAIN = Machine(
    name="plain",
    engines=2,
    prefill=100.0,
    decode=10.0,
    prefill_beside=(1.0, 0.5),
    decode_beside=(1.0, 0.5),
    kv_bytes=1000,
    cache_ram=1_000_000,
    copying=1e12,
    saving=1e6,
    restoring=1e6,
    save_seconds=0.0,
    restore_seconds=0.0,
    restart_seconds=3.0,
)
ONE = replace(PLAIN, engines=1)
SMALL = {"chat": lambda seed: chat(seed, 4, 3), "agents": lambda seed: agents(seed, 2)}


def asked(*turns: tuple[float, int, int]) -> Trace:
    """One-off requests: when, tokens of the prompt, tokens of the answer."""
    writer = Writer(0)
    for when, prompt, answer in turns:
        writer.conversation("somebody", ()).turn(writer.piece(prompt), answer, pause=when)
    return writer.trace("by hand")


def run(trace: Trace, machine: Machine = ONE) -> Run:
    return Simulation(trace, machine, Plain(least_busy)).run()


# conservation


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(POLICIES)), st.sampled_from(sorted(SMALL)), st.integers(0, 1000))
def test_every_turn_is_served_once_and_an_engine_serves_one_at_a_time(policy: str, kind: str, seed: int) -> None:
    trace = SMALL[kind](seed)
    served = simulate(trace, TWO_CORES, policy).served
    assert [one.number for one in served] == list(range(len(trace.turns)))
    for engine in range(TWO_CORES.engines):
        spans = sorted((one.granted, one.answered) for one in served if one.engine == engine)
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(POLICIES)), st.sampled_from(sorted(SMALL)), st.integers(0, 1000))
def test_nothing_happens_before_what_it_waits_for(policy: str, kind: str, seed: int) -> None:
    trace = SMALL[kind](seed)
    served = simulate(trace, TWO_CORES, policy).served
    for one in served:
        turn = trace.turns[one.number]
        ready = max((served[before].answered for before in turn.after), default=0.0)
        assert one.arrived == pytest.approx(ready + turn.pause)
        assert one.arrived <= one.granted <= one.computes <= one.first_token <= one.answered
        assert 0 <= one.cached < size(turn.prompt)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_is_the_same_run_and_another_is_not(policy: str) -> None:
    first = simulate(agents(5, 2), TWO_CORES, policy)
    assert first.served == simulate(agents(5, 2), TWO_CORES, policy).served
    assert first.served != simulate(agents(6, 2), TWO_CORES, policy).served


@pytest.mark.parametrize("policy", POLICIES)
def test_every_engine_is_restarted_once_and_forgets(policy: str) -> None:
    trace = replace(chat(1, 2, 4), restart_after=4)
    served = simulate(trace, TWO_CORES, policy).served
    fourth = sorted(one.answered for one in served)[3]
    after = [one for one in served if one.granted > fourth]
    assert min(one.granted for one in after) >= fourth + TWO_CORES.restart_seconds
    if policy != WHOLE:  # all others have to compute it again
        assert [one.cached for one in after if one.cached < 100]


def test_a_dispatcher_that_gives_an_engine_away_twice_is_found_out() -> None:
    class Generous(Plain):
        def arrive(self, number: int, turn: Turn, now: float) -> list[Given]:
            return [Given(number, 0)]

        def end(self, done: Done, saving: float, now: float) -> list[Given]:
            return []

    with pytest.raises(RuntimeError, match="second turn"):
        Simulation(asked((0, 100, 10), (0.5, 100, 10)), ONE, Generous(least_busy)).run()


def test_a_dispatcher_that_forgets_a_turn_is_found_out() -> None:
    class Forgetful(Plain):
        def arrive(self, number: int, turn: Turn, now: float) -> list[Given]:
            return []

    with pytest.raises(RuntimeError, match="never served"):
        Simulation(asked((0, 100, 10)), ONE, Forgetful(least_busy)).run()


# by hand


def test_a_request_alone_takes_its_prompt_and_its_answer() -> None:
    (one,) = run(asked((2.0, 100, 11))).served
    assert (one.granted, one.first_token, one.answered) == pytest.approx((2.0, 3.0, 4.0))


def test_the_second_waits_for_the_only_engine() -> None:
    first, second = run(asked((0.0, 100, 11), (0.5, 200, 11))).served
    assert second.granted == pytest.approx(first.answered) == pytest.approx(2.0)
    assert second.first_token == pytest.approx(4.0)


def test_two_engines_that_work_at_once_take_twice_as_long_for_as_long_as_they_do() -> None:
    first, second = run(asked((0.0, 100, 1), (0.5, 100, 1)), PLAIN).served
    assert first.answered == pytest.approx(1.5)  # half of it alone, half of it at half its speed
    assert second.answered == pytest.approx(2.0)  # the first is over when it has done half


def test_the_next_turn_computes_only_what_is_new() -> None:
    writer = Writer(0)
    talk = writer.conversation("somebody", ())
    first = talk.turn(writer.piece(300), 50)
    talk.turn(writer.piece(25), 1, after=(first,), pause=1.0)
    _, second = run(writer.trace("two turns")).served
    assert second.cached == 350
    assert second.first_token - second.granted == pytest.approx(0.25)


def test_more_engines_than_shares_are_known_gain_nothing_together() -> None:
    assert PLAIN.speed(DECODE, 4) * 4 == pytest.approx(PLAIN.speed(DECODE, 2) * 2)
    assert PLAIN.speed(PREFILL, 1) == 1.0


def test_an_engine_that_is_at_work_cannot_begin_something_else() -> None:
    processors = Processors(PLAIN, 2)
    processors.begin(0, PREFILL, 1.0, 0.0)
    with pytest.raises(ValueError, match="at work already"):
        processors.begin(0, DECODE, 1.0, 0.0)


def test_engines_of_different_hosts_do_not_slow_each_other() -> None:
    processors = Processors(PLAIN, 4)
    processors.begin(0, PREFILL, 1.0, 0.0)
    processors.begin(2, PREFILL, 1.0, 0.0)
    assert processors.next_end == pytest.approx(1.0)


# what an engine remembers


def text(*pieces: tuple[int, int]) -> Text:
    return tuple(Piece(*piece) for piece in pieces)


def asks(memory: EngineMemory, *prompts: Text) -> list[int]:
    cached = []
    for prompt in prompts:
        cached.append(memory.begin(prompt)[0])
        memory.end(prompt)
    return cached


A, B, C = text((1, 100)), text((2, 100)), text((3, 100))


def test_an_engine_goes_back_to_an_old_prompt_while_there_is_room() -> None:
    assert asks(EngineMemory(200, 1), A, B, A, B) == [0, 0, 99, 99]


def test_the_oldest_prompt_goes_first_and_room_is_made_before_the_best_is_taken() -> None:
    assert asks(EngineMemory(300, 1), A, B, C, A) == [0, 0, 0, 99]
    assert asks(EngineMemory(299, 1), A, B, C, A) == [0, 0, 0, 0]


def test_a_prompt_larger_than_all_the_room_is_not_kept() -> None:
    assert asks(EngineMemory(99, 1), A, B, A) == [0, 0, 0]


def test_a_text_that_shares_most_of_another_writes_over_the_rest_of_it() -> None:
    agent, helper = text((1, 60), (2, 40)), text((1, 60), (3, 40))
    assert asks(EngineMemory(1000, 1), agent, helper, agent) == [0, 60, 60]
    assert asks(PerfectMemory(0, 1), agent, helper, agent) == [0, 60, 99]


def test_a_restore_overwrites_what_is_in_the_slot() -> None:
    memory = EngineMemory(1000, 1)
    asks(memory, A)
    memory.overwrite(B)
    assert asks(memory, B, A) == [99, 0]


def test_the_engine_of_the_laboratory_remembers_what_the_recorded_engines_did() -> None:
    """Each recorded turn that was computed took seconds, each that was cached took less than one."""
    memories: dict[str, EngineMemory] = {}
    free: dict[str, float] = {}
    for one, turn in recorded_in_order():
        memory = memories.setdefault(one["instance"], EngineMemory(64 * MIB, TWO_CORES.kv_bytes))
        cached, _ = memory.begin(turn.prompt)
        memory.end(turn.text)
        took = one["first_token"] - max(one["arrived"], free.get(one["instance"], 0.0))
        free[one["instance"]] = one["ended"]
        assert (size(turn.prompt) - cached > 100) == (took > 2.0), one


def recorded_in_order() -> Iterator[tuple[dict[str, Any], Turn]]:
    requests = json.loads(recording.RECORD.read_text())["requests"]
    requests.sort(key=lambda one: (one["conversation"], one["turn"]))
    both = zip(requests, recording.recorded().turns, strict=True)
    return iter(sorted(both, key=lambda pair: pair[0]["first_token"]))


def test_the_recorded_trace_has_the_tokens_and_the_thinking_times_of_the_record() -> None:
    for one, turn in recorded_in_order():
        assert (size(turn.prompt), turn.answer.tokens) == (one["prompt"], one["completion"])
        assert turn.pause >= 0


def test_an_access_log_is_read_and_what_is_not_ours_is_left_out() -> None:
    said = {"request_id": "3.1", "status": 200, "ts": "2026-11-25T10:00:10Z", "duration_ms": 4000, "ttft_ms": 1500}
    said |= {"instance": "0", "prompt_tokens": 7, "completion_tokens": 2}
    lines = ["no JSON", json.dumps(said), json.dumps(said | {"request_id": "x"}), json.dumps(said | {"status": 503})]
    (one,) = recording.of_log(lines)
    assert (one["conversation"], one["turn"], one["prompt"]) == (3, 1, 7)
    assert (one["ended"] - one["arrived"], one["first_token"] - one["arrived"]) == pytest.approx((4.0, 1.5))


# texts and traces


def test_texts_are_alike_up_to_the_first_piece_that_differs() -> None:
    assert common(text((1, 5), (2, 6), (3, 7)), text((1, 5), (2, 6), (4, 7))) == 11
    assert common((), A) == 0


def test_a_prefix_tells_long_pieces_in_blocks_and_begins_anew_with_the_user() -> None:
    known = prefix(text((1, BLOCK + 1), (2, 10)), 1)
    assert known.ends == (4 * BLOCK, 4 * (BLOCK + 1), 4 * (BLOCK + 11))
    assert known.turn_ends == (40,)
    assert prefix(text((1, BLOCK + 1), (9, 10)), 1).numbers[:2] == known.numbers[:2]


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_asks_only_for_what_comes_after_what_it_waits_for(name: str) -> None:
    for seed in range(3):
        trace = TRACES[name](seed, 1)
        assert all(before < number for number, turn in enumerate(trace.turns) for before in turn.after)


def test_a_line_that_changes_is_seen_by_the_proxy_and_not_by_the_engine() -> None:
    first, second = [turn for turn in agents(1, 1).turns if turn.conversation == agents(1, 1).turns[1].conversation][:2]
    assert common(first.text, second.prompt) == size(first.text)
    assert first.claim().prefix.numbers[0] != second.claim().prefix.numbers[0]
    assert first.claim().prefix.turn_numbers[0] == second.claim().prefix.turn_numbers[0]


def test_pins_leave_each_conversation_one_engine_and_share_the_work() -> None:
    trace = chat(1, 6)
    free = [set(range(2)) - others for others in pins(trace, PLAIN, 2).values()]
    assert sorted(map(len, free)) == [1] * 6
    assert [free.count({engine}) for engine in range(2)] == [3, 3]


# figures


def test_percentiles_are_values_that_occurred() -> None:
    assert percentile([4, 1, 3, 2], 50) == 2
    assert percentile([4, 1, 3, 2], 95) == 4
    assert percentile([7], 50) == 7


def test_the_jain_index_is_1_when_all_have_the_same_and_a_part_when_one_has_all() -> None:
    assert jain([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jain([3.0, 0.0, 0.0]) == pytest.approx(1 / 3)


def test_spans_that_overlap_are_counted_once() -> None:
    assert covered([(0, 2), (1, 3), (5, 6), (5.5, 5.6)]) == pytest.approx(4)


def test_a_wait_is_measured_in_fair_shares_and_not_behind_ones_own_requests() -> None:
    writer = Writer(0)
    for name in ("a", "a", "b"):
        writer.conversation(name, ()).turn(writer.piece(100), 11)
    told = run(writer.trace("by hand"))
    # The line is fair, so b is served after the first of a: 2 s, which is half of 2 s for each of two principals.
    assert longest_waits(told) == pytest.approx({"a": 0.0, "b": 0.5})


def test_what_is_told_of_a_run_adds_up() -> None:
    trace = chat(2, 6)
    told = figures(simulate(trace, TWO_CORES, "least-busy"))
    assert sum(told.found.values()) == told.turns == 48
    assert told.found["cold"] == 6
    assert 0 <= told.reused <= 1
    assert told.later_p50 <= told.later_p95


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_a_hand_over_costs_a_small_part_of_computing(machine: Machine) -> None:
    assert machine.save(1300) + machine.restore(1300) < 0.3 * 1300 / machine.prefill
