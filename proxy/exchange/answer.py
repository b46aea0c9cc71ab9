"""The client's side of a request: takes the engine's answer and puts it on the client's transport as it comes.

One segment from the engine is at most one write to the client. Until something was written the request may still be
tried elsewhere; afterwards a failure is an error event and a cut connection, never a clean end: SDKs take a clean end
for success.
"""

from abc import ABC, abstractmethod
from time import monotonic

from slotproxy.instances.upstream import REFUSALS, Observer
from slotproxy.proxy import errors
from slotproxy.proxy.accounts.meter import NOTHING, Meter, Usage, usage_of
from slotproxy.proxy.accounts.silence import Silence
from slotproxy.proxy.clients.connection import ClientConnection
from slotproxy.proxy.clients.head import RequestHead
from slotproxy.proxy.engines.failure import Failure, Kind
from slotproxy.proxy.engines.heads import Head
from slotproxy.proxy.engines.observed import Refusal, error_event
from slotproxy.proxy.engines.relay import EngineConnection
from slotproxy.proxy.exchange import pings
from slotproxy.proxy.exchange.misfit import Misfit

_SAY_THEIR_END = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
_UNUSUAL = REFUSALS | {204, 304}  # statuses of answers that do not simply pass
UNREAD_LIMIT = 4 * 1024 * 1024  # bytes kept for a slow client of an engine that would drop its stream


