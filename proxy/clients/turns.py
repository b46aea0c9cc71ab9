"""The requests of one client connection, one after another.

aiohttp's own loop makes a task for each and four coroutines around its answer, for which a proxy that has written the
answer already has no use. This one does without, and knows the inside of aiohttp's for it. Under another release of
aiohttp, and after a request that asks for an upgrade, that one serves.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import aiohttp
from aiohttp import EMPTY_PAYLOAD, StreamReader, web
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


class Repeat(NamedTuple):
    """A request whose head came before."""

    made: Any  # of that head, by whoever handled it
    message: RawRequestMessage  # of the first request with it
    body: bytes


Again = Callable[[Repeat, "Turns"], Awaitable[web.StreamResponse]]


class Turns(RequestHandler):
    """A client connection's loop."""

    __slots__ = ("_again", "_begun", "_repeated", "is_own")

    def __init__(self, *args: Any, again: Again | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._again = again
        self._begun = False
        self._repeated: Repeat | None = None
        self.is_own = FAMILIAR  # this loop serves, not aiohttp's

    @property
    def is_waiting(self) -> bool:
        """Whether no request of it is being served; the head of one may be coming, slowly."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def may_repeat(self) -> bool:
        """Whether nothing is being served, nor waits for that, and this loop would."""
        if not self.is_own or self._close or self._force_close:
            return False
        return self.is_waiting or not (self._begun or self._messages or self._repeated)

    def repeat(self, repeat: Repeat) -> None:
        """Serve this next; only while it `may_repeat`."""
        self._request_count += 1
        self._repeated = repeat
        if self._waiter is not None:
            self._waiter.set_result(None)

    async def start(self) -> None:
        """Begun by aiohttp when the client has connected; cancelled when the client has left."""
        self._begun = True
        while self.is_own and not self._force_close:
            if not (self._messages or self._repeated):
                await self._told()
            repeat, self._repeated = self._repeated, None
            if repeat is not None:
                served = self._serve_again(repeat)
            else:
                message, _ = self._messages[0]
                if self._upgraded:
                    self.is_own = False
                    break
                if not isinstance(message, RawRequestMessage):
                    await self._refuse(message.message)
                    return
                served = self._serve(message)
            try:
                self._request_in_progress = True
                self._keepalive = await served
            except asyncio.CancelledError:
                self.force_close()
                raise
            except Exception:
                logger.exception("a request could not be answered: this is a bug of slotproxy")
                self._keepalive = False
            finally:
                self._request_in_progress = False
                if self._handler_waiter is not None:  # aiohttp's shutdown waits
                    self._handler_waiter.set_result(None)
            if not self._keepalive or self._close or self._force_close:
                self._hang_up()
                return
            self._wait_for_the_next()
        if not self._force_close:
            await super().start()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """aiohttp asks for it after every read of a body, and then looks for more requests in no bytes at all."""
        if self._reading_paused or self._buffer_paused or not self.is_own:
            super().resume_reading(resume_parser)

    async def _told(self) -> None:
        """Until there is a request, or an error in place of one."""
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def _serve(self, message: RawRequestMessage) -> bool:
        """The first request that waits, `message` of it; whether the connection may be kept after it."""
        assert self._request_handler is not None
        _, payload = self._messages.popleft()
        self._make_way()
        request = self._request(message, payload)
        try:
            self._current_request = request
            try:
                response = await self._request_handler(request)
            finally:
                self._current_request = None
            kept = bool(response.keep_alive) if isinstance(response, Sent) else await self._send(request, response)
            if not payload.is_eof():
                await self._linger(payload)
            return kept
        finally:
            request._task = None  # type: ignore[assignment]  # it would hold itself alive

    async def _serve_again(self, repeat: Repeat) -> bool:
        """A request whose head was served before; whether the connection may be kept after it."""
        assert self._again is not None
        assert self._manager is not None
        response = await self._again(repeat, self)
        if isinstance(response, Sent):
            self._manager.requests_count += 1
            return bool(response.keep_alive)
        request = self._request(repeat.message, EMPTY_PAYLOAD)
        try:
            return await self._send(request, response)
        finally:
            request._task = None  # type: ignore[assignment]

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

    async def _send(self, request: web.BaseRequest, response: web.StreamResponse) -> bool:
        """An answer that no handler has sent; whether the connection may be kept after it."""
        _, gone = await self.finish_response(request, response, None)
        return not gone and bool(response.keep_alive)

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
