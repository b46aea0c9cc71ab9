"""aiohttp's HTTP server with the hooks the relay needs and the checks aiohttp leaves out (docs/security.md)."""

import asyncio
import heapq
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiohttp import StreamReader, web
from aiohttp.web_protocol import RequestHandler

from slotproxy.proxy.errors import Refusal, crowded, malformed
from slotproxy.proxy.engines.heads import KnownRequests
from slotproxy.proxy.clients.repeats import Known, Repeats
from slotproxy.proxy.clients.turns import Again

logger = logging.getLogger(__name__)

MAX_LINE = 16 * 1024  # bytes of a request line, and of one header field
LONGEST_FAULT = 200  # characters of what aiohttp says about malformed HTTP
LINGER = 1.0  # seconds for which the rest of a body is read and thrown away after its request was refused
KEEPALIVE = 75.0  # seconds an idle client connection is kept, and the longest a request's head may take

MOST = 10_000  # connections at a time
AT_ONCE = 32  # idle connections closed when there is no room: to look for them costs time
QUIET = 60.0  # seconds between two complaints about it
CROWDED = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b"
)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Writer(Protocol):
    """Who writes to a client's transport itself and so must hear of back-pressure."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class ClientConnection(Repeats):
    """One client connection."""

    __slots__ = ("_start_line", "body", "peer", "writer")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.writer: Writer | None = None
        self.body: StreamReader | None = None  # the request body that is being read
        self.peer = ""  # the client's address
        self._start_line = b""  # what has come of the first request's

    @property
    def is_leaving(self) -> bool:
        """Whether it was closed, and its transport is not yet."""
        return self._force_close

    @property
    def idle_until(self) -> float:
        """When it would be closed for having been idle too long, on the loop's clock."""
        return self._next_keepalive_close_time

    def turn_away(self) -> None:
        """Say that there is no room, and close."""
        transport = self.transport
        if transport is not None:
            body = crowded().body("")
            transport.write(CROWDED % (len(body), body))
        self.force_close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.writer is not None:
            self.writer.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.writer is not None:
            self.writer.resume()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if isinstance(peer, tuple) else ""

    def data_received(self, data: bytes) -> None:
        if not self._request_count and self._is_other_protocol(data):
            data = b"\0"  # the parser's own way to refuse
        super().data_received(data)

    def parse(self, data: bytes) -> None:
        super().parse(data)
        # aiohttp's C parser reports an error in a chunked body that arrives in a later segment as a request of its
        # own, queued behind the one whose body it is; that one would wait for ever. No request can follow an
        # unfinished body, so anything queued while one is being read is such an error.
        if self.body is not None and self._messages and not self.body.is_eof():
            self._lingering_time = 0.0  # there is no rest of the body to wait for
            self.body.set_exception(malformed("The request body is not valid chunked encoding."))

    def _is_other_protocol(self, data: bytes) -> bool:
        """Whether the first start line says RTSP or ICE: the parser would take both for HTTP."""
        if self._start_line.endswith(b"\n"):  # of a head that is still coming
            return False
        line, newline, _ = (self._start_line + data).lstrip(b"\r\n").partition(b"\n")
        self._start_line = line + newline
        return bool(newline) and b" HTTP/" not in line

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Malformed HTTP: aiohttp found it, the answer is an error object and the end of the connection."""
        logger.debug("malformed request from %s: %s", request.remote, message or exc)
        fault = (message or "unreadable").partition("\n")[0].rstrip(":")  # the next lines are the client's own bytes
        return refuse(malformed(f"The request is not valid HTTP: {fault[:LONGEST_FAULT]}."), request.path)


class Front(web.Server):
    """Makes `ClientConnection`s; `handler` gets every request that parsed. A client that leaves cancels its handler."""

    def __init__(
        self,
        handler: Handler,
        again: Again | None = None,
        known: KnownRequests[Known] | None = None,
        *,
        max_line: int = MAX_LINE,
        most: int = MOST,
    ) -> None:
        """`again` gets, with what was made of it, each request whose head is in `known`: a connection was told to
        `remember` it.

        `most`: connections at a time. Beyond, those that are idle longest are closed; if none is, whoever comes is
        turned away.
        """
        super().__init__(handler, handler_cancellation=True)
        self._most = most
        self._complained = -math.inf
        self._again = again
        self._known = KnownRequests[Known]() if known is None else known
        self._options: dict[str, Any] = {
            "access_log": None,
            "keepalive_timeout": KEEPALIVE,
            "max_line_size": max_line,
            "max_field_size": max_line,
            "auto_decompress": False,  # bodies go on as they came
            # A refusal is lost if the connection closes while its client still sends: the system resets it then.
            "lingering_time": LINGER,
        }

    def __call__(self) -> RequestHandler:
        return ClientConnection(
            self, again=self._again, known=self._known, loop=asyncio.get_running_loop(), **self._options
        )

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self._connections) > self._most:
            self._make_room(handler)

    def _make_room(self, newest: RequestHandler) -> None:
        self._complain(asyncio.get_running_loop().time())
        connections = [one for one in self._connections if isinstance(one, ClientConnection)]
        if any(one.is_leaving for one in connections):  # closed a moment ago, and not gone yet
            return
        idle = heapq.nsmallest(AT_ONCE, (one for one in connections if one.is_waiting), key=_idle_until)
        for connection in idle:
            connection.force_close()
        if not idle and isinstance(newest, ClientConnection):
            newest.turn_away()

    def _complain(self, now: float) -> None:
        if now - self._complained >= QUIET:
            self._complained = now
            logger.warning("%d connections are open, the most there may be: closing those that are idle", self._most)


def _idle_until(connection: ClientConnection) -> float:
    return connection.idle_until


def refuse(refusal: Refusal, path: str, request_id: str | None = None) -> web.Response:
    """The answer that says `refusal` in the shape clients of `path` expect."""
    response = web.Response(
        status=refusal.status,
        body=refusal.body(path),
        content_type="application/json",
        headers=dict(refusal.headers),
    )
    if request_id is not None:
        response.headers["x-request-id"] = request_id
    if refusal.close:
        response.force_close()
    return response
