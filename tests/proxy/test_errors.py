import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.proxy import errors

REFUSALS = [
    errors.malformed("m"), errors.unauthorized(), errors.not_found("/x"), errors.method_not_allowed("GET"),
    errors.too_large(1), errors.body_timeout(1), errors.queue_full(1, 2, 1), errors.queue_timeout(1, 2, 0),
    errors.loading("l"), errors.no_instances("n"), errors.shutting_down(), errors.upstream_failed("u", sent=True),
    errors.upstream_timeout("t"), errors.internal(), errors.forbidden("c", "m"),
    errors.client_queue_full(3, 2, 3), ]  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.code)
def test_every_refusal_is_an_openai_error_object(refusal: errors.Refusal) -> None:
    error = json.loads(refusal.body("/v1/chat/completions"))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == refusal.code
    assert error["message"].endswith((".", ":", "m", "n"))


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.code)
def test_and_in_anthropics_shape_on_its_path(refusal: errors.Refusal) -> None:
    body = json.loads(refusal.body("/v1/messages"))
    assert body["type"] == "error"
    assert set(body["error"]) == {"type", "message"}
    assert refusal.event("/v1/messages").startswith(b"event: error\ndata: {")


def test_an_error_event_is_one_event() -> None:
    event = errors.upstream_failed("a\nb", sent=True).event("/v1/completions")
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 2


@given(st.floats(0, 1e9))
def test_retry_after_stays_where_sdks_heed_it(seconds: float) -> None:
    assert 1 <= int(errors.retry_after(seconds)["Retry-After"]) <= 60


def test_sdks_are_told_not_to_send_a_prompt_again_that_an_engine_had() -> None:
    assert errors.upstream_failed("x", sent=True).headers == {"x-should-retry": "false"}
    assert errors.upstream_failed("x", sent=False).headers == {}


TOLD = {"Retry-After": "7", "x-slotproxy-queue-position": "12"}


@pytest.mark.parametrize("refusal", [errors.queue_full(64, 7.0, 12), errors.queue_timeout(60.0, 7.0, 12)])
def test_whoever_had_no_slot_is_told_when_to_come_again_and_what_was_ahead(refusal: errors.Refusal) -> None:
    assert refusal.headers == TOLD


@pytest.mark.parametrize(("waiting", "said"), [(1, "1 request waiting"), (200, "200 requests waiting")])
def test_a_client_with_too_many_requests_waiting_is_told_how_many_it_has(waiting: int, said: str) -> None:
    refusal = errors.client_queue_full(waiting, 7.0, 12)
    assert (refusal.status, refusal.code, refusal.headers) == (429, "queue_full", TOLD)
    assert f"This client has {said} already" in refusal.message
