from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.running.backoff import Backoff, History

streaks = st.integers(1, 1000)
jitters = st.floats(0, 1)


@given(streaks, jitters)
def test_a_delay_is_bounded_and_never_nothing(streak: int, jitter: float) -> None:
    policy = Backoff()
    assert policy.first / 2 <= policy.delay(streak, jitter) <= policy.longest


@given(streaks, jitters)
def test_delays_never_shrink_while_failures_go_on(streak: int, jitter: float) -> None:
    policy = Backoff()
    assert policy.delay(streak, jitter) <= policy.delay(streak + 1, jitter)


def test_a_stable_run_starts_the_delays_anew() -> None:
    history = History()
    for now in range(4):
        history = history.failed(now, lasted=1)
    grown = history.delay(0)
    assert history.failed(5, lasted=history.policy.stable).delay(0) == history.policy.first < grown


@given(st.lists(st.floats(0.1, 1000), min_size=1, max_size=30))
def test_it_is_exhausted_exactly_when_more_than_the_allowed_failures_lie_within_the_window(gaps: list[float]) -> None:
    history, now, times = History(), 0.0, []
    for gap in gaps:
        now += gap
        times.append(now)
        history = history.failed(now, lasted=0)
        within = [at for at in times if now - at < history.policy.window]
        assert history.exhausted == (len(within) > history.policy.most)


def test_runs_that_were_ready_for_a_moment_count_as_well() -> None:
    history = History()
    for now in range(6):
        history = history.failed(float(now * 10), lasted=2)
    assert history.exhausted
