"""The application behind socket pairs: the proxy reaches its own pages over a connection, as it reaches an engine."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

IDLE = 3600.0  # seconds an idle connection is kept; the side that sends the requests closes earlier
CLOSING = 0.5  # seconds handlers get to end
LONGEST = 64 * 1024  # bytes of a line of a head; the front has held every head to its own limits before

Connect = Callable[[], Awaitable[socket.socket]]


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[Connect]:
    """Serve `app`. Each call of what this yields makes a connection: the end to send requests into, non-blocking.

    Whoever calls it owns that end. In the end the streams of events are ended, handlers get `CLOSING` seconds, and all
    connections are closed; a call after that raises ConnectionRefusedError.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,  # whoever leaves ends what was done for it
        keepalive_timeout=IDLE,
        max_line_size=LONGEST,
        max_field_size=LONGEST,
        auto_decompress=False,
        shutdown_timeout=CLOSING,
    )
    await runner.setup()

    async def connect() -> socket.socket:
        if runner.server is None:
            raise ConnectionRefusedError("the proxy's own pages are served no more")
        ours, theirs = socket.socketpair()
        try:
            for end in (ours, theirs):
                end.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(runner.server, theirs)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return ours

    try:
        yield connect
    finally:
        await runner.cleanup()
