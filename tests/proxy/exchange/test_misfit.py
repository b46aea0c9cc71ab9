import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.proxy.engines.failure import Failure
from slotproxy.proxy.engines.observed import LARGEST, Refusal
from slotproxy.proxy.engines.relay import EngineConnection
from slotproxy.proxy.exchange.misfit import Misfit, as_refusal

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
OPENAI = b'{"error":{"code":400,"message":"too long","type":"exceed_context_size_error","n_ctx":2048}}'
ANTHROPIC = b'{"type":"error","error":{"type":"invalid_request_error","message":"too long"}}'


class Answer:
    def __init__(self) -> None:
        self.came: list[object] = []

    def fail(self, failure: Failure) -> None:
        self.came.append(failure)

    def keep(self, refusal: Refusal) -> None:
        self.came.append(refusal)

    def end_with(self, misfit: Misfit) -> None:
        self.came.append(misfit)

    def set_aside(self, misfit: Misfit, connection: EngineConnection) -> None:
        self.came.append(connection)


@given(st.lists(st.sampled_from([0, 1, LARGEST - 1, LARGEST, 2 * LARGEST]), max_size=4))
def test_the_beginning_of_a_body_is_kept_and_no_more(sizes: list[int]) -> None:
    pieces = [b"%d" % number * size for number, size in enumerate(sizes)]
    answer = Answer()
    misfit = Misfit(answer, 400, "0")
    for piece in pieces:
        assert misfit.receive(piece, False) is None
    assert misfit.closed() is None
    misfit.over()
    assert misfit.body == b"".join(pieces)[:LARGEST]
    assert answer.came == [misfit]


@pytest.mark.parametrize(("path", "body"), [(CHAT, OPENAI), (MESSAGES, ANTHROPIC)])
@pytest.mark.parametrize("breaks", [b"", b"\n", b"\r\n  "])
def test_an_engines_error_object_is_told_as_it_came(path: str, body: bytes, breaks: bytes) -> None:
    refusal = as_refusal(400, body.replace(b",", b"," + breaks), path)
    event = refusal.event(path)
    assert event.count(b"\n") == (3 if path == MESSAGES else 2)
    assert b"\r" not in event
    assert json.loads(event.partition(b"data: ")[2]) == json.loads(body)
    assert (refusal.status, refusal.code, refusal.message) == (400, "engine_answered", "too long")


def test_one_of_another_shape_is_told_in_that_of_the_path() -> None:
    told = json.loads(as_refusal(429, OPENAI, MESSAGES).body(MESSAGES))
    assert told == {"type": "error", "error": {"type": "rate_limit_error", "message": "too long"}}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"busy", "busy"),
        (b"", "The engine answered 503."),
        (b"<p>\r\n no\xff" + b"x" * 9999, "<p> no\ufffd" + "x" * 193),
        (b'{"error":"busy"}', '{"error":"busy"}'),
        (b"[" * 5000, "[" * 200),
    ],
)
def test_what_is_no_error_object_is_told_as_words(body: bytes, message: str) -> None:
    refusal = as_refusal(503, body, CHAT)
    assert json.loads(refusal.body(CHAT))["error"] == {
        "message": message, "type": "server_error", "param": None, "code": "engine_answered",
    }  # fmt: skip


@pytest.mark.parametrize(("status", "kind"), [(400, "invalid_request_error"), (429, "rate_limit_error")])
def test_its_status_tells_what_kind_of_error_it_is(status: int, kind: str) -> None:
    assert as_refusal(status, b"no", CHAT).type == kind


def test_a_good_answer_that_is_no_stream_is_the_engines_fault() -> None:
    refusal = as_refusal(200, b'{"choices":[]}', CHAT)
    assert (refusal.status, refusal.message) == (502, "The engine answered without a stream.")


@given(st.binary(), st.sampled_from([200, 400, 429, 500]), st.sampled_from([CHAT, MESSAGES]))
def test_whatever_it_is_one_event_comes_of_it(body: bytes, status: int, path: str) -> None:
    event = as_refusal(status, body, path).event(path)
    assert "error" in json.loads(event.rpartition(b"data: ")[2])
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == (3 if path == MESSAGES else 2)
