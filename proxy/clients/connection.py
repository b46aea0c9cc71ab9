"""One client's connection: reads its requests one after another and gives each to an exchange that answers it.

Everything happens in the event loop's callbacks: a request that needs to wait for nothing makes no task and no future.
While a request is being answered, what the client sends beyond it is held back, and from `HELD` bytes on not even read.
A connection never leaves the order of its messages: one head, one body, one answer, then the next.
"""

import asyncio
import enum
import logging
import math
import socket
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Protocol, cast

from slotproxy.proxy.clients.chunked import ChunkedBody
from slotproxy.proxy.clients.head import HeadReader, RequestHead
from slotproxy.proxy.errors import (
    Refusal,
    body_timeout,
    head_timeout,
    malformed,
    no_room_for_bodies,
    too_large,
)

if TYPE_CHECKING:
    from slotproxy.proxy.clients.front import Front

logger = logging.getLogger(__name__)

IDLE = 75.0  # seconds for which a connection is kept between two requests
HEAD = 60.0  # seconds a head may take
SILENCE = 30.0  # seconds between two pieces of a body
LONGEST = 300.0  # seconds for a whole body
LINGER = 1.0  # seconds for which what a client still sends is read and thrown away, so that it can read its answer
CLOSING = 5.0  # seconds a client has to take what was written before its connection closed
UNREAD = 60.0  # seconds for which answers of ours may wait for a client to read them
HALF_CLOSED = 0.5  # seconds after which a client that ended its side is asked whether it is there
RESET_LOOK = 0.1  # seconds between looks at what its system said
HELD = 64 * 1024  # bytes of later requests that are held back

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"  # an interim answer, which every client skips


class Reading(enum.Enum):
    """What the next byte belongs to."""

    HEAD = "head"
    LENGTH = "body of a known length"
    CHUNKED = "chunked body"
    NOTHING = "nothing: whatever comes is thrown away"


_HEAD, _LENGTH, _CHUNKED, _NOTHING = Reading  # looked up often, and an enum's class takes its time


class Handler(Protocol):
    """What the connections give requests to."""

    def begin(self, head: RequestHead, client: "ClientConnection") -> "Exchange":
        """The exchange that will answer a request with this head."""

    def malformed(self, client: "ClientConnection", refusal: Refusal) -> None:
        """Answer what is no request with `refusal`, and close."""


class Exchange(Protocol):
    """One request being answered. No method may block or raise."""

    @property
    def body_limit(self) -> int:
        """Bytes its body may have."""

    def admit(self, *, whole: bool) -> None:
        """Its head is here: refuse it now, or let its body come. `whole`: that is here, too."""

    def serve(self, body: bytes) -> None:
        """All of its body is here."""

    def refuse(self, refusal: Refusal) -> None:
        """Something is wrong with its body."""

    @property
    def filler(self) -> bytes:
        """What may be written to the client now without meaning anything to it; empty: nothing may."""

    def client_left(self) -> None:
        """There is nobody to answer."""

    def pause(self) -> None:
        """The client reads slower than it is written to."""

    def resume(self) -> None:
        """It has caught up."""


