"""The engine's side of a request: one connection, one answer at a time, handed on as it arrives.

An `asyncio.Protocol` over httptools: what the parser finds in one segment goes to the sink in one call, without a
task switch. A segment that is one whole chunk, as nearly every event of a stream is, does not even need the parser,
which stands between two chunks before and after it. Connections that an engine keeps open are used again; one that it
had closed meanwhile shows itself by ending at once, before any byte of an answer, which `Kind.STALE` tells apart from
an engine that had the request and died.
"""

import asyncio
import socket
import ssl
import struct
from contextlib import suppress
from time import monotonic
from typing import cast

import httptools

from slotproxy.instances.upstream import Upstream
from slotproxy.proxy.accounts.meter import MANY
from slotproxy.proxy.engines.chunks import END, FRAMINGS, LONGEST, OPENINGS
from slotproxy.proxy.engines.failure import Failure, Kind
from slotproxy.proxy.engines.heads import Head, KnownHeads
from slotproxy.proxy.engines.idle import IdleConnections
from slotproxy.proxy.engines.sink import Outlet, Sink
from slotproxy.proxy.headers import Field

CONNECT_TIMEOUT = 5.0  # seconds; loopback answers in microseconds, a remote host that needs longer is as good as down
STALE_WITHIN = 0.25  # seconds from a request to the end of a connection that had been closed before it
TOGETHER = 64 * 1024  # bytes of a body that is copied, to be written in one piece with its head
MAX_HEAD = 64 * 1024  # bytes of an engine's header section
_VERSIONS = ("1.1", "1.0")
_known_heads = KnownHeads()
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class EngineConnection(asyncio.Protocol):
    """One TCP connection to an engine, idle or with one request on it."""

    __slots__ = (
        "_between_chunks", "_body", "_codings", "_complete", "_fields", "_final", "_head_bytes", "_head_only",
        "_heard", "_idle", "_lengths", "_outlet", "_passed", "_passing_to", "_paused", "_plain", "_reader",
        "_reason", "_reusable", "_sink", "_stirred", "_until_close", "since", "transport", "upstream", "used",
    )  # fmt: skip

    _between_chunks: bool
    _reusable: bool

    def __init__(self, upstream: Upstream, idle: "IdleConnections[EngineConnection]") -> None:
        self.upstream = upstream
        self.used = 0  # requests sent
        self.since = 0.0  # when it became idle
        self.transport: asyncio.Transport | None = None
        self._idle = idle
        self._heard = 0.0
        self._body: list[bytes] = []
        self._forget()
        self._head_only = False
        self._stirred = False  # something came since `heard` was asked for
        self._outlet: Outlet | None = None
        self._passing_to: Outlet | None = None  # `_outlet` while whole chunks may be told from content, else None
        self._passed: list[bytes] = []
        self._paused = False
        self._sink: Sink | None = None

    @property
    def heard(self) -> float:
        """When the last byte came, or the request went out; for a whole chunk, when this was first asked after it."""
        if self._stirred:
            self._stirred = False
            self._heard = monotonic()
        return self._heard

    def serves(self, sink: Sink) -> bool:
        """Whether the request on it is `sink`'s; by now it may be idle, or another's."""
        return self._sink is sink

    def hand_over(self, sink: Sink) -> None:
        """What is still to come of the answer goes to `sink`."""
        self._sink = sink

    def forgive(self, seconds: float) -> None:
        """Nobody listened for so long: that silence was not the engine's."""
        self._heard += seconds

    def let_pass(self, outlet: Outlet, passed: list[bytes]) -> None:
        """Until `ask_first`, write whole chunks to `outlet` as they come and put what is in them into `passed`."""
        self._outlet, self._passed = outlet, passed
        self._passing_to = outlet if self._between_chunks else None

    def ask_first(self) -> None:
        """Give the sink every byte from now on."""
        self._outlet = self._passing_to = None

    def send(self, head: bytes, body: bytes, sink: Sink, *, head_only: bool = False) -> None:
        """Send one request; its answer goes to `sink`. `head_only`: the answer has no body, whatever it says (HEAD)."""
        if self._reader is not None:  # else nothing is left of an answer before
            self._forget()
        self._head_only = head_only
        self._sink = sink
        self.used += 1
        self._heard = monotonic()
        self._stirred = False
        if self.transport is None or self.transport.is_closing():
            self._fail(Kind.STALE if self.used > 1 else Kind.RESET, "it closed the connection")
            return
        if len(body) < TOGETHER:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

    def abort(self) -> None:
        """Close hard: engines notice a reset at once, a clean end only when they look, and some not at all."""
        self._sink = self._outlet = self._passing_to = None
        if self.transport is not None:
            sock: socket.socket | None = self.transport.get_extra_info("socket")
            if sock is not None:
                with suppress(OSError):  # already gone
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.transport.abort()

    def pause(self) -> None:
        if self.transport is not None and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None and self._paused:
            self._paused = False
            self._heard = monotonic()  # silence while we did not listen is not the engine's
            self.transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        outlet = self._passing_to
        if outlet is not None and (length := len(data)) < LONGEST:
            content = data.removeprefix(OPENINGS[length]).removesuffix(END)  # cheaper than to compare and to slice
            if length - len(content) == FRAMINGS[length]:
                self._stirred = True
                transport = outlet.transport
                if transport is not None:  # one that is only closing takes no harm from a write
                    passed = self._passed
                    passed.append(content)
                    if len(passed) >= MANY and self._sink is not None:
                        self._sink.settle()
                    transport.write(data)
                return
        sink = self._sink
        if sink is None:  # bytes nobody asked for: the next answer could not be told from them
            self.abort()
            return
        self._passing_to = None
        self._heard = monotonic()
        parser = self._reader
        first = parser is None
        if parser is None:
            if not self._head_only and (known := _known_heads.recognise(data)) is not None:
                failure = sink.whole(*known)
                if failure is None:
                    self._end(self._sink or sink)
                else:
                    self._fail(failure.kind, failure.text)
                return
            parser = self._parse()
        if not self._final:
            self._head_bytes += len(data)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(Kind.MALFORMED, f"its answer is not valid HTTP ({error or type(error).__name__})")
            return
        if not self._final:
            if self._head_bytes > MAX_HEAD:
                self._fail(Kind.MALFORMED, "the header of its answer is too large")
            return
        sink = self._sink  # the head may have been refused, or answered by another sink for what follows
        if sink is None:
            return
        if self._between_chunks and data[-1:] != b"\n":  # the beginning of the next size line came with the chunk
            self._between_chunks = False
        body, self._body = self._body, []
        failure = sink.receive(body[0] if len(body) == 1 else b"".join(body), self._complete)
        if failure is not None:
            self._fail(failure.kind, failure.text)
        elif self._complete:
            if first and self._plain is not None and self._reusable:
                _known_heads.add(data, self._plain)
            self._end(self._sink or sink)
        elif self._between_chunks:
            self._passing_to = self._outlet

    def eof_received(self) -> None:
        return None  # close: an engine that ends its side has nothing more to say

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._idle.forget(self)
        sink, self._sink = self._sink, None
        self._passing_to = None
        if sink is None:
            return
        if self._final and self._until_close and error is None:
            failure = sink.closed()
            sink = self._sink or sink  # another may have taken over
            if failure is not None:
                sink.fail(failure)
            else:
                self._sink = None
                sink.over()
        elif self.used > 1 and self._head_bytes == 0 and monotonic() - self._heard < STALE_WITHIN:
            sink.fail(Failure(Kind.STALE, "it had closed the connection"))
        else:
            when = "in the middle of its answer" if self._final else "before it answered"
            sink.fail(Failure(Kind.RESET, f"it closed the connection {when}"))

    def _forget(self) -> None:
        """No byte of an answer has come."""
        self._reader: httptools.HttpResponseParser | None = None
        self._head_bytes = 0
        self._final = False  # the head is here, and no interim one
        self._complete = False
        self._until_close = False  # only the end of the connection ends the body
        self._between_chunks = False  # the parser has read a chunk to its end and nothing since
        self._reusable = True

    def _parse(self) -> httptools.HttpResponseParser:
        """Begin to."""
        self._fields: list[Field] = []
        self._lengths: list[bytes] = []
        self._codings: list[bytes] = []
        self._body = []
        self._reason = b""
        self._plain: Head | None = None  # the head, if it is one of those that may be known
        self._reader = httptools.HttpResponseParser(self)
        return self._reader

    # httptools callbacks

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower == b"content-length":
            self._lengths.append(value)
        elif lower == b"transfer-encoding":
            self._codings.append(value)
        else:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._reader
        assert parser is not None
        status = parser.get_status_code()
        if self._final:  # a second answer to one request
            self._reusable = False
            return
        if status < 200:
            self._fields, self._lengths, self._codings, self._reason = [], [], [], b""
            if status == 101:
                self._fail(Kind.MALFORMED, "it switched protocols unasked")
            return
        if self._sink is None:
            return
        if parser.get_http_version() not in _VERSIONS:
            self._fail(Kind.MALFORMED, "its answer is not HTTP/1.1")
            return
        try:
            length, chunked = _framing(self._lengths, self._codings)
        except ValueError as error:
            self._fail(Kind.MALFORMED, str(error))
            return
        self._final = True
        self._until_close = length is None and not chunked and status not in (204, 304)
        self._reusable = parser.should_keep_alive() and not self._until_close and not self._head_only
        self._complete = self._head_only
        head = Head(status, self._reason, tuple(self._fields))
        if length is not None and status not in (204, 304):
            self._plain = head
        failure = self._sink.head(head, length)
        if failure is not None:
            self._fail(failure.kind, failure.text)

    def on_body(self, data: bytes) -> None:
        if not self._complete:
            self._body.append(data)
        else:
            self._reusable = False

    def on_chunk_header(self) -> None:
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        self._between_chunks = True

    def on_message_complete(self) -> None:
        self._between_chunks = False
        if self._final:
            self._complete = True

    # the end of an exchange

    def _end(self, sink: Sink) -> None:
        self._sink = self._outlet = self._passing_to = None
        if self._paused:
            self.resume()  # the last bytes may have been what its client could not take: the next client can
        if self._reusable and self.transport is not None and self.upstream.keepalive > 0:
            self.since = monotonic()
            self._idle.put(self)
        elif self.transport is not None:
            self.transport.close()
        sink.over()

    def _fail(self, kind: Kind, text: str) -> None:
        sink, self._sink = self._sink, None
        self.abort()
        if sink is not None:
            sink.fail(Failure(kind, text))


def _framing(lengths: list[bytes], codings: list[bytes]) -> tuple[int | None, bool]:
    """Content-Length and whether chunked. Raises ValueError where they could be read in two ways (RFC 9112 6.3)."""
    if codings:
        if lengths or len(codings) > 1 or codings[0].strip().lower() != b"chunked":
            raise ValueError("the framing of its answer is ambiguous")
        return None, True
    if not lengths:
        return None, False
    if not lengths[0].isdigit() or any(length != lengths[0] for length in lengths):
        raise ValueError("its Content-Length is not a number")
    return int(lengths[0]), False


async def connect(
    upstream: Upstream, idle: IdleConnections[EngineConnection], tls: ssl.SSLContext | None
) -> EngineConnection:
    """A fresh connection. Raises OSError (TimeoutError included)."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_TIMEOUT):
        _, connection = await loop.create_connection(
            lambda: EngineConnection(upstream, idle),
            upstream.host,
            upstream.port,
            ssl=tls if upstream.tls else None,
        )
    return connection


async def connect_over(
    sock: socket.socket, upstream: Upstream, idle: IdleConnections[EngineConnection]
) -> EngineConnection:
    """A connection over a socket that is connected already."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: EngineConnection(upstream, idle), sock=sock)
    return connection
