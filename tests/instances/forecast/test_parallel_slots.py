"""The rules of the clamp and of the floor, each with the numbers of the document they come from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.forecast.parallel_slots import (
    BELOW_FLOOR,
    CLAMPED,
    FLOOR,
    MAXIMUM,
    MINIMUM,
    ParallelSlots,
    evaluate_parallel_slots,
)

U32 = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("requested", "context_size", "effective", "warning"),
    [
        (1, 4096, 1, None),
        (8, 8192, 8, None),  # exactly at the floor
        (2, 2048, 2, None),  # exactly at the floor, too
        (8, 4096, 8, BELOW_FLOOR),  # 512 tokens each: the value is applied and the warning tells
        (2, 2047, 2, BELOW_FLOOR),
        (0, 4096, 1, CLAMPED),
        (9, 16384, 8, CLAMPED),
        (16, 16384, 8, CLAMPED),
        (16, 4096, 8, BELOW_FLOOR),
        (1, 1023, 1, BELOW_FLOOR),
        (8, None, 8, None),  # an unknown context is not warned about
        (9, None, 8, CLAMPED),
    ],
)
def test_the_cases_of_the_document(
    requested: int, context_size: int | None, effective: int, warning: str | None
) -> None:
    found = evaluate_parallel_slots(requested, context_size)
    assert (found.requested, found.effective, found.warning) == (requested, effective, warning)


def test_the_bounds_are_those_of_the_document() -> None:
    assert (MINIMUM, MAXIMUM, FLOOR) == (1, 8, 1024)


def test_each_warning_is_a_sentence_with_its_numbers() -> None:
    assert evaluate_parallel_slots(8, 4096).message == (
        "512 tokens of context for each slot are few: most conversations need 1024 or more"
    )
    assert evaluate_parallel_slots(9, None).message == "9 slots are outside 1 to 8"


@given(requested=U32, context_size=st.none() | U32)
def test_the_effective_number_is_within_bounds_and_the_nearest_such(requested: int, context_size: int | None) -> None:
    found = evaluate_parallel_slots(requested, context_size)
    assert found.requested == requested
    assert MINIMUM <= found.effective <= MAXIMUM
    assert all(abs(requested - found.effective) <= abs(requested - other) for other in range(MINIMUM, MAXIMUM + 1))


@given(requested=U32, context_size=st.none() | U32)
def test_there_is_a_warning_exactly_if_a_slot_is_below_the_floor_or_the_number_was_changed(
    requested: int, context_size: int | None
) -> None:
    found = evaluate_parallel_slots(requested, context_size)
    below = context_size is not None and context_size / found.effective < FLOOR
    clamped = found.effective != requested
    assert found.warning == (BELOW_FLOOR if below else CLAMPED if clamped else None)
    assert (found.message is None) == (found.warning is None)


@given(requested=U32, context_size=U32)
def test_more_context_never_brings_the_floors_warning(requested: int, context_size: int) -> None:
    if evaluate_parallel_slots(requested, context_size).warning != BELOW_FLOOR:
        assert evaluate_parallel_slots(requested, context_size + 1).warning != BELOW_FLOOR


@given(requested=U32, context_size=st.none() | U32)
def test_what_was_clamped_is_answered_as_if_it_had_been_asked_for(requested: int, context_size: int | None) -> None:
    found = evaluate_parallel_slots(requested, context_size)
    again = evaluate_parallel_slots(found.effective, context_size)
    assert again.effective == found.effective
    assert again.warning in (None, BELOW_FLOOR)
    assert isinstance(again, ParallelSlots)


@given(requested=U32, maximum=st.integers(1, 64))
def test_another_maximum_moves_the_upper_bound_only(requested: int, maximum: int) -> None:
    assert evaluate_parallel_slots(requested, None, maximum=maximum).effective == min(max(requested, 1), maximum)
