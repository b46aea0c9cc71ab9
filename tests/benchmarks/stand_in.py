"""A stand-in engine that costs next to nothing: instant short answers, timed streams.

`python -m tests.benchmarks.stand_in PORT`. One timer tick of a millisecond serves every stream, so that a thousand
streams do not need a thousand timers.
"""

import asyncio
import gc
import heapq
import re
import sys
from itertools import count
from time import monotonic_ns
from typing import Protocol, cast

import uvloop

from tests.benchmarks import wire
from tests.benchmarks.descriptors import raise_limit

TICK = 0.001  # seconds; uvloop's timers know nothing finer
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream": ?true')
_TOKENS = re.compile(rb'"max_(?:completion_)?tokens": ?(\d+)')  # sglang-router renames it
_SEED = re.compile(rb'"seed": ?(\d+)')


class Source(Protocol):
    """Something that sends now and then."""

    def send(self) -> int | None:
        """Nanoseconds until it wants to send again; None when it is done."""


class Clock:
    """Calls every source when it is due. Runs while there are any."""

    def __init__(self) -> None:
        self._due: list[tuple[int, int, Source]] = []
        self._order = count()

    def add(self, source: Source) -> None:
        delay = source.send()
        if delay is None:
            return
        if not self._due:
            asyncio.get_running_loop().call_later(TICK, self._tick)
        heapq.heappush(self._due, (monotonic_ns() + delay, next(self._order), source))

    def _tick(self) -> None:
        due, now = self._due, monotonic_ns()
        while due and due[0][0] <= now:
            at, order, source = due[0]
            delay = source.send()
            if delay is None:
                heapq.heappop(due)
            else:  # counted from when it was due, so that a late tick does not slow the stream
                heapq.heapreplace(due, (at + delay, order, source))
        if due:
            asyncio.get_running_loop().call_later(TICK, self._tick)


class Connection(asyncio.Protocol):
    """One client; requests in turn."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._data = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        length = _LENGTH.search(self._data, 0, end)
        total = end + (int(length[1]) if length else 0)
        if len(self._data) >= total:
            whole, self._data = self._data[:total], self._data[total:]
            self._answer(whole)

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def _answer(self, request: bytes) -> None:
        tokens, gap = _TOKENS.search(request), _SEED.search(request)
        if request.startswith(b"GET"):
            self.write(wire.MODELS if b"/models" in request[:60] else wire.HEALTHY)
        elif not _STREAM.search(request):
            self.write(wire.big(int(tokens[1])) if tokens else wire.SHORT)
        elif gap is None:
            self._clock.add(Replay(self))
        else:
            self._clock.add(Stream(self, int(tokens[1]) if tokens else 1, int(gap[1]) * 1_000_000))


class Stream:
    """Events that carry the time they were sent; the first leaves with the head, as llama.cpp's does."""

    def __init__(self, connection: Connection, events: int, gap: int) -> None:
        self._connection = connection
        self._opening = wire.STREAM_HEAD + wire.STREAM_OPENING
        self._left = events
        self._gap = gap

    def send(self) -> int | None:
        if self._connection.transport is None:
            return None
        opening, self._opening = self._opening, b""
        self._left -= 1
        ending = b"" if self._left else wire.STREAM_END
        stamp = b"%016d" % monotonic_ns()
        self._connection.transport.write(b"".join((opening, wire.BEFORE_STAMP, stamp, wire.AFTER_STAMP, ending)))
        return self._gap if self._left else None


class Replay:
    """A recorded stream, chunk by chunk at its own pace."""

    def __init__(self, connection: Connection) -> None:
        recording = wire.recording()
        self._connection = connection
        self._connection.write(wire.STREAM_HEAD)
        self._chunks = iter(recording.chunks)
        self._gaps = iter(recording.gaps[1:])  # the first is the prefill, which is not what is replayed

    def send(self) -> int | None:
        if self._connection.transport is None:
            return None
        gap = next(self._gaps, None)
        self._connection.write(wire.chunk(next(self._chunks)) + (b"0\r\n\r\n" if gap is None else b""))
        return None if gap is None else int(gap * 1e9)


async def serve(port: int) -> None:
    clock = Clock()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(clock), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    raise_limit()
    gc.disable()  # nothing here makes cycles worth the pauses
    uvloop.run(serve(int(sys.argv[1])))
