"""The requests of one client connection, one after another.

aiohttp's own loop makes a task for each and four coroutines around its answer, for which a proxy that has written the
answer already has no use. This one does without, and knows the inside of aiohttp's for it. Under another release of
aiohttp, and after a request that asks for an upgrade, that one serves.
"""

import asyncio
import logging

import aiohttp
from aiohttp import StreamReader, web
from aiohttp.http import RawRequestMessage, StreamWriter
from aiohttp.web_protocol import ERROR, RequestHandler

logger = logging.getLogger(__name__)

FAMILIAR = aiohttp.__version__.startswith("3.14.")


class Sent(web.StreamResponse):
    """Tells whoever runs the loop that the answer is already on the transport."""

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


class Turns(RequestHandler):
    """A client connection's loop."""

    __slots__ = ()

    async def start(self) -> None:
        """Begun by aiohttp when the client has connected; cancelled when the client has left."""
        while FAMILIAR and not self._force_close:
            if not self._messages:
                await self._told()
            message, _ = self._messages[0]
            if self._upgraded:
                break
            if not isinstance(message, RawRequestMessage):
                await self._refuse(message.message)
                return
            if not await self._serve(message):
                return
        if not self._force_close:
            await super().start()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """aiohttp asks for it after every read of a body, and then looks for more requests in no bytes at all."""
        if self._reading_paused or self._buffer_paused or not FAMILIAR:
            super().resume_reading(resume_parser)

    async def _told(self) -> None:
        """Until there is a request, or an error in place of one."""
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def _serve(self, message: RawRequestMessage) -> bool:
        """The first request that waits, `message` of it; whether the connection stays open for the next."""
        _, payload = self._messages.popleft()
        self._make_way()
        request = self._request(message, payload)
        try:
            kept = await self._answer(request)
            if not payload.is_eof():
                await self._linger(payload)
        except asyncio.CancelledError:
            self.force_close()
            raise
        except Exception:
            logger.exception("a request could not be answered: this is a bug of slotproxy")
            kept = False
        finally:
            request._task = None  # type: ignore[assignment]  # it would hold itself alive
        self._keepalive = kept
        if kept and not self._close and not self._force_close:
            self._wait_for_the_next()
            return True
        self._hang_up()
        return False

    async def _refuse(self, fault: str) -> None:
        """Say what is wrong with bytes that are no request; nothing after them can be understood.

        The client may still be sending. Closed now, the connection would be reset, and the answer lost with it.
        """
        _, payload = self._messages.popleft()
        request = self._request(ERROR, payload)
        self._close = True  # whatever else comes is thrown away
        try:
            _, gone = await self.finish_response(request, self.handle_error(request, 400, None, fault), None)
            if not gone and self.transport is not None:
                self.transport.write_eof()
                await asyncio.sleep(self._lingering_time)  # the client's own end of the connection cancels it
        except asyncio.CancelledError:
            self.force_close()
            raise
        finally:
            request._task = None  # type: ignore[assignment]
        self._hang_up()

    def _make_way(self) -> None:
        """The parser may go on to what the client has sent beyond this request."""
        assert self._parser is not None
        self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()

    def _request(self, message: RawRequestMessage, payload: StreamReader) -> web.BaseRequest:
        assert self._manager is not None
        assert self._request_factory is not None
        assert self._task_handler is not None
        self._manager.requests_count += 1
        return self._request_factory(message, payload, self, StreamWriter(self, self._loop), self._task_handler)

    async def _answer(self, request: web.BaseRequest) -> bool:
        """Whether the connection may be kept after it."""
        assert self._request_handler is not None
        self._request_in_progress = True
        try:
            self._current_request = request
            try:
                response = await self._request_handler(request)
            finally:
                self._current_request = None
            if isinstance(response, Sent):
                return bool(response.keep_alive)
            _, gone = await self.finish_response(request, response, None)
            return not gone and bool(response.keep_alive)
        finally:
            self._request_in_progress = False
            if self._handler_waiter is not None:
                self._handler_waiter.set_result(None)

    async def _linger(self, payload: StreamReader) -> None:
        """Read the rest of a refused body and throw it away, for a while: its client may hear of it only then."""
        if not self._lingering_time or self._force_close:
            self.close()
            return
        try:
            async with asyncio.timeout(self._lingering_time):
                while not payload.is_eof():
                    await payload.readany()
        except TimeoutError:
            self.close()
        except Exception as error:
            logger.debug("the rest of a refused request body: %s", error)
            self.force_close()

    def _wait_for_the_next(self) -> None:
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    def _hang_up(self) -> None:
        if self._force_close:
            return
        self._task_handler = None
        if self.transport is not None:
            self.transport.close()
