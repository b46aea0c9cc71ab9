"""aiohttp's HTTP server with the hooks the relay needs and the checks aiohttp leaves out (docs/security.md)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiohttp import StreamReader, web
from aiohttp.web_protocol import RequestHandler

from slotproxy.proxy.errors import Refusal, malformed

logger = logging.getLogger(__name__)

MAX_LINE = 16 * 1024  # bytes of a request line, and of one header field
LINGER = 1.0  # seconds for which the rest of a body is read and thrown away after its request was refused
KEEPALIVE = 75.0  # seconds an idle client connection is kept, and the longest a request's head may take

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Writer(Protocol):
    """Who writes to a client's transport itself and so must hear of back-pressure."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class ClientConnection(RequestHandler):
    """One client connection."""

    __slots__ = ("_start_line", "body", "writer")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.writer: Writer | None = None
        self.body: StreamReader | None = None  # the request body that is being read
        self._start_line = b""  # what has come of the first request's

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.writer is not None:
            self.writer.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.writer is not None:
            self.writer.resume()

    def data_received(self, data: bytes) -> None:
        if not self._request_count and self._is_other_protocol(data):
            data = b"\0"  # the parser's own way to refuse
        super().data_received(data)
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
        return refuse(malformed(f"The request is not valid HTTP: {message or 'unreadable'}."), request.path)


class Front(web.Server):
    """Makes `ClientConnection`s; `handler` gets every request that parsed. A client that leaves cancels its handler."""

    def __init__(self, handler: Handler, *, max_line: int = MAX_LINE) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._options = {
            "access_log": None,
            "keepalive_timeout": KEEPALIVE,
            "max_line_size": max_line,
            "max_field_size": max_line,
            "auto_decompress": False,  # bodies go on as they came
            # A refusal is lost if the connection closes while its client still sends: the system resets it then.
            "lingering_time": LINGER,
        }

    def __call__(self) -> RequestHandler:
        return ClientConnection(self, loop=asyncio.get_running_loop(), **self._options)


class Sent(web.StreamResponse):
    """Tells aiohttp that the answer is already on the transport."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keep = keep_alive

    @property
    def keep_alive(self) -> bool | None:
        return self._keep

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


KEPT, CLOSED = Sent(keep_alive=True), Sent(keep_alive=False)


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
