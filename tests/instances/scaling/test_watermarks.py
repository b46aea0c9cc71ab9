from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.decisions import Decision, Move
from slotproxy.instances.scaling.watermarks import PAUSE, REST, Level, Watermarks, reserve

GIB = 1 << 30
CALM = Level(
    running=3,
    idle=1,
    used=40 * GIB,
    peak=40 * GIB,
    next_cost=10 * GIB,
    limit=80 * GIB,
    total=100 * GIB,
    available=60 * GIB,
)
TIGHT = replace(CALM, available=9 * GIB)


def after(marks: Watermarks, level: Level, seconds: float, start: float = 0.0, most: int = 8) -> list[Decision]:
    """One look a second for so long."""
    looks = (marks.judge(level, start + second, most) for second in range(int(seconds)))
    return [decision for decision in looks if decision is not None]


def test_nothing_is_done_while_all_is_well() -> None:
    assert after(Watermarks(), CALM, 100) == []


@pytest.mark.parametrize(
    ("changes", "reason", "sentence"),
    [
        ({"used": 81 * GIB}, "memory", "3 instances use 81.0 GiB, the limit is 80.0 GiB"),
        ({"available": 9 * GIB}, "memory", "9.0 GiB of 100.0 GiB are available, 10.0 GiB are kept for other programs"),
        ({"stall": "it stalls"}, "pressure", "it stalls"),
    ],
)
def test_one_goes_at_once_when_memory_is_short(changes: dict[str, Any], reason: str, sentence: str) -> None:
    decision = Watermarks().judge(replace(CALM, **changes), 0.0, 8)
    said = f"memory is short: {sentence}; removing the newest idle one of 3 instances"
    assert decision == Decision(move=Move.REMOVE, reason=reason, sentence=said)


@pytest.mark.parametrize(("available", "ending"), [(9 * GIB, "after its request"), (2 * GIB, "with its request")])
def test_where_none_is_idle_it_is_said_what_becomes_of_the_request(available: int, ending: str) -> None:
    decision = Watermarks().judge(replace(CALM, available=available, idle=0), 0.0, 8)
    assert decision is not None
    assert decision.sentence.endswith(f"; removing the newest of 3 instances {ending}")


def test_the_next_one_goes_when_readings_had_time_to_show_what_the_first_one_freed() -> None:
    marks = Watermarks()
    assert marks.judge(TIGHT, 0.0, 8) is not None
    assert marks.judge(TIGHT, REST - 0.1, 8) is None
    assert marks.judge(TIGHT, REST, 8) is not None


def test_while_one_is_on_its_way_out_no_other_goes_unless_it_is_critical() -> None:
    leaving = replace(TIGHT, leaving=1)
    assert after(Watermarks(), leaving, 100) == []
    assert after(Watermarks(), replace(leaving, available=2 * GIB), 1) != []


def test_stalls_are_averages_so_the_next_one_waits_longer() -> None:
    stalled = replace(CALM, stall="it stalls")
    assert len(after(Watermarks(), stalled, 10)) == 1


def test_the_only_one_is_kept_and_that_is_said_once_per_shortage() -> None:
    marks = Watermarks()
    alone = replace(TIGHT, running=1)
    (said,) = after(marks, alone, 100)
    assert said.move is Move.STOP
    assert said.sentence.endswith("; keeping the only instance")
    after(marks, CALM, 3, start=100)
    assert len(after(marks, alone, 10, start=200)) == 1


def test_a_shortage_that_comes_and_goes_about_the_mark_is_said_once() -> None:
    marks = Watermarks()
    alone, just_enough = replace(TIGHT, running=1), replace(TIGHT, running=1, available=11 * GIB)
    assert len(after(marks, alone, 5)) == 1
    assert after(marks, just_enough, 5, start=10) == []
    assert after(marks, alone, 5, start=20) == []


def test_one_comes_back_when_requests_wait_and_there_has_been_room_for_a_while() -> None:
    marks = Watermarks()
    waiting = replace(CALM, queued=2)
    assert after(marks, waiting, PAUSE) == []
    (decision,) = after(marks, waiting, 2, start=PAUSE)
    assert (decision.move, decision.reason) == (Move.ADD, "room")
    assert decision.sentence.startswith("starting a 4th instance: 2 requests wait, and there is room again for the ")


@pytest.mark.parametrize(
    "changes",
    [{"queued": 0}, {"next_cost": 40 * GIB}, {"available": 21 * GIB}, {"used": 69 * GIB}, {"stall": "it stalls"}],
)
def test_nobody_comes_back_without_a_queue_or_more_room_than_it_takes(changes: dict[str, Any]) -> None:
    decisions = after(Watermarks(), replace(CALM, **({"queued": 1} | changes)), 100)
    assert Move.ADD not in {decision.move for decision in decisions}


def test_nobody_comes_back_beyond_what_is_allowed() -> None:
    assert after(Watermarks(), replace(CALM, queued=1), 100, most=3) == []


def test_one_that_had_to_go_soon_after_it_came_back_stays_away_longer() -> None:
    marks, waiting = Watermarks(), replace(CALM, queued=1)
    assert len(after(marks, waiting, PAUSE + 1)) == 1
    assert marks.judge(TIGHT, 60.0, 8) is not None
    assert after(marks, waiting, 2 * PAUSE, start=70) == []
    assert len(after(marks, waiting, 2, start=70 + 2 * PAUSE)) == 1
    assert marks.judge(TIGHT, 1000.0, 8) is not None, "it stayed for a good while this time"
    assert len(after(marks, waiting, PAUSE + 1, start=1100)) == 1


def test_the_reserve_is_a_tenth_or_less_where_the_user_leaves_less() -> None:
    assert reserve(100, 80) == 10
    assert reserve(100, 96) == 2
    assert reserve(100, 150) == 0


levels = st.builds(
    Level,
    running=st.integers(1, 8),
    idle=st.integers(0, 8),
    used=st.integers(0, 120 * GIB),
    peak=st.just(0),
    next_cost=st.integers(0, 50 * GIB),
    limit=st.integers(1, 100 * GIB),
    total=st.just(100 * GIB),
    available=st.integers(0, 100 * GIB),
    stall=st.sampled_from(["", "it stalls"]),
    queued=st.integers(0, 3),
    leaving=st.integers(0, 1),
)


@given(st.lists(st.tuples(levels, st.floats(0.1, 100)), max_size=30), st.integers(1, 8))
def test_the_last_one_never_goes_and_none_is_added_where_it_would_not_fit(
    story: list[tuple[Level, float]], most: int
) -> None:
    marks, now = Watermarks(), 0.0
    for level, seconds in story:
        now += seconds
        decision = marks.judge(level, now, most)
        if decision is not None and decision.move is Move.REMOVE:
            assert level.running > 1
        if decision is not None and decision.move is Move.ADD:
            assert level.running < most
            assert level.used + level.next_cost <= level.limit
            assert level.available - level.next_cost >= level.reserve