class Answer(ABC):
    """A sink.Sink for one attempt after the other, until one answer was complete or could not be taken back."""

    __slots__ = (
        "_aside", "_chunked", "_client", "_connection", "_counted", "_head", "_observer", "_own", "_passing",
        "_silence", "_whole", "begun", "complete", "expects_stream", "first_byte", "first_token", "keep_alive",
        "last_byte", "meter", "paused_since", "pinged", "refusal", "request", "status", "stream",
    )  # fmt: skip

    first_byte: float
    last_byte: float
    begun: bool  # something of an answer was written to the client
    complete: bool
    expects_stream: bool  # the request asks for one
    stream: bool  # the answer is one
    paused_since: float | None
    pinged: float  # when the client was last told to wait, in a stream that has begun before an answer did; 0: never
    refusal: Refusal | Misfit | None  # an engine's answer, complete, and kept from the client so far
    meter: Meter | None
    _own: bytes  # header lines of the proxy's
    _connection: EngineConnection | None
    _observer: Observer | None
    _aside: Refusal | Misfit | None
    _head: bytes | None
    _whole: bytes | None  # the body, where all of it came at once
    _silence: Silence | None
    _chunked: bool
    _counted: bool  # the client was told how many bytes would come
    _passing: bool  # whole chunks no longer come by here

    def __init__(self, request: RequestHead, client: ClientConnection) -> None:
        self.request = request
        self.keep_alive = request.keep_alive
        self.status = 0
        self.first_token = self.first_byte = self.last_byte = self.pinged = 0.0
        self.begun = self.complete = self.expects_stream = self.stream = False
        self.paused_since = self.refusal = self.meter = None
        self._client = client
        self._own = b""
        self._connection = self._observer = self._aside = self._head = self._whole = self._silence = None
        self._chunked = self._counted = self._passing = False

    def _reset(self) -> None:
        """The attempt before is forgotten."""
        self.first_byte = self.last_byte = 0.0
        self.stream = self._chunked = self._counted = self._passing = False
        self.meter = self._head = self._whole = self._silence = None

    @abstractmethod
    def answer_begun(self) -> None:
        """The client gets this answer and no other: something of it is written."""

    @abstractmethod
    def attempt_over(self, failure: Failure | None) -> None:
        """What was sent has come to its end. None: the answer is complete, or kept in `refusal`."""

    @property
    def size(self) -> int:
        """Bytes of the body so far."""
        if self._whole is not None:
            return len(self._whole)
        return 0 if self.meter is None else self.meter.size

    @property
    def usage(self) -> Usage:
        """What the engine said of tokens."""
        if self._whole is not None:
            return usage_of(self._whole)
        return NOTHING if self.meter is None else self.meter.usage()

    @property
    def heard(self) -> float:
        """When the engine last gave a sign of life."""
        return self._connection.heard if self._connection is not None else monotonic()

    def send(
        self, connection: EngineConnection, head: bytes, body: bytes, own: bytes, observer: Observer | None = None
    ) -> None:
        """Send a request and relay its answer; `own` is header lines for the client. `attempt_over` is called in the
        end.

        `observer` is told of the answer; a refusal is not relayed then, but kept in `refusal` until `release`.
        """
        if self.status:
            self._reset()
        self._own = own
        self._observer = observer
        self._connection = connection
        connection.send(head, body, self, head_only=self.request.method == "HEAD")
        if self._client.writing_paused:  # by an earlier answer it has not read: nobody will tell us again
            self.pause()

    def abandon(self) -> None:
        """Nobody wants the answer any longer: reset the engine's connection."""
        connection, aside = self._connection, self._aside
        self._connection = self._aside = None
        if connection is not None and (connection.serves(self) or (aside is not None and connection.serves(aside))):
            connection.abort()

    # sink.Sink

    def head(self, head: Head, length: int | None) -> Failure | None:
        request = self.request
        self.status = status = head.status
        try:
            wire = head.wire
        except ValueError as error:
            return Failure(Kind.MALFORMED, str(error))
        without_body = status in (204, 304)
        bodiless = without_body or request.method == "HEAD"
        self.stream = stream = wire.is_stream and not bodiless
        if self.pinged:
            self._follow_pings(head)
            return None
        framing = b""
        if length is not None and not without_body:
            self._counted = True
            framing = b"Content-Length: %d\r\n" % length
        elif not bodiless and request.http11:
            self._chunked = True
            framing = b"Transfer-Encoding: chunked\r\n"
        elif not bodiless:
            self.keep_alive = False
        if stream:
            framing += b"X-Accel-Buffering: no\r\n"
        if not self.keep_alive:
            framing += b"Connection: close\r\n"
        elif not request.http11:
            framing += b"Connection: keep-alive\r\n"
        self._head = b"%b%b%b\r\n" % (wire.lines, self._own, framing)
        if self._observer is not None:
            self._step_aside(self._observer, head)
        return None

    def whole(self, head: Head, body: bytes) -> Failure | None:
        request, status, wire, transport = self.request, head.status, head.wire, self._client.transport
        if (
            (wire.is_stream or status in _UNUSUAL or not body or transport is None)
            or not (self.keep_alive and request.http11)
            or request.method == "HEAD"
            or self.pinged
        ):  # something besides its length has to be said of it, or done about it
            failure = self.head(head, len(body))
            return failure or (self._aside or self).receive(body, True)
        if self._observer is not None:
            self._observer(status, head.fields if wire.tells_limits else (), b"")
        self.status = status
        self._whole = body
        transport.write(b"".join((wire.lines, self._own, b"Content-Length: %d\r\n\r\n" % len(body), body)))
        self.begun = self.complete = True
        return None

    def receive(self, data: bytes, complete: bool) -> Failure | None:
        transport = self._client.transport
        if transport is None:  # the client has left
            return None
        if complete and not data and not self.first_byte and self._is_missing_a_body():
            return Failure(Kind.EMPTY, "it answered 200 without a body")
        if data:
            self._account(data, complete)
            if self._chunked:
                data = b"%x\r\n%b\r\n" % (len(data), data)
        if complete and self._chunked:
            data += b"0\r\n\r\n"
        if self._head is not None and (data or complete or (self.stream and not self.pinged)):
            data = self._head + data
            self._head = None
            self.begun = True
            self.answer_begun()
        if data:
            transport.write(data)
            if self.paused_since is not None and transport.get_write_buffer_size() > UNREAD_LIMIT:
                self._hold()
        if complete:
            self._report()
            self.complete = True
            self.last_byte = self.heard
        elif self._chunked and not self._passing:
            self._let_pass()
        return None

    def over(self) -> None:
        self._connection = self._aside = self.paused_since = None
        self.attempt_over(None)

    def settle(self) -> None:
        if self.meter is not None:
            self.meter.settle()

    def closed(self) -> Failure | None:
        """A process that dies closes its connections, too: where a stream says itself that it ends, it has to have."""
        if self.stream and self.request.path in _SAY_THEIR_END and (self.meter is None or not self.meter.ended):
            return Failure(Kind.RESET, "it closed the connection in the middle of its answer")
        return self.receive(b"", True)

    def fail(self, failure: Failure) -> None:
        self._report()
        self.last_byte = self.heard
        self._end(failure)

    # observed.Destination

    def _step_aside(self, observer: Observer, head: Head) -> None:
        connection, wire_head = self._connection, self._head
        if connection is None or wire_head is None:
            return
        if head.status in REFUSALS:
            self._aside = Refusal(self, observer, connection, head.status, head.fields, wire_head, self._chunked)
            connection.hand_over(self._aside)
        else:
            observer(head.status, head.fields, b"")

    def _follow_pings(self, head: Head) -> None:
        """The client has a head already, which said 200 and a stream of chunks: what is none cannot follow."""
        connection, observer, status = self._connection, self._observer, head.status
        if connection is None:
            return
        fits = self.stream and status < 300
        if fits:
            self._chunked = True
            self._head = pings.told(self._own)
        else:
            misfit = Misfit(self, status, connection.upstream.instance)
            if observer is not None and status in REFUSALS:
                self._aside = Refusal(misfit, observer, connection, status, head.fields, b"", chunked=True)
                connection.hand_over(self._aside)
                return
            self.set_aside(misfit, connection)
        if observer is not None:
            observer(status, head.fields, b"")

    def set_aside(self, misfit: Misfit, connection: EngineConnection) -> None:
        """What follows on `connection` cannot be passed on."""
        self._aside = misfit
        connection.hand_over(misfit)

    def end_with(self, misfit: Misfit) -> None:
        """All of an answer is here that cannot be passed on."""
        self.complete = True
        self.refusal = misfit
        self._end(None)

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
        self._end(None)

    def release(self, refusal: Refusal) -> None:
        """Give the client the refusal after all."""
        self._reset()
        self.status, self._head, self._chunked = refusal.status, refusal.wire_head, refusal.chunked
        self.receive(refusal.body, True)

    # back-pressure

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
        if self.meter is None:
            return False
        if self._silence is None:
            self._silence = Silence(now)
        return self._silence.lasts(self.meter, now, patience)

    @property
    def filler(self) -> bytes:
        """What may be written between two chunks without changing the body: the next one's size gets a leading zero."""
        return b"0" if (self._chunked or self.pinged) and not self.complete else b""

    @property
    def is_under_way(self) -> bool:
        """Whether a request was sent for it and the answer is not complete."""
        return self._connection is not None

    def forgive(self, seconds: float) -> None:
        """The proxy itself stood still for so long: neither the engine nor the client was slow meanwhile."""
        self._silence = None
        if self.paused_since is not None:
            self.paused_since += seconds
        if self._connection is not None:
            self._connection.forgive(seconds)

    def cut_short(self, failure: Failure) -> None:
        """End the attempt from outside: a deadline has passed."""
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
        is_open = self.pinged or (self.stream and not self._counted)
        if is_open and not self._client.writing_paused:
            event = refusal.event(self.request.path)
            event = event if self.meter is None or self.meter.at_boundary else b"\n\n" + event
            in_chunks = self._chunked or self.pinged
            transport.write(b"%x\r\n%b\r\n" % (len(event), event) if in_chunks else event)
            transport.close()
        else:
            transport.abort()

    def _account(self, data: bytes, complete: bool) -> None:
        meter = self.meter
        if meter is None:
            self.first_byte = self.heard
            if complete and not self.stream:
                self._whole = data
                return
            meter = self.meter = Meter(stream=self.stream)
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
        return self.status == 200 and self.request.method == "POST" and not self.expects_stream

    def _hold(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def _end(self, failure: Failure | None) -> None:
        self._connection = self._aside = None
        self.paused_since = None
        self.attempt_over(failure)
