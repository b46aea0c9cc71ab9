"""The application over socket pairs, on both event loops."""

import asyncio
import gc
import socket
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from aiohttp import web

from slotproxy.proxy.operator.serving import LONGEST, served
from tests.clients import request
from tests.proxy.operator.conftest import Supply, over

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]
HEALTH = request("GET", "/health")
EVENTS = request("GET", "/slotproxy/api/events")
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test on a loop of its own, and sees to it that nothing is left open."""

    def run(test: Coroutine[Any, Any, None]) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with asyncio.Runner(loop_factory=request.param, debug=True) as runner:
                runner.run(asyncio.wait_for(test, 20))
            gc.collect()
        assert [str(warning.message) for warning in caught] == []

    return run


def test_requests_are_answered_one_after_the_other_on_one_connection(run: Run) -> None:
    async def test() -> None:
        async with served(Supply().application()) as connect, over(connect) as client:
            for _ in range(2):
                client.send(HEALTH)
                assert (await client.answer()).json()["status"] == "ok"
            client.send(HEALTH + HEALTH)
            assert [(await client.answer()).status for _ in range(2)] == [200, 200]

    run(test())


def test_several_connections_are_served_at_once(run: Run) -> None:
    async def test() -> None:
        supply = Supply()
        async with served(supply.application()) as connect, over(connect) as first, over(connect) as second:
            first.send(EVENTS)
            assert (await first.head()).status == 200
            await first.next_event()
            second.send(HEALTH)
            assert (await second.answer()).status == 200
            async with over(connect) as third:
                third.send(EVENTS)
                await third.head()
                await third.next_event()

    run(test())


class Received(asyncio.Protocol):
    """A protocol as the engines' side of the proxy has one."""

    def __init__(self) -> None:
        self.data, self.answered, self.lost = b"", asyncio.Event(), asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.data.endswith(b"}"):
            self.answered.set()

    def connection_lost(self, exc: Exception | None) -> None:
        assert exc is None
        self.lost.set()


def test_an_end_becomes_a_connection_by_create_connection_and_the_shutdown_closes_it(run: Run) -> None:
    async def test() -> None:
        async with served(Supply().application()) as connect:
            sock = await connect()
            assert sock.getblocking() is False
            transport, protocol = await asyncio.get_running_loop().create_connection(Received, sock=sock)
            transport.write(HEALTH)
            await protocol.answered.wait()
            assert protocol.data.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"aiohttp" not in protocol.data
            assert not protocol.lost.is_set()
        await protocol.lost.wait()

    run(test())


def test_the_shutdown_ends_streams_properly_and_later_connections_are_refused(run: Run) -> None:
    async def test() -> None:
        supply = Supply()
        async with served(supply.application()) as connect, over(connect) as client, over(connect) as idle:
            client.send(EVENTS)
            await client.head()
            await client.next_event()
        assert supply.stopping.stopping
        with pytest.raises(ConnectionRefusedError):
            await connect()
        assert await idle.closed()

    run(test())


def test_a_stream_that_is_open_at_the_shutdown_gets_its_last_chunk(run: Run) -> None:
    async def test() -> None:
        async with served(Supply().application()) as connect:
            reader, writer = await asyncio.open_connection(sock=await connect())
            writer.write(EVENTS)
            await reader.readuntil(b"event: state")
        assert (await reader.read()).endswith(b"0\r\n\r\n")
        writer.close()

    run(test())


def test_a_handler_that_does_not_end_is_cancelled_at_the_shutdown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotproxy.proxy.operator.serving.CLOSING", 0.01)

    async def test() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def hang(_request: web.Request) -> web.Response:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            raise AssertionError

        app = web.Application()
        app.router.add_get("/", hang)
        async with served(app) as connect:
            reader, writer = await asyncio.open_connection(sock=await connect())
            writer.write(request("GET", "/"))
            await begun.wait()
        assert ended.is_set()
        assert await reader.read() == b""
        writer.close()

    run(test())


def test_whoever_leaves_ends_what_was_done_for_it(run: Run) -> None:
    async def test() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def hang(_request: web.Request) -> web.Response:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            raise AssertionError

        app = web.Application()
        app.router.add_get("/", hang)
        async with served(app) as connect:
            async with over(connect) as client:
                client.send(request("GET", "/"))
                await begun.wait()
            await ended.wait()

    run(test())


def test_a_head_as_long_as_the_front_lets_through_is_read(run: Run) -> None:
    async def test() -> None:
        async with served(Supply().application()) as connect, over(connect) as client:
            client.send(request("GET", "/health", headers={"X-Long": "x" * (LONGEST - 100)}))
            assert (await client.answer()).status == 200
            client.send(request("GET", "/health?" + "x" * (LONGEST - 100)))
            assert (await client.answer()).status == 200

    run(test())


def test_a_pair_that_cannot_be_served_is_closed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []
    pair = socket.socketpair

    def remembered() -> tuple[socket.socket, socket.socket]:
        made.extend(pair())
        return made[0], made[1]

    async def test() -> None:
        class Failing:
            """The running loop, but it accepts nothing."""

            async def connect_accepted_socket(self, *_: object) -> None:
                raise OSError("no room")

        async with served(Supply().application()) as connect:
            with monkeypatch.context() as patch:
                patch.setattr(socket, "socketpair", remembered)
                patch.setattr(asyncio, "get_running_loop", Failing)
                with pytest.raises(OSError, match="no room"):
                    await connect()
        assert [end.fileno() for end in made] == [-1, -1]

    run(test())
