"""`GET /slotproxy/api/events`: the state document as server-sent events, at once and after every change.

    event: state
    data: {...}

However many watch, the document is made once in `EVERY` seconds.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import msgspec
from aiohttp import web

from slotproxy.proxy import errors
from slotproxy.proxy.operator.document import StateDocument
from slotproxy.proxy.operator.paths import API
from slotproxy.proxy.operator.state import mark_of
from slotproxy.proxy.operator.stopping import Stopping

logger = logging.getLogger(__name__)

EVERY = 0.5  # seconds between looks for a change
KEEPALIVE = 15.0  # seconds of silence after which a comment shows that the stream is alive
PATIENCE = 15.0  # seconds a watcher may take to make room for an event
MOST_WATCHERS = 32

HEADERS = {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no", "Cache-Control": "no-store"}
ALIVE = b": alive\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event. Two with the same mark differ by the passing of time only."""

    data: bytes
    mark: bytes

    @classmethod
    def of(cls, document: StateDocument) -> "Event":
        return cls(data=b"event: state\ndata: %b\n\n" % msgspec.json.encode(document), mark=mark_of(document))


class Latest:
    """The newest event, shared by all who watch."""

    def __init__(self, state: Callable[[], StateDocument]) -> None:
        self._state = state
        self._event: Event | None = None
        self._made = 0.0

    def at(self, now: float) -> Event:
        """One that is less than `EVERY` seconds old."""
        if self._event is None or now - self._made >= EVERY:
            return self.renewed(now)
        return self._event

    def renewed(self, now: float) -> Event:
        """One of this moment: whoever changed something before it came to watch sees it in the first event."""
        self._event, self._made = Event.of(self._state()), now
        return self._event


class Watcher:
    """What one client has been sent, and when."""

    def __init__(self) -> None:
        self._mark = b""
        self._at = 0.0

    def due(self, event: Event, now: float) -> bytes:
        """What it is to be sent now; empty: nothing. `now`: seconds on a clock that only goes forward."""
        if event.mark != self._mark:
            self._mark, self._at = event.mark, now
            return event.data
        if now - self._at >= KEEPALIVE:
            self._at = now
            return ALIVE
        return b""


class Events:
    """The stream. It lasts until its client leaves, which cancels it, or the proxy stops."""

    def __init__(self, state: Callable[[], StateDocument], stopping: Stopping) -> None:
        self._latest = Latest(state)
        self._stopping = stopping
        self._watchers = 0

    def routes(self) -> list[web.RouteDef]:
        return [web.get(API + "events", self._watch, allow_head=False)]

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        if self._watchers >= MOST_WATCHERS:
            raise errors.refused(f"{MOST_WATCHERS} clients watch already, which is the most")
        self._watchers += 1
        try:
            event = self._latest.renewed(monotonic())  # what fails here can still be answered with an error
            response = web.StreamResponse(headers=HEADERS)
            await response.prepare(request)
            await self._stream(request, response, event)
            return response
        finally:
            self._watchers -= 1

    async def _stream(self, request: web.Request, response: web.StreamResponse, event: Event) -> None:
        """The head is out, so the only way to say that something failed is to cut the stream."""
        try:
            await self._tell(response, event)
        except ConnectionError:
            pass  # the client left while something was sent
        except TimeoutError:
            logger.info("a client that watches events read nothing for %g s and was cut off", PATIENCE)
            _cut(request)
        except Exception:
            logger.exception("a stream of events failed: this is a bug of slotproxy")
            _cut(request)

    async def _tell(self, response: web.StreamResponse, event: Event) -> None:
        """Raises TimeoutError if the client does not read, ConnectionError if it has left."""
        watcher = Watcher()
        while not self._stopping.stopping:
            if due := watcher.due(event, monotonic()):
                async with asyncio.timeout(PATIENCE):
                    await response.write(due)
            await self._stopping.wait(EVERY)
            event = self._latest.at(monotonic())


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
