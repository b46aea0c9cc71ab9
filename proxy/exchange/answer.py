"""The client's side of a request: takes the engine's answer and puts it on the client's transport as it comes.

One segment from the engine is at most one write to the client. Until something was written the request may still be
tried elsewhere; afterwards a failure is an error event and a cut connection, never a clean end: SDKs take a clean end
for success.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from slotproxy.instances.upstream import REFUSALS, Upstream
from slotproxy.proxy import errors
from slotproxy.proxy.accounts.meter import Meter
from slotproxy.proxy.accounts.silence import Silence
from slotproxy.proxy.clients.bodies import Wanted
from slotproxy.proxy.clients.front import ClientConnection
from slotproxy.proxy.engines.observed import Observer, Refusal, error_event
from slotproxy.proxy.engines.relay import EngineConnection
from slotproxy.proxy.engines.sink import Failure, Kind
from slotproxy.proxy.headers import Field, engine_head

_SAY_THEIR_END = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
UNREAD_LIMIT = 4 * 1024 * 1024  # bytes kept for a slow client of an engine that would drop its stream


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestHead:
    """The head of a client's request, checked, as far as it matters for its answer and its way to an engine.

    The head of another request may be the same to the byte, and this one then serves that too.
    """

    method: str
    target: bytes  # origin form, as it came
    path: str  # the target up to "?"
    fields: tuple[Field, ...]
    connection: bool  # there is a Connection field among them
    request_id: str | None  # the client's own, if it may be used
    origin: str | None  # of the page that asks
    http11: bool
    keep_alive: bool
    check: Callable[[bytes], Wanted]  # the body. Raises Refusal
    own_fields: bytes = b""  # finished header lines for the client: CORS
    lines: dict[Upstream, bytes] = field(default_factory=dict)  # what was made of it for engines


class Request(NamedTuple):
    """One client request."""

    head: RequestHead
    body: bytes
    request_id: str
    streaming: bool  # the body asks for a stream


class Answer:
    """An exchange.Sink for one attempt after the other, until one answer was complete or could not be taken back."""

    __slots__ = (
        "_aside", "_chunked", "_client", "_connection", "_counted", "_head", "_observer", "_outcome", "_own",
        "_passing", "_request", "_silence", "begun", "complete", "first_byte", "first_token", "keep_alive", "last_byte",
        "meter", "paused_since", "refusal", "status", "stream",
    )  # fmt: skip

    def __init__(self, request: Request, client: ClientConnection) -> None:
        self._request = request
        self._client = client
        self._own = b""
        self._connection: EngineConnection | None = None
        self._outcome: asyncio.Future[Failure | None] | None = None
        self._observer: Observer | None = None
        self._aside: Refusal | None = None
        self.refusal: Refusal | None = None  # of an upstream, complete, and kept from the client so far
        self.status = 0
        self.begun = False  # something was written to the client
        self.complete = False
        self.keep_alive = request.head.keep_alive
        self.first_token = 0.0
        self.paused_since: float | None = None
        self._reset()

    def _reset(self) -> None:
        self._head: bytes | None = None
        self._chunked = False
        self._counted = False  # the client was told how many bytes would come
        self._passing = False  # whole chunks no longer come by here
        self._silence: Silence | None = None
        self.first_byte = self.last_byte = 0.0
        self.stream = False
        self.meter: Meter | None = None

    @property
    def size(self) -> int:
        """Bytes of the body so far."""
        return 0 if self.meter is None else self.meter.size

    @property
    def heard(self) -> float:
        """When the engine last gave a sign of life."""
        return self._connection.heard if self._connection is not None else monotonic()

    async def take(
        self, connection: EngineConnection, request: bytes, own: bytes, observer: Observer | None = None
    ) -> Failure | None:
        """Send `request` and relay its answer; `own` is header lines for the client. None: the answer is complete.

        `observer` is told of it; a refusal is not relayed then, but kept in `refusal` until `release`.
        Cancelling it (the client left) resets the engine's connection.
        """
        self._reset()
        self._own = own
        self._observer = observer
        self._connection = connection
        self._outcome = asyncio.get_running_loop().create_future()
        self._client.writer = self
        try:
            connection.send(request, self, head_only=self._request.head.method == "HEAD")
            if self._client.writing_paused:  # by an earlier answer it has not read: nobody will tell us again
                self.pause()
            return await self._outcome
        finally:
            if connection.serves(self):  # cancelled: the client left
                connection.abort()
            if self._aside is not None:
                if connection.serves(self._aside):
                    connection.abort()
                self._aside = None
            self._client.writer = None
            self._connection = None
            self.paused_since = None

    # exchange.Sink

    def head(self, status: int, reason: bytes, fields: tuple[Field, ...], length: int | None) -> Failure | None:
        request = self._request
        self.status = status
        try:
            head = engine_head(status, reason, fields)
        except ValueError as error:
            return Failure(Kind.MALFORMED, str(error))
        bodiless = status in (204, 304) or request.head.method == "HEAD"
        self.stream = head.is_stream and not bodiless
        framing = b""
        if length is not None and status not in (204, 304):
            self._counted = True
            framing = b"Content-Length: %d\r\n" % length
        elif not bodiless and request.head.http11:
            self._chunked = True
            framing = b"Transfer-Encoding: chunked\r\n"
        elif not bodiless:
            self.keep_alive = False
        if self.stream:
            framing += b"X-Accel-Buffering: no\r\n"
        if not self.keep_alive:
            framing += b"Connection: close\r\n"
        elif not request.head.http11:
            framing += b"Connection: keep-alive\r\n"
        self._head = b"%b%b%b%b\r\n" % (head.lines, self._own, request.head.own_fields, framing)
        self.meter = Meter(stream=self.stream)
        if self._observer is not None:
            self._step_aside(self._observer, status, fields)
        return None

    def receive(self, data: bytes, complete: bool) -> Failure | None:
        transport = self._client.transport
        if transport is None or transport.is_closing():  # the handler is being cancelled
            return None
        if complete and not data and not self.first_byte and self._is_missing_a_body():
            return Failure(Kind.EMPTY, "it answered 200 without a body")
        if data:
            self._account(data)
            if self._chunked:
                data = b"%x\r\n%b\r\n" % (len(data), data)
        if complete and self._chunked:
            data += b"0\r\n\r\n"
        if self._head is not None and (data or complete or self.stream):
            data = self._head + data
            self._head = None
            self.begun = True
        if data:
            transport.write(data)
            if self.paused_since is not None and transport.get_write_buffer_size() > UNREAD_LIMIT:
                self._hold()
        if complete:
            self._report()
            self._finish()
        elif self._chunked and not self._passing:
            self._let_pass()
        return None

    def settle(self) -> None:
        if self.meter is not None:
            self.meter.settle()

    def closed(self) -> Failure | None:
        """A process that dies closes its connections, too: where a stream says itself that it ends, it has to have."""
        if (
            self.stream
            and self._request.head.path in _SAY_THEIR_END
            and self.meter is not None
            and not self.meter.ended
        ):
            return Failure(Kind.RESET, "it closed the connection in the middle of its answer")
        return self.receive(b"", True)

    def fail(self, failure: Failure) -> None:
        self._report()
        self.last_byte = self.heard
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(failure)

    # observed.Destination

    def _step_aside(self, observer: Observer, status: int, fields: tuple[Field, ...]) -> None:
        connection, head = self._connection, self._head
        if connection is None or head is None:
            return
        if status in REFUSALS:
            self._aside = Refusal(self, observer, connection, status, fields, head, self._chunked)
            connection.hand_over(self._aside)
        else:
            observer(status, fields, b"")

    def _report(self) -> None:
        """Tell the observer of an error event at the end of a stream."""
        observer, self._observer = self._observer, None
        if observer is not None and self.stream and self.meter is not None:
            event = error_event(self.meter.tail)
            if event is not None:
                observer(None, (), event)

    def take_over(self, connection: EngineConnection) -> None:
        connection.hand_over(self)

    def keep(self, refusal: Refusal) -> None:
        self.refusal = refusal
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(None)

    def release(self, refusal: Refusal) -> None:
        """Give the client the refusal after all."""
        self._reset()
        self.status, self._head, self._chunked = refusal.status, refusal.wire_head, refusal.chunked
        self.meter = Meter(stream=False)
        self.receive(refusal.body, True)

    # front.Writer

    def pause(self) -> None:
        """The client reads slower than the engine writes."""
        self.paused_since = monotonic()
        if self._connection is not None:
            self._passing = False
            self._connection.ask_first()  # what its client does not read is counted
            if not self._connection.upstream.write_stall:
                self._hold()

    def resume(self) -> None:
        self.paused_since = None
        self._silence = None
        if self._connection is not None:
            self._connection.resume()

    # the end

    def says_nothing(self, now: float, patience: float) -> bool:
        """Whether a stream has brought nothing but comments for `patience` seconds."""
        if not self.stream or self.meter is None:
            return False
        if self._silence is None:
            self._silence = Silence(now)
        return self._silence.lasts(self.meter, now, patience)

    def forgive(self, seconds: float) -> None:
        """The proxy itself stood still for so long: neither the engine nor the client was slow meanwhile."""
        self._silence = None
        if self.paused_since is not None:
            self.paused_since += seconds
        if self._connection is not None:
            self._connection.forgive(seconds)

    def break_off(self, failure: Failure) -> None:
        """End the exchange from outside: a deadline has passed."""
        connection = self._connection
        if connection is not None and not self.complete:
            connection.abort()
            self.fail(failure)

    def cut(self, refusal: errors.Refusal) -> None:
        """The answer had begun and will not be completed: say it in the stream and end it visibly incomplete."""
        self.keep_alive = False
        transport = self._client.transport
        if transport is None or transport.is_closing():
            return
        # Where bytes are counted, an event would stand for those that are missing: a clean end.
        if self.stream and self.meter is not None and not self._counted and not self._client.writing_paused:
            event = refusal.event(self._request.head.path)
            event = event if self.meter.at_boundary else b"\n\n" + event
            transport.write(b"%x\r\n%b\r\n" % (len(event), event) if self._chunked else event)
            transport.close()
        else:
            transport.abort()

    def _account(self, data: bytes) -> None:
        meter = self.meter
        if not self.first_byte:
            self.first_byte = self.heard
        if meter is None:
            return
        meter.feed(data)
        if self.stream and not self.first_token and meter.has_event:
            self.first_token = self.heard

    def _let_pass(self) -> None:
        """Once the head is out and the first token has come, a whole chunk needs nothing but to be passed on."""
        ready = self.begun and self.paused_since is None and (self.first_token or not self.stream)
        if ready and self.meter is not None and self._connection is not None:
            self._passing = True
            self._connection.let_pass(self._client, self.meter.pieces)

    def _is_missing_a_body(self) -> bool:
        return self.status == 200 and self._request.head.method == "POST" and not self._request.streaming

    def _hold(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def _finish(self) -> None:
        self.complete = True
        self.last_byte = self.heard
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(None)
