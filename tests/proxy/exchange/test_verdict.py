import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.snapshot import Errors
from slotproxy.proxy.engines.failure import Failure, Kind
from slotproxy.proxy.exchange import verdict
from slotproxy.proxy.exchange.verdict import Step, Verdict, judged, may_be_working, refusal, step

PROCEED = {"begun": False, "may_go_on": True, "has_refusal": True}
FINAL = {Kind.PREFILL_TIMEOUT, Kind.STALL_TIMEOUT, Kind.SLOW_CLIENT, Kind.SHUTDOWN}
kinds = st.sampled_from(list(Kind))


def of(kind: Kind) -> Failure:
    return Failure(kind, "it did")


@pytest.mark.parametrize("status", [200, 204, 400, 404, 500, 504])
def test_what_an_engine_says_of_a_request_is_an_answer(status: int) -> None:
    assert judged(None, status, complete=True, holds_slot=True) == Verdict(None, None, None)


@pytest.mark.parametrize(
    ("status", "counted", "blamed"),
    [
        (402, "refused", None),
        (429, "refused", None),
        (502, "other", "unavailable"),
        (503, "unavailable", "unavailable"),
        (529, "unavailable", None),
    ],
)
@pytest.mark.parametrize("complete", [False, True])
def test_an_engine_that_serves_nobody_is_counted_and_looked_at(
    status: int, counted: str, blamed: str | None, complete: bool
) -> None:
    found = judged(None, status, complete=complete, holds_slot=True)
    assert (found.counted, found.blamed) == (counted, blamed)
    if complete:  # the client has it
        assert found.failure is None
    else:
        assert found.failure == Failure(Kind.LIMITED, f"it answered {status}")


@given(kinds, st.booleans())
def test_a_failure_is_told_of_unless_the_engine_is_not_to_blame(kind: Kind, holds_slot: bool) -> None:
    failure = of(kind)
    found = judged(failure, 200, complete=False, holds_slot=holds_slot)
    assert found.failure is failure
    blameless = kind in (Kind.SLOW_CLIENT, Kind.SHUTDOWN)
    assert verdict.counts(failure) is not blameless
    assert (found.counted is None) is blameless
    if kind in (Kind.PREFILL_TIMEOUT, Kind.STALL_TIMEOUT):
        assert (found.counted, found.blamed) == ("timeout", "hang" if holds_slot else None)
    elif not blameless:
        assert (found.counted, found.blamed) == ("other", kind.value)
    assert found.counted is None or hasattr(Errors(), found.counted)


@pytest.mark.parametrize(("kind", "working"), [(Kind.REFUSED, False), (Kind.LIMITED, False), (Kind.RESET, True)])
def test_an_engine_that_did_not_take_the_request_does_not_work_on_it(kind: Kind, working: bool) -> None:
    assert may_be_working(of(kind)) is working
    assert not may_be_working(None)


@given(kinds)
def test_another_is_asked_only_before_the_client_saw_a_byte_and_within_the_deadlines(kind: Kind) -> None:
    assert step(of(kind), **PROCEED) is (Step.OUR_REFUSAL if kind in FINAL else Step.ANOTHER)
    assert step(of(kind), **{**PROCEED, "begun": True}) is Step.OUR_REFUSAL


@given(kinds, st.booleans())
def test_with_nobody_else_to_ask_the_client_gets_a_refusal_that_was_kept(kind: Kind, has_refusal: bool) -> None:
    found = step(of(kind), begun=False, may_go_on=False, has_refusal=has_refusal)
    assert found is (Step.ITS_REFUSAL if has_refusal and kind not in FINAL else Step.OUR_REFUSAL)


@pytest.mark.parametrize(
    ("kind", "sent", "told"),
    [
        (Kind.SHUTDOWN, True, (503, "shutting_down", None)),
        (Kind.PREFILL_TIMEOUT, True, (504, "upstream_timeout", "false")),
        (Kind.STALL_TIMEOUT, True, (504, "upstream_timeout", "false")),
        (Kind.RESET, True, (502, "upstream_failed", "false")),
        (Kind.REFUSED, False, (502, "upstream_failed", None)),
    ],
)
def test_clients_are_told_what_it_was_and_whether_to_ask_again(
    kind: Kind, sent: bool, told: tuple[int, str, str | None]
) -> None:
    found = refusal(of(kind), sent=sent)
    assert (found.status, found.code, found.headers.get("x-should-retry")) == told
