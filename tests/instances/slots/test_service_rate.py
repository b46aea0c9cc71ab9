"""What a client that waits, or is refused, is told to expect."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.slots.line import Ahead
from slotproxy.instances.slots.principal import USUAL_COST
from slotproxy.instances.slots.service_rate import ServiceRate, like_any

NOBODY = Ahead(0, 0.0)


def measured(seconds: float, expected: float = USUAL_COST) -> ServiceRate:
    rate = ServiceRate()
    for _ in range(200):
        rate.observe(seconds, expected)
    return rate


def test_before_anything_is_measured_a_request_takes_a_few_seconds() -> None:
    assert 1.0 <= ServiceRate().wait(NOBODY, 1) <= 10.0
    assert ServiceRate().wait(like_any(3), 1) == 4 * ServiceRate().wait(NOBODY, 1)


def test_a_wait_is_that_of_all_that_is_ahead_and_of_one_that_is_served() -> None:
    assert measured(2.0).wait(NOBODY, 1) == pytest.approx(2.0)
    assert measured(2.0).wait(like_any(4), 1) == pytest.approx(10.0)


def test_two_slots_halve_it_and_no_slots_are_taken_for_one() -> None:
    assert measured(2.0).wait(like_any(4), 2) == pytest.approx(5.0)
    assert measured(2.0).wait(like_any(4), 0) == pytest.approx(10.0)


def test_requests_of_more_tokens_are_waited_for_longer() -> None:
    rate = measured(2.0, expected=1000.0)
    assert rate.wait(Ahead(1, 5000.0), 1) == pytest.approx(12.0)
    assert rate.wait(Ahead(5, 1000.0), 1) == pytest.approx(4.0)


def test_what_turns_out_to_take_less_is_expected_to_go_on_so() -> None:
    """Prompts of 10,000 tokens of which nearly all are cached."""
    assert measured(0.5, expected=10_000.0).wait(Ahead(4, 40_000.0), 1) == pytest.approx(2.5)


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(1, 1e6))), st.integers(0, 1000), st.integers(0, 64))
def test_nobody_waits_shorter_behind_more(served: list[tuple[float, float]], tickets: int, slots: int) -> None:
    rate = ServiceRate()
    for seconds, expected in served:
        rate.observe(seconds, expected)
    assert 0 <= rate.wait(like_any(tickets), slots) <= rate.wait(like_any(tickets + 1), slots)