class ClientConnection(asyncio.Protocol):
    """The server's side of one client connection."""

    __slots__ = (
        "_body_began", "_charged", "_chunks", "_closing", "_deadline", "_ended", "_exchange", "_front", "_head",
        "_head_is_due",
        "_held", "_in_loop", "_missing", "_pieces", "_reading", "_reading_paused", "_size", "_timer", "peer",
        "transport", "writing_paused",
    )  # fmt: skip

    def __init__(self, front: "Front") -> None:
        self._front = front
        self.transport: asyncio.Transport | None = None
        self.peer = ""  # the client's address
        self.writing_paused = False
        self._reading = _HEAD
        self._head = HeadReader()
        self._head_is_due = False  # a part of one has come, and the deadline is the rest's
        self._exchange: Exchange | None = None
        self._pieces: list[bytes] = []  # of the body that is coming
        self._size = 0  # bytes of it so far
        self._missing = 0  # bytes of it that are still to come
        self._chunks: ChunkedBody | None = None
        self._charged = 0  # bytes of bodies that are held on account of this connection
        self._body_began = 0.0
        self._held = b""
        self._in_loop = False  # `_read` is at work further up the stack
        self._reading_paused = False
        self._ended = False  # the client has ended its side
        self._closing = False
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<ClientConnection {self.peer}, reading {self._reading.value}>"

    @property
    def is_idle(self) -> bool:
        """Whether no request of it is being read or answered; the head of one may be coming, slowly."""
        return self._exchange is None and self._reading is _HEAD

    @property
    def deadline(self) -> float:
        """When something has to have happened, on the monotonic clock."""
        return self._deadline

    def forgive(self, seconds: float) -> None:
        """The proxy itself stood still for so long."""
        self._deadline += seconds
        self._body_began += seconds

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if isinstance(peer, tuple) else ""
        self._deadline = monotonic() + IDLE
        self._front.opened(self)

    def connection_lost(self, error: BaseException | None) -> None:
        self.transport = None
        self._stop_timer()
        self._front.lost(self)
        self._held = b""
        exchange, self._exchange = self._exchange, None
        self.let_body_go()
        if exchange is not None:
            exchange.client_left()

    def data_received(self, data: bytes) -> None:
        if self._reading is _HEAD and (self._exchange is not None or self._held or self.writing_paused):
            self._hold(data)
        elif self._reading is not _NOTHING:
            self._read(data)

    def eof_received(self) -> bool:
        """A client may end its side and still wait for its answer; one that is gone looks the same at first."""
        transport = self.transport
        exchange = self._exchange
        if exchange is None or self._reading is not _HEAD or transport is None or not transport.can_write_eof():
            return False
        self._ended = True
        self._start_timer(HALF_CLOSED, self._probe_client)
        return True

    def pause_writing(self) -> None:
        self.writing_paused = True
        if self._exchange is not None:
            self._exchange.pause()
        else:
            self._deadline = monotonic() + UNREAD

    def resume_writing(self) -> None:
        self.writing_paused = False
        if self._exchange is not None:
            self._exchange.resume()
        elif not self._closing:
            self._deadline = monotonic() + IDLE
            self._go_on()

    # for the exchange

    def answered(self, *, keep_alive: bool) -> None:
        """The answer to the request is written, all of it."""
        self._exchange = None
        if self._charged:
            self._front.bodies_held -= self._charged
            self._charged = 0
        if not keep_alive or self._front.closing:
            self.close()
            return
        self._deadline = monotonic() + IDLE
        if self._reading is not _HEAD:  # its body is still coming: if soon, the connection can be used again
            self._pieces = []
            self._start_timer(LINGER, self.close)
        elif self._held or self._ended:
            self._stop_timer()
            self._go_on()

    def let_body_go(self) -> None:
        """The body of the request is needed no longer."""
        self._front.bodies_held -= self._charged
        self._charged = 0

    def close(self) -> None:
        """Close once the client has had the time to read what was written."""
        transport = self.transport
        if transport is None or (self._closing and self._reading is _NOTHING):
            return
        self._closing = True
        self._reading = _NOTHING
        self._held = b""
        self._deadline = math.inf
        self._resume_reading()
        self._stop_timer()
        if not (self._ended or transport.is_closing()) and transport.can_write_eof():
            # Closed now, the connection would be reset by what the client may still send, and the answer lost with it.
            transport.write_eof()
            self._start_timer(LINGER, self._shut)
        else:
            self._shut()

    def abort(self) -> None:
        """Close now; what the client has not read is lost."""
        self._closing = True
        if self.transport is not None:
            self.transport.abort()

    # deadlines

    def expire(self, now: float) -> None:
        """`deadline` has passed."""
        self._deadline = math.inf
        exchange = self._exchange
        if exchange is not None:
            whole = now - self._body_began >= LONGEST
            exchange.refuse(body_timeout(LONGEST if whole else SILENCE))
        elif self.writing_paused:
            self.abort()
        elif self._head.begun:
            self._front.handler.malformed(self, head_timeout(HEAD))
        else:
            self._closing = True  # nothing was written that could be lost
            self._shut()

    # reading

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > HELD and not self._reading_paused and self.transport is not None:
            self._reading_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and self.transport is not None:
            self._reading_paused = False
            self.transport.resume_reading()

    def _go_on(self) -> None:
        """With what was held back."""
        if self._in_loop:
            return
        held, self._held = self._held, b""
        self._resume_reading()
        self._read(held)
        if self._ended and (self._exchange is None or self._reading is not _HEAD):
            self.close()  # what is missing of the next request will not come

    def _read(self, data: bytes) -> None:
        self._in_loop = True
        rest: bytes | None = data
        try:
            while rest:
                reading = self._reading
                if reading is _HEAD:
                    if self._exchange is not None or self.writing_paused:
                        self._hold(rest)
                        return
                    rest = self._read_head(rest)
                elif reading is _LENGTH:
                    rest = self._read_body(rest)
                elif reading is _CHUNKED:
                    rest = self._read_chunks(rest)
                else:
                    return
        except Exception:
            logger.exception("a client's connection failed: this is a bug of slotproxy")
            self.abort()
        finally:
            self._in_loop = False

    def _read_head(self, data: bytes) -> bytes | None:
        reader, front = self._head, self._front
        try:
            rest = reader.read(data)
        except Refusal as refusal:
            front.handler.malformed(self, refusal)
            return None
        if rest is None:
            if reader.begun and not self._head_is_due:
                self._head_is_due = True
                self._deadline = monotonic() + HEAD
            return None
        head = reader.head
        assert head is not None
        self._deadline = math.inf
        self._head_is_due = False
        exchange = self._exchange = front.handler.begin(head, self)
        length, came = head.length, len(rest)
        if came >= length and not head.chunked:  # all of it is here
            exchange.admit(whole=True)
            if self._exchange is not exchange:
                return rest[length:]
            body, rest = (rest, None) if came == length else (rest[:length], rest[length:])
            if front.bodies_held + length > front.body_budget:
                exchange.refuse(no_room_for_bodies(front.body_budget))
            else:
                front.bodies_held += length
                self._charged = length
                exchange.serve(body)
            return rest
        self._size = 0
        if head.chunked:
            self._reading = _CHUNKED
            self._chunks = ChunkedBody()
        else:
            self._reading = _LENGTH
            self._missing = length
        exchange.admit(whole=False)
        if self._exchange is exchange:
            if not rest and b"expect" in head.named and head.http11 and self.transport is not None:
                self.transport.write(CONTINUE)
            self._body_began = monotonic()
            self._deadline = self._body_began + SILENCE
        return rest

    def _read_body(self, data: bytes) -> bytes | None:
        exchange, missing = self._exchange, self._missing
        if len(data) < missing:
            self._missing = missing - len(data)
            if exchange is not None:
                self._collect(exchange, data)
            return None
        if exchange is not None:
            self._collect(exchange, data[:missing])
        self._whole()
        return data[missing:]

    def _read_chunks(self, data: bytes) -> bytes | None:
        chunks, exchange = self._chunks, self._exchange
        assert chunks is not None
        try:
            rest = chunks.feed(data)
        except ValueError as error:
            refusal = malformed(f"The request is not valid HTTP: {error}.")
            if exchange is not None:
                exchange.refuse(refusal)
            self.close()
            return None
        pieces, chunks.pieces = chunks.pieces, []
        if exchange is not None:
            for piece in pieces:
                self._collect(exchange, piece)
            exchange = self._exchange
        if rest is None:
            return None
        self._chunks = None
        self._whole()
        return rest

    def _collect(self, exchange: Exchange, piece: bytes) -> None:
        """Keep a piece of the body, unless it is one too many."""
        if self._exchange is not exchange:  # refused meanwhile
            return
        self._size += len(piece)
        if self._size > exchange.body_limit:
            exchange.refuse(too_large(exchange.body_limit))
        elif self._front.bodies_held + len(piece) > self._front.body_budget:
            exchange.refuse(no_room_for_bodies(self._front.body_budget))
        else:
            self._front.bodies_held += len(piece)
            self._charged += len(piece)
            self._pieces.append(piece)
            self._deadline = min(monotonic() + SILENCE, self._body_began + LONGEST)

    def _whole(self) -> None:
        """The body is over."""
        if self._closing:
            return
        self._reading = _HEAD
        exchange = self._exchange
        if exchange is None:  # its request was refused: the next one may come
            self._stop_timer()
            self._deadline = monotonic() + IDLE
            return
        body = b"".join(self._pieces)
        self._pieces = []
        self._deadline = math.inf
        exchange.serve(body)

    # the end

    def _shut(self) -> None:
        """Close in order; a client that does not take the rest has it taken away."""
        transport = self.transport
        if transport is not None:
            transport.close()
            self._start_timer(CLOSING, self._abort_if_stuck, transport.get_write_buffer_size())

    def _abort_if_stuck(self, unread: int) -> None:
        """Of what was written to a connection that closes, `unread` bytes had not been taken a while ago."""
        transport = self.transport
        if transport is None:
            return
        left = transport.get_write_buffer_size()
        if left < unread:
            self._start_timer(CLOSING, self._abort_if_stuck, left)
        else:
            transport.abort()

    def _probe_client(self) -> None:
        """Of a client that ended its side and waits. The system of one that is gone answers whatever is written to it
        with a reset.
        """
        if self._exchange is not None and self.transport is not None:
            self.transport.write(self._exchange.filler)
        self._start_timer(RESET_LOOK, self._check_for_reset)

    def _check_for_reset(self) -> None:
        """It ended its side. By now its system may have said that it is gone."""
        transport = self.transport
        sock: socket.socket | None = None if transport is None else transport.get_extra_info("socket")
        if sock is None:
            return
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.abort()
        else:
            self._start_timer(RESET_LOOK, self._check_for_reset)

    def _start_timer(self, seconds: float, callback: Callable[..., None], *arguments: object) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, callback, *arguments)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
