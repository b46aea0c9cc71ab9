"""The floor: uvloop taking bytes from one socket to another, and looking at none. `... tunnel PORT ENGINE_PORT`.

It knows nothing of HTTP: every client gets a connection to the engine of its own, before it asks for anything.
"""

import asyncio
import gc
import sys
from typing import cast

import uvloop

from tests.benchmarks.descriptors import raise_limit


class End(asyncio.Protocol):
    """One end of a tunnel."""

    def __init__(self, other: "End | None" = None) -> None:
        self.other = other
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        other = self.other
        if other is not None and other.transport is not None:
            other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Entrance(End):
    """A client's connection; what comes before the engine has been reached is kept until then."""

    def __init__(self, engine: int) -> None:
        super().__init__()
        self._engine = engine
        self._early: list[bytes] = []
        self._reaching: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._reaching = asyncio.get_running_loop().create_task(self._reach())

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            super().data_received(data)

    async def _reach(self) -> None:
        loop = asyncio.get_running_loop()
        _, self.other = await loop.create_connection(lambda: End(self), "127.0.0.1", self._engine)
        for data in self._early:
            super().data_received(data)


async def serve(port: int, engine: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Entrance(engine), "127.0.0.1", port, backlog=4096)
    gc.freeze()
    await server.serve_forever()


if __name__ == "__main__":
    raise_limit()
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
