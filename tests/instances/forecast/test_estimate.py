"""The arithmetic of an estimate, with the machines of published reports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.forecast.estimate import Estimate

GB = 10**9
GIB = 1 << 30


def test_shared_weights_count_once_and_private_ones_for_each() -> None:
    shared = Estimate(weights=100, kv=10, shares=True)
    private = Estimate(weights=100, kv=10, shares=False)
    assert (shared.once, shared.each, shared.total(3)) == (100, 10, 130)
    assert (private.once, private.each, private.total(3)) == (0, 110, 330)


@pytest.mark.parametrize(("limit", "fitting"), [(99, 0), (100, 0), (109, 0), (110, 1), (129, 2), (130, 3)])
def test_as_many_fit_as_stay_within_the_limit(limit: int, fitting: int) -> None:
    assert Estimate(weights=100, kv=10, shares=True).fitting(limit) == fitting


def test_the_mac_mini_of_the_report_holds_five_slots_under_80_percent_and_not_ten() -> None:
    """32 GB, 19 GB of weights, 1.3 GB of KV cache for each slot: four ran, ten did not load."""
    mini = Estimate(weights=19 * GB, kv=1_300_000_000, shares=True)
    assert mini.fitting(32 * GB * 80 // 100) == 5
    assert (mini.total(10) or 0) >= 32 * GB


def test_without_a_kv_size_nothing_is_told_about_shared_weights_and_a_bound_about_private_ones() -> None:
    assert Estimate(weights=100, kv=None, shares=True).fitting(1000) is None
    assert Estimate(weights=100, kv=None, shares=True).total(2) is None
    assert Estimate(weights=100, kv=None, shares=False).fitting(1000) == 10


def test_a_model_that_keeps_nothing_for_a_token_has_no_bound() -> None:
    assert Estimate(weights=100, kv=0, shares=True).fitting(1000) is None


SIZE = st.integers(0, 1 << 44)


@given(weights=SIZE, kv=st.integers(1, 1 << 44), shares=st.booleans(), limit=SIZE)
def test_what_fits_is_within_the_limit_and_one_more_is_not(weights: int, kv: int, shares: bool, limit: int) -> None:
    estimate = Estimate(weights=weights, kv=kv, shares=shares)
    fitting = estimate.fitting(limit)
    assert fitting is not None
    assert fitting == 0 or (estimate.total(fitting) or 0) <= limit
    assert (estimate.total(fitting + 1) or 0) > limit
