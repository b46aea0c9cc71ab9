"""An engine's answer that cannot be passed on, since its client was told 200 and a stream before it came (`pings`)."""

from typing import Any, Protocol

import msgspec

from slotproxy.proxy import errors
from slotproxy.proxy.engines.failure import Failure
from slotproxy.proxy.engines.heads import Head
from slotproxy.proxy.engines.observed import LARGEST, Refusal
from slotproxy.proxy.engines.relay import EngineConnection

_EXCERPT = 200  # characters of an answer that is not understood


class Destination(Protocol):
    """The client's side: an Answer."""

    def fail(self, failure: Failure) -> None:
        """See sink.Sink."""

    def keep(self, refusal: Refusal) -> None:
        """See observed.Destination."""

    def end_with(self, misfit: "Misfit") -> None:
        """All of it is here; the client has seen nothing of it."""

    def set_aside(self, misfit: "Misfit", connection: EngineConnection) -> None:
        """What follows on `connection` is the misfit's."""


class Misfit:
    """A sink after the head, and an observed.Destination. Keeps the beginning of the body."""

    def __init__(self, answer: Destination, status: int, instance: str) -> None:
        self._answer = answer
        self.status = status
        self.instance = instance
        self.body = b""

    def receive(self, data: bytes, complete: bool) -> Failure | None:
        self.body += data[: LARGEST - len(self.body)]
        return None

    def over(self) -> None:
        self._answer.end_with(self)

    def settle(self) -> None:
        raise AssertionError("no chunk passes by a misfit")

    def closed(self) -> Failure | None:
        return None

    def head(self, head: Head, length: int | None) -> Failure | None:
        raise AssertionError("one answer has one head")

    def whole(self, head: Head, body: bytes) -> Failure | None:
        raise AssertionError("one answer has one head")

    def fail(self, failure: Failure) -> None:
        self._answer.fail(failure)

    def keep(self, refusal: Refusal) -> None:
        self._answer.keep(refusal)

    def take_over(self, connection: EngineConnection) -> None:
        self._answer.set_aside(self, connection)


def as_refusal(status: int, body: bytes, path: str) -> errors.Refusal:
    """What the client is told instead: the engine's error object as it came, if it has the shape of `path`."""
    found = _error_object(body)
    if found is None:
        excerpt = " ".join(body[: 4 * _EXCERPT].decode("utf-8", "replace").split())[:_EXCERPT]
        return errors.engine_answered(status, excerpt)
    error = found["error"]
    refusal = errors.engine_answered(status, str(error.get("message", "")))
    if not path.startswith(errors.ANTHROPIC_PATH) or found.get("type") == "error":
        refusal.said = body.replace(b"\r", b" ").replace(b"\n", b" ")  # in JSON they mean no more than blanks
    return refusal


def _error_object(body: bytes) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("error"), dict) else None
