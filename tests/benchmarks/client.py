"""The one client that drives every proxy: raw connections over httptools, cheap enough not to be what is measured."""

import asyncio
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import cast

import httptools

from tests.benchmarks.wire import STAMP

_END = b"data: [DONE]"


class Lost(Exception):
    """An answer did not come whole."""


@dataclass(slots=True)
class Answer:
    """One answer. Times are nanoseconds of the monotonic clock."""

    sent: int
    status: int = 0
    first: int = 0  # when the first byte of the body came
    size: int = 0
    body: list[bytes] = field(default_factory=list)  # empty unless it was to be kept
    stamps: list[tuple[int, int]] = field(default_factory=list)  # of each event: when it was sent, when it came
    done: bool = False  # its stream said [DONE]


class Connection(asyncio.Protocol):
    """One connection to a proxy; requests in turn."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._answer = Answer(0)
        self._parser = httptools.HttpResponseParser(self)
        self._streamed = self._keep = False
        self._rest = b""
        self._now = 0

    @classmethod
    async def open(cls, port: int) -> "Connection":
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    def ask(self, request: bytes, *, streamed: bool = False, keep: bool = False) -> "asyncio.Future[Answer]":
        """Send a request. The answer, or `Lost`. `streamed`: look for events in it; `keep`: keep its body."""
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        self._streamed, self._keep = streamed, keep
        self._answer = Answer(monotonic_ns())
        self._parser = httptools.HttpResponseParser(self)
        self._rest = b""
        if self.transport is None:
            self._lose("the connection was closed")
        else:
            self.transport.write(request)
        return waiter

    @property
    def usable(self) -> bool:
        return self.transport is not None

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._now = monotonic_ns()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._lose(str(error))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._lose("the connection was closed")

    def _lose(self, why: str) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(Lost(why))

    # httptools callbacks

    def on_headers_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        answer = self._answer
        if not answer.first:
            answer.first = self._now
        answer.size += len(data)
        if self._keep:
            answer.body.append(data)
        if self._streamed:
            self._find_events(data)

    def _find_events(self, data: bytes) -> None:
        text = self._rest + data
        end = text.rfind(b"\n") + 1  # an event may be cut anywhere; what follows the last whole line has to wait
        self._rest = text[end:]
        for match in STAMP.finditer(text, 0, end):
            self._answer.stamps.append((int(match[1]), self._now))
        if text.find(_END, 0, end) >= 0:
            self._answer.done = True

    def on_message_complete(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            if not self._parser.should_keep_alive():
                self.close()
            waiter.set_result(self._answer)


class Client:
    """A client that keeps its connection, and opens another when the proxy closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: Connection | None = None

    async def open(self) -> None:
        """Be connected. Raises OSError."""
        if self._connection is None or not self._connection.usable:
            self._connection = await Connection.open(self._port)

    async def ask(self, request: bytes, *, streamed: bool = False, keep: bool = False) -> Answer:
        """The whole answer. Raises `Lost` when there is none, or it is a refusal."""
        try:
            await self.open()
        except OSError as error:
            raise Lost(str(error)) from error
        assert self._connection is not None
        answer = await self._connection.ask(request, streamed=streamed, keep=keep)
        if answer.status != 200:
            self.close()
            raise Lost(f"status {answer.status}")
        return answer

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
