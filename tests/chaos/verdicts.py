"""What became of a request, judged against what had to become of it. Pure."""

import enum
import json
from dataclasses import dataclass
from typing import Any

from tests.chaos.orders import Manner, Order
from tests.clients import Head


class Verdict(enum.Enum):
    COMPLETED = "completed"
    FAILED = "failed with the right error"
    LEFT = "left by its client"
    WRONG = "wrong"
    HUNG = "hung"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    verdict: Verdict
    why: str = ""  # the error's code; for what is wrong, all that is known


# Status and code of every refusal a client may meet here.
RIGHT = {
    ("queue_full", 429),
    ("queue_timeout", 503),
    ("loading_model", 503),
    ("no_instances", 503),
    ("upstream_failed", 502),
    ("upstream_timeout", 504),
}
RETRY = {429: "retry-after", 503: "retry-after", 502: "x-should-retry", 504: "x-should-retry"}


def whole(order: Order, head: Head, body: bytes) -> Judged:
    """A strictly framed answer that came to its end."""
    if head.get("x-request-id") != order.name:
        return _wrong(order, f"it carries another request's id: {head}")
    refused = _refusal(head, body)
    if refused is not None:
        return refused
    if order.text is not None:
        return _as_spoken(order, head, body)
    if head.status != order.status or body != order.expected:
        return _wrong(order, f"status {head.status}, {len(body)} bytes: {body[:80]!r} ... {body[-80:]!r}")
    if head.get("x-tag") != order.name:
        return _wrong(order, "it is another request's answer")
    return Judged(verdict=Verdict.COMPLETED)


def cut(order: Order, head: Head, body: bytes, *, reset: bool = False) -> Judged:
    """An answer that visibly did not come to its end. By a reset the system loses what had not been read."""
    if head.get("x-request-id") != order.name:
        return _wrong(order, f"it carries another request's id: {head}")
    sound, event, rest = body.partition(b'data: {"error":')
    code = ""
    if event:
        error = json.loads(b'{"error":' + rest.split(b"\n")[0])["error"]
        code = error["code"]
        if code not in {"upstream_failed", "upstream_timeout"}:
            return _wrong(order, f"an error event with code {code}")
    elif not reset and _could_be_told(order, head):
        return _wrong(order, f"a stream was cut without an error event after {sound[-200:]!r}")
    if not _begins(order, sound):
        return _wrong(order, f"it was cut after {sound[-200:]!r}, which is not how the answer begins")
    return Judged(verdict=Verdict.FAILED, why=f"cut: {code or 'connection only'}")


def _could_be_told(order: Order, head: Head) -> bool:
    """Whether an error event could stand in what was cut: not among counted bytes, not where nobody reads."""
    is_stream = (head.get("content-type") or "").startswith("text/event-stream")
    return is_stream and head.get("transfer-encoding") == "chunked" and order.manner is Manner.PATIENT


def unanswered(order: Order, error: Exception) -> Judged:
    return _wrong(order, f"no answer at all: {error!r}")


def _wrong(order: Order, why: str) -> Judged:
    return Judged(verdict=Verdict.WRONG, why=f"{order.name} ({order.manner.name}, {dict(order.headers)}): {why}")


def _refusal(head: Head, body: bytes) -> Judged | None:
    """One of the proxy's own, whole and with what a client needs to go on."""
    if head.get("x-tag") is not None:
        return None
    try:
        error = json.loads(body)["error"]
        code = str(error["code"])
    except (ValueError, KeyError, TypeError):
        return None
    if (code, head.status) not in RIGHT:
        return None
    told = head.get(RETRY[head.status]) is not None
    safe = head.status == 502 and b"refused the connection" in body  # no engine had the prompt: SDKs may retry
    return Judged(verdict=Verdict.FAILED, why=f"{head.status} {code}") if told or safe else None


def _as_spoken(order: Order, head: Head, body: bytes) -> Judged:
    try:
        spoken = _spoken(body, done=True) if order.stream else _said(json.loads(body))
    except (ValueError, KeyError, IndexError, TypeError) as error:
        return _wrong(order, f"status {head.status}, no completion ({error!r}): {body[-300:]!r}")
    if head.status != 200 or spoken != order.text:
        return _wrong(order, f"status {head.status}: {spoken} instead of {order.text}")
    return Judged(verdict=Verdict.COMPLETED)


def _begins(order: Order, body: bytes) -> bool:
    if order.text is None:
        return order.expected is None or order.expected.startswith(body.removesuffix(b"\n\n")) or not body
    if not order.stream:
        return True  # a piece of JSON; no client can take it for an answer
    events = body.rpartition(b"\n\n")[0]
    return order.text[0].startswith(_spoken(events, done=False)[0])


def _said(completion: dict[str, Any]) -> tuple[str, str]:
    (choice,) = completion["choices"]
    return choice["message"]["content"], choice["finish_reason"]


def _spoken(stream: bytes, *, done: bool) -> tuple[str, str]:
    """Text and finish reason of an event stream. Raises ValueError for what is none or, if `done`, not whole."""
    lines = [line.removeprefix(b"data: ") for line in stream.split(b"\n") if line.startswith(b"data: ")]
    if done and (not lines or lines.pop() != b"[DONE]"):
        raise ValueError("no [DONE]")
    text, finish = "", ""
    for line in lines:
        if line == b"[DONE]":
            continue
        for choice in json.loads(line)["choices"]:
            text += choice["delta"].get("content") or ""
            finish = choice["finish_reason"] or finish
    return text, finish
