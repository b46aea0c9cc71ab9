"""What the owner of an upstream wants to hear of its answers: of a server whose rate limits we do not know.

A refusal gets a sink of its own, between the connection and the client's answer; a stream passes as any other does, and
its end is looked at.
"""

from typing import Protocol

import msgspec

from slotproxy.instances.upstream import Observer
from slotproxy.proxy.engines.failure import Failure
from slotproxy.proxy.engines.heads import Head
from slotproxy.proxy.engines.relay import EngineConnection
from slotproxy.proxy.headers import Field

_ERROR = b'"error"'
LARGEST = 64 * 1024  # bytes of a refusal that are kept back; a larger one passes as it comes


class Destination(Protocol):
    """The client's side: an Answer."""

    def receive(self, data: bytes, complete: bool) -> Failure | None:
        """See sink.Sink."""

    def fail(self, failure: Failure) -> None:
        """See sink.Sink."""

    def keep(self, refusal: "Refusal") -> None:
        """All of the refusal is here; the client has seen nothing of it."""

    def take_over(self, connection: EngineConnection) -> None:
        """What follows on `connection` is yours after all."""


class Refusal:
    """A refusal, kept back until it is known whether another upstream takes the request. A sink after the head."""

    def __init__(
        self,
        answer: Destination,
        observer: Observer,
        connection: EngineConnection,
        status: int,
        fields: tuple[Field, ...],
        head: bytes,
        chunked: bool,
    ) -> None:
        self._answer = answer
        self._observer = observer
        self._connection = connection
        self._fields = fields
        self.instance = connection.upstream.instance
        self.status = status
        self.wire_head = head  # as the client is to see it
        self.chunked = chunked  # so is the body
        self.body = b""

    def receive(self, data: bytes, complete: bool) -> Failure | None:
        self.body += data
        if len(self.body) > LARGEST:
            self._observer(self.status, self._fields, self.body)
            self._answer.take_over(self._connection)
            return self._answer.receive(self.body, complete)
        if complete:
            self._observer(self.status, self._fields, self.body)
        return None

    def over(self) -> None:
        self._answer.keep(self)

    def settle(self) -> None:
        raise AssertionError("no chunk passes by a refusal")

    def closed(self) -> Failure | None:
        return self.receive(b"", True)

    def head(self, head: Head, length: int | None) -> Failure | None:
        raise AssertionError("one answer has one head")

    def whole(self, head: Head, body: bytes) -> Failure | None:
        raise AssertionError("one answer has one head")

    def fail(self, failure: Failure) -> None:
        self._answer.fail(failure)


def error_event(tail: bytes) -> bytes | None:
    """The data of the last event in `tail` that holds an error object, OpenAI's or Anthropic's.

    Such an event is how a refusal comes whose status had to be a good one: as the last of a stream.
    """
    if _ERROR not in tail:
        return None
    for line in reversed(tail.split(b"\n")):
        if line.startswith(b"data:") and _ERROR in line:
            data = line.removeprefix(b"data:").strip()
            try:
                found = msgspec.json.decode(data)
            except msgspec.DecodeError:
                continue
            if isinstance(found, dict) and isinstance(found.get("error"), dict):
                return data
    return None
