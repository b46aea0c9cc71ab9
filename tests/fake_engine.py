"""A scriptable engine on raw sockets: does what it is told, wrongly down to the byte, and remembers what it was sent.

In a test:              async with FakeEngine() as engine: ... engine.url ... engine.received
As an instance:         python -m tests.fake_engine --port N (tests/running.py writes the profile that starts it)

What one request gets is a JSON object with the fields of `Behaviour`: the request's `x-fake` header, else `fake` in its
JSON body, else the next one of the engine's script (`POST /fake/script`, `engine.script`), else the engine's default.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Self

from tests import fake_processes
from tests.fake_answers import RAW, Behaviour, Received, answer, events, head, pieces, whole

ABOUT_ITSELF = frozenset({"/health", "/slots"})


class _Gone(Exception):
    """The client has left."""


class _Talk(asyncio.StreamReaderProtocol):
    """Streams, plus the moment the other side left: by closing or by half-closing, as engines count it."""

    def __init__(self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        super().__init__(asyncio.StreamReader(limit=1 << 26), serve)
        self.gone = asyncio.Event()

    def eof_received(self) -> bool | None:
        self.gone.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        super().connection_lost(exc)


class FakeEngine:
    """One engine. `port` 0 takes a free one."""

    def __init__(
        self,
        *,
        port: int = 0,
        name: str = "fake",
        n_ctx: int = 4096,
        default: dict[str, Any] | None = None,
        per_connection: int = 0,
        silent_while_busy: bool = False,
        forgetful: bool = False,
        grace: float = 0.0,
    ) -> None:
        self.port, self.name, self.n_ctx = port, name, n_ctx
        self.default = default or {}
        self.per_connection = per_connection  # requests one connection may carry before it is closed; 0: any number
        self.silent_while_busy = silent_while_busy  # /health and /slots wait until the generation is over
        self.grace = grace  # seconds a request waits for the reset of the one before it, if both come at once
        self.forgetful = forgetful  # remembers no request once it is over
        self.descendants: list[int] = []  # pids, of the program
        self.script: deque[dict[str, Any]] = deque()
        self.received: list[Received] = []
        self.connections = 0
        self.busy = self.peak = 0
        self.healthy = True
        self.die: Callable[[], None] = self.crash
        self.generated: Callable[[], object] = lambda: None  # called after the first generation
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def asked(self) -> list[Received]:
        """Requests for a generation that were not somebody's warm-up or health check."""
        return [one for one in self.received if one.head.startswith(b"POST") and b'"warm-up"' not in one.body]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Talk(self._serve), "127.0.0.1", self.port, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.crash()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def crash(self) -> None:
        """What clients see of a process that is gone: resets, then refusals."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = _Connection(self, reader, writer, self.connections)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await connection.run()
        except (_Gone, asyncio.IncompleteReadError, ConnectionError):
            pass
        except asyncio.CancelledError:
            pass  # the engine ends; streams would log it as an error
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    def own(self, request: Received) -> bytes | None:
        """The answers an engine gives beside its slot."""
        path = request.path.partition("?")[0]
        if path == "/health":
            return answer(200 if self.healthy else 503, {"status": "ok" if self.healthy else "loading"})
        if path == "/v1/models":
            model = {"id": self.name, "object": "model", "meta": {"n_ctx": self.n_ctx}}
            return answer(200, {"object": "list", "data": [model]})
        if path == "/slots":
            return answer(200, [{"id": 0, "n_ctx": self.n_ctx, "is_processing": self.busy > 0}])
        if path == "/fake/received":
            reports = [one.report() for one in self.received]
            own = {"peak": self.peak, "pid": os.getpid(), "descendants": self.descendants}
            return answer(200, {**own, "received": reports})
        if path == "/fake/script":
            self.script.extend(request.json())
            return answer(200, {})
        return None

    def behaviour(self, request: Received) -> Behaviour:
        told = request.told()
        if told is None and self.script and b'"warm-up"' not in request.body:
            told = self.script.popleft()
        return Behaviour.of({**self.default, **(told or {})})


class _Connection:
    """One client connection: requests in turn."""

    def __init__(
        self, engine: FakeEngine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        self.engine, self.reader, self.writer, self.number = engine, reader, writer, number
        protocol = writer.transport.get_protocol()
        assert isinstance(protocol, _Talk)
        self.gone = protocol.gone
        self.drip = 0.0

    async def run(self) -> None:
        served = 0
        while True:
            request = await self._request()
            while self.engine.silent_while_busy and self.engine.busy and request.path in ABOUT_ITSELF:
                await self._wait(0.02)
            own = self.engine.own(request)
            if own is not None:
                await self._write(own)
                continue
            self.engine.received.append(request)
            served += 1
            behaviour = self.engine.behaviour(request)
            if behaviour.drop_reused and served > 1:
                return
            self.drip = behaviour.drip
            over = await self._generation(request, behaviour)
            self.drip = 0.0
            if self.engine.forgetful:
                self.engine.received.remove(request)
            self.engine.generated()
            self.engine.generated = lambda: None
            if behaviour.surplus:
                await self._write(behaviour.surplus.encode())
            if over or behaviour.last or served == self.engine.per_connection:
                return

    async def _request(self) -> Received:
        head = await self.reader.readuntil(b"\r\n\r\n")
        request = Received(head=head, body=b"", connection=self.number, began=time.monotonic())
        if "chunked" in request.headers.get("transfer-encoding", ""):
            while size := int((await self.reader.readline()).split(b";")[0], 16):
                request.body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readuntil(b"\r\n")
        else:
            request.body = await self.reader.readexactly(int(request.headers.get("content-length", 0)))
        return request

    async def _generation(self, request: Received, behaviour: Behaviour) -> bool:
        """Occupies the engine. True when the connection cannot go on."""
        engine = self.engine
        if engine.busy and engine.grace:
            await asyncio.sleep(engine.grace)
        engine.busy += 1
        engine.peak = max(engine.peak, engine.busy)
        try:
            return await self._misbehave_or_answer(request, behaviour)
        except (_Gone, ConnectionError):
            request.cancelled = True
            await asyncio.sleep(behaviour.compute)
            return True
        finally:
            engine.busy -= 1
            request.ended = time.monotonic()

    async def _misbehave_or_answer(self, request: Received, behaviour: Behaviour) -> bool:
        await self._wait(behaviour.delay)
        wrong = behaviour.misbehaves()
        if wrong and behaviour.raw is not None:
            await self._write(RAW[behaviour.raw])
            return True
        if not wrong:
            behaviour.fail = None
        if behaviour.fail is not None and behaviour.after < 0:
            await self._fail(behaviour.fail)
            return True
        try:
            streamed = behaviour.events is not None or request.json().get("stream") is True
        except (ValueError, AttributeError):
            streamed = False
        if streamed and behaviour.body is None:
            return await self._stream(request, behaviour)
        return await self._whole(request, behaviour)

    async def _whole(self, request: Received, behaviour: Behaviour) -> bool:
        body = whole(self.engine.name, behaviour)
        extra = {"Content-Type": "application/json"} | behaviour.headers
        bodiless = behaviour.status in (204, 304)
        if not bodiless:
            extra["Content-Length"] = str(len(body))
        await self._write(head(behaviour.status, extra))
        if bodiless or request.head.startswith(b"HEAD "):
            return False
        for piece in pieces(body, behaviour.cuts):
            request.sent += piece
            await self._write(piece)
            if behaviour.cuts is not None:
                await asyncio.sleep(0)
        return "close" in extra.get("Connection", "")

    async def _stream(self, request: Received, behaviour: Behaviour) -> bool:
        stream = events(self.engine.name, behaviour)
        framing = {
            "chunked": {"Transfer-Encoding": "chunked"},
            "length": {"Content-Length": str(sum(map(len, stream)))},
            "close": {},
        }[behaviour.framing]
        version = "HTTP/1.0" if behaviour.framing == "close" else "HTTP/1.1"
        extra = {"Content-Type": "text/event-stream"} | framing | behaviour.headers
        await self._write(head(behaviour.status, extra, version))
        chunked = behaviour.framing == "chunked"
        for number, event in enumerate(stream):
            if number == behaviour.after and behaviour.fail is not None:
                await self._fail(behaviour.fail, behaviour.ping)
                return True
            for piece in pieces(event, None if behaviour.cuts is None else behaviour.cuts + number):
                request.sent += piece
                await self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await self._wait(behaviour.gap)
        if chunked:
            await self._write(b"0\r\n\r\n")
        return behaviour.framing == "close"

    async def _fail(self, how: str, ping: float = 0.0) -> None:
        if how == "hang":
            while ping:
                await self._wait(ping)
                await self._write(b"3\r\n:\n\n\r\n")
            await self.gone.wait()
            raise _Gone
        if how == "die":
            self.engine.die()
        elif how == "reset":
            self.writer.transport.abort()

    async def _wait(self, seconds: float) -> None:
        """Raises _Gone as soon as the client leaves."""
        try:
            await asyncio.wait_for(self.gone.wait(), seconds)
        except TimeoutError:
            return
        raise _Gone

    async def _write(self, data: bytes) -> None:
        for piece in [data[at : at + 1] for at in range(len(data))] if self.drip else [data]:
            if self.gone.is_set():
                raise _Gone
            self.writer.write(piece)
            await self.writer.drain()
            if self.drip:
                await self._wait(self.drip)


async def _program(options: argparse.Namespace) -> None:
    engine = FakeEngine(
        port=options.port,
        name=options.name,
        n_ctx=options.ctx,
        default=json.loads(options.default),
        per_connection=options.per_connection,
        silent_while_busy=options.silent_while_busy,
        forgetful=options.forgetful,
    )
    engine.die = lambda: os._exit(9)
    engine.descendants = fake_processes.children(options.children) + fake_processes.daemons(options.daemons)
    engine.healthy = not options.never_ready
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    if options.die_after:
        engine.generated = partial(loop.call_later, options.die_after, engine.die)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, (lambda: None) if options.ignore_term else stopped.set)
    if options.stranger:
        fake_processes.stranger(options.port)
        await stopped.wait()
        return
    async with engine:
        print(f"fake engine: listening on {engine.url}", file=sys.stderr, flush=True)
        await stopped.wait()


def main() -> None:
    """The engine as a program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ctx", type=int, default=4096)
    parser.add_argument("--name", default="fake")
    parser.add_argument("--default", default="{}", help="JSON object: how requests are treated that do not say")
    parser.add_argument("--per-connection", type=int, default=0)
    parser.add_argument("--never-ready", action="store_true", help="/health stays at 503")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--silent-while-busy", action="store_true", help="no /health, no /slots during a generation")
    parser.add_argument("--forgetful", action="store_true", help="for long runs: remembers no request that is over")
    parser.add_argument("--die-after", type=float, default=0.0, help="seconds from warm-up to sudden end; 0: none")
    parser.add_argument("--children", type=int, default=0, help="processes of its own group")
    parser.add_argument("--daemons", type=int, default=0, help="grandchildren in sessions of their own")
    parser.add_argument("--stranger", action="store_true", help="a foreign process takes the port and answers on it")
    parser.add_argument("--exit", help="print this and exit 1 at once")
    options = parser.parse_args()
    if options.exit is not None:
        sys.exit(options.exit)
    asyncio.run(_program(options))


if __name__ == "__main__":
    main()
