"""What the endpoint answers, and how it refuses."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.proxy.errors import Refusal
from slotproxy.proxy.operator.evaluation import evaluate


def test_the_answer_has_the_number_asked_for_the_one_to_use_and_the_warning() -> None:
    assert evaluate("requested=4&context_size=8192") == {
        "requested": 4,
        "effective": 4,
        "warning": None,
        "message": None,
    }
    clamped = evaluate("requested=9")
    assert (clamped["effective"], clamped["warning"], clamped["message"]) == (
        8,
        "Clamped",
        "9 slots are outside 1 to 8",
    )
    small = evaluate("context_size=4096&requested=8")
    assert (small["effective"], small["warning"]) == (8, "BelowPerSlotFloor")


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ("", "missing_parameter", "requested"),
        ("context_size=4096", "missing_parameter", "requested"),
        ("requested=", "invalid_parameter", "requested"),
        ("requested=-1", "invalid_parameter", "requested"),
        ("requested=1.5", "invalid_parameter", "requested"),
        ("requested=4294967296", "invalid_parameter", "requested"),
        ("requested=%D9%A3", "invalid_parameter", "requested"),  # an Arabic three
        ("requested=1&context_size=x", "invalid_parameter", "context_size"),
        ("requested=1&context_size=", "invalid_parameter", "context_size"),
        ("requested=1&requested=2", "invalid_parameter", "requested"),
        ("requested=1&ctx_size=4096", "unknown_parameter", "ctx_size"),
    ],
)
def test_a_bad_parameter_is_named(query: str, code: str, param: str) -> None:
    with pytest.raises(Refusal) as caught:
        evaluate(query)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


@given(st.text(max_size=30))
def test_whatever_is_asked_is_answered_or_refused(query: str) -> None:
    with contextlib.suppress(Refusal):
        assert evaluate(query)["effective"] >= 1
