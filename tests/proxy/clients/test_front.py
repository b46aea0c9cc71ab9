"""How many connections there may be, and whose have to go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from slotproxy.proxy.clients.front import Front
from tests.clients import Client, ask, connected, request

MOST = 4


class Place:
    """A front with room for four; a request to /slow is answered when `finish` is set."""

    def __init__(self, exits: AsyncExitStack) -> None:
        self.port = 0
        self.exits = exits
        self.finish = asyncio.Event()
        self.slow = 0

    async def handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        if raw.path == "/slow":
            self.slow += 1
            await self.finish.wait()
        return web.Response(text="ok")

    async def client(self) -> Client:
        return await self.exits.enter_async_context(connected(self.port))

    async def idle(self) -> Client:
        """A connection that has been answered once and waits."""
        client = await self.client()
        client.send(request("GET", "/"))
        assert (await client.answer()).status == 200
        return client

    async def busy(self) -> Client:
        client, before = await self.client(), self.slow
        client.send(request("GET", "/slow"))
        async with asyncio.timeout(5):
            while self.slow == before:
                await asyncio.sleep(0)
        return client


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with AsyncExitStack() as exits:
        place = Place(exits)
        front = Front(place.handle, most=MOST)
        server = await asyncio.get_running_loop().create_server(front, "127.0.0.1", 0)
        place.port = server.sockets[0].getsockname()[1]
        exits.callback(server.close)
        exits.push_async_callback(front.shutdown, 0.01)
        yield place
        place.finish.set()


async def test_who_is_idle_makes_room_and_who_is_served_stays(place: Place) -> None:
    idle = [await place.idle() for _ in range(MOST - 1)]
    busy = await place.busy()
    assert (await ask(place.port, "GET", "/")).status == 200
    assert [await client.closed() for client in idle] == [True] * (MOST - 1)
    place.finish.set()
    assert (await busy.answer()).status == 200


async def test_a_head_that_never_ends_makes_room_too(place: Place) -> None:
    slow = [await place.client() for _ in range(MOST)]
    for client in slow:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
    await asyncio.sleep(0)
    assert (await ask(place.port, "GET", "/")).status == 200
    assert [await client.closed() for client in slow] == [True] * MOST


async def test_when_everybody_is_served_whoever_comes_is_told_so(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    busy = [await place.busy() for _ in range(MOST)]
    for _ in range(2):
        answer = await (await place.client()).answer()
        assert (answer.status, answer.code) == (503, "too_many_connections")
        assert 1 <= int(answer.head["retry-after"]) <= 60
    place.finish.set()
    assert [(await client.answer()).status for client in busy] == [200] * MOST
    assert len([line for line in caplog.messages if "connections are open" in line]) == 1


@pytest.mark.parametrize(
    "garbage", [b"A" * 65_536 + b" / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"\x01" * 9_000 + b"\r\n\r\n"]
)
async def test_what_was_malformed_is_not_sent_back(place: Place, garbage: bytes) -> None:
    client = await place.client()
    client.send(garbage)
    answer = await client.answer()
    assert answer.status == 400
    assert answer.json()["error"]["message"].startswith("The request is not valid HTTP: ")
    assert len(answer.body) < 1000
    assert b"AAA" not in answer.body
