import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from slotproxy.instances.remotes.pace import LONGEST, OUT_OF_QUOTA, Pace
from slotproxy.instances.remotes.ratelimits import Reason, Refusal

LIMITED = Refusal(reason=Reason.RATE_LIMIT, wait=10)
UNSAID = Refusal(reason=Reason.OVERLOAD, wait=None)
QUOTA = Refusal(reason=Reason.QUOTA, wait=None)
REFUSALS = st.builds(
    Refusal,
    reason=st.sampled_from(Reason),
    wait=st.none() | st.floats(0, 1e5),
)
JITTER = st.floats(0, 1)


class PaceMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pace = Pace(8)
        self.now = 100.0

    @rule(seconds=st.floats(0, 500))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(refusal=REFUSALS, jitter=JITTER)
    def refused(self, refusal: Refusal, jitter: float) -> None:
        before = self.pace.slots(self.now)
        window = self.pace.window
        self.pace.refused(refusal, self.now, jitter)
        asked_for = min(refusal.wait or 0.0, LONGEST)
        assert self.pace.until >= self.now + asked_for, "it would be asked sooner than it said"
        assert self.pace.until <= self.now + LONGEST
        assert self.pace.window <= window
        assert before or self.pace.window == window, "several refusals of one moment count once"

    @rule(scarce=st.booleans())
    def answered(self, scarce: bool) -> None:
        before = self.pace.window
        self.pace.answered(self.now, scarce=scarce)
        assert before <= self.pace.window <= before + 1
        assert not scarce or self.pace.window == before

    @rule(wait=st.floats(0, 1e5), jitter=JITTER)
    def exhausted(self, wait: float, jitter: float) -> None:
        before = self.pace.window
        self.pace.exhausted(wait, self.now, jitter)
        assert self.pace.window == before, "it served: it is not asked less at once, only later"
        assert self.now <= self.now + min(wait, LONGEST) <= self.pace.until

    @invariant()
    def never_more_than_the_user_allows_and_never_fewer_than_one_outside_a_pause(self) -> None:
        slots = self.pace.slots(self.now)
        assert slots == 0 if self.now < self.pace.until else 1 <= slots <= 8

    @invariant()
    def whoever_is_held_back_is_so_for_a_reason(self) -> None:
        assert self.pace.reason is not None or self.pace.slots(self.now) == 8


TestPace = PaceMachine.TestCase


@given(st.lists(st.tuples(REFUSALS, JITTER), max_size=10))
def test_whatever_it_refused_answers_bring_every_slot_back(refusals: list[tuple[Refusal, float]]) -> None:
    pace = Pace(6)
    for refusal, jitter in refusals:
        pace.refused(refusal, pace.until, jitter)
    for _ in range(60):
        pace.answered(pace.until, scarce=False)
    assert pace.slots(pace.until) == 6
    assert pace.reason is None


def test_a_refusal_halves_and_an_answer_brings_back_a_part() -> None:
    pace = Pace(8)
    pace.refused(LIMITED, 0, 0)
    assert pace.slots(9.9) == 0
    assert pace.slots(10) == 4
    for _ in range(4):
        pace.answered(10, scarce=False)
    assert pace.slots(10) == 4
    pace.answered(10, scarce=False)
    assert pace.slots(10) == 5


def test_a_wait_that_was_named_is_a_minimum() -> None:
    early, late = Pace(1), Pace(1)
    early.refused(LIMITED, 0, 0)
    late.refused(LIMITED, 0, 1)
    assert (early.until, late.until) == (10, 12.5)


def test_without_a_named_wait_each_refusal_in_a_row_doubles_it() -> None:
    pace, waits = Pace(4), []
    for _ in range(8):
        begin = pace.until
        pace.refused(UNSAID, begin, 0)
        waits.append(pace.until - begin)
    assert waits == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])
    pace.answered(pace.until, scarce=False)
    begin = pace.until
    pace.refused(UNSAID, begin, 0)
    assert pace.until - begin == pytest.approx(1)


def test_without_money_it_is_asked_seldom_and_one_at_a_time() -> None:
    pace = Pace(8)
    pace.refused(QUOTA, 0, 0)
    assert pace.until == OUT_OF_QUOTA
    assert pace.slots(OUT_OF_QUOTA) == 1


def test_where_little_is_left_nobody_asks_for_more_at_once() -> None:
    pace = Pace(8)
    pace.refused(LIMITED, 0, 0)
    for _ in range(50):
        pace.answered(10, scarce=True)
    assert pace.slots(10) == 4
    assert pace.reason is Reason.RATE_LIMIT
