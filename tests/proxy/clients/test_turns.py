"""The requests of one connection, one after another, both in our own loop and in aiohttp's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from slotproxy.proxy.clients import turns
from slotproxy.proxy.clients.front import Front
from tests.clients import Client, connected, request
from tests.proxy.conftest import listening


class Place:
    """A front that answers with the body it was sent, and remembers which task did."""

    def __init__(self, exits: AsyncExitStack) -> None:
        self.port = 0
        self.exits = exits
        self.front = Front(self.handle)
        self.tasks: list[asyncio.Task[object] | None] = []
        self.reached = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        self.tasks.append(asyncio.current_task())
        if raw.path == "/refused":
            return web.Response(status=403, text="no")
        if raw.path == "/broken":
            raise KeyError("a bug")
        if raw.path == "/written":
            assert raw.transport is not None
            raw.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nwritten")
            return turns.KEPT
        if raw.path == "/last":
            assert raw.transport is not None
            raw.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlast")
            return turns.CLOSED
        if raw.path == "/waits":
            self.reached.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return web.Response(body=await raw.read())

    async def client(self) -> Client:
        return await self.exits.enter_async_context(connected(self.port))


@pytest.fixture(params=[True, False], ids=["own", "aiohttp"])
async def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    assert turns.FAMILIAR, "a release of aiohttp whose inside turns.py was not compared with"
    monkeypatch.setattr(turns, "FAMILIAR", request.param)
    async with AsyncExitStack() as exits:
        place = Place(exits)
        place.port = await exits.enter_async_context(listening(place.front))
        yield place


async def test_requests_are_answered_in_turn_also_when_they_come_at_once(place: Place) -> None:
    client = await place.client()
    paths = ("/", "/written", "/", "/written", "/")
    client.send(b"".join(request("POST", path, b"%d" % number) for number, path in enumerate(paths)))
    assert [(await client.answer()).body for _ in paths] == [b"0", b"written", b"2", b"written", b"4"]


async def test_a_connection_needs_one_task_for_all_its_requests(place: Place) -> None:
    client = await place.client()
    for _ in range(3):
        client.send(request("GET", "/"))
        await client.answer()
    assert len(set(place.tasks)) == (1 if turns.FAMILIAR else 3)


@pytest.mark.parametrize("path", ["/", "/written", "/refused"])
async def test_a_body_may_come_late(place: Place, path: str) -> None:
    client = await place.client()
    whole = request("POST", path, b"x" * 1000)
    client.send(whole[:-900])
    await asyncio.sleep(0)
    client.send(whole[-900:])
    first = await client.answer()
    client.send(request("POST", "/", b"next"))
    assert (await client.answer()).body == b"next", first


async def test_the_rest_of_a_refused_body_is_read_before_the_next_request(place: Place) -> None:
    client = await place.client()
    whole = request("POST", "/refused", b"x" * 1_000_000)
    client.send(whole[:1000])
    assert (await client.answer()).status == 403
    client.send(whole[1000:] + request("POST", "/", b"next"))
    assert (await client.answer()).body == b"next"


async def test_an_answer_that_says_so_is_the_last(place: Place) -> None:
    client = await place.client()
    client.send(request("GET", "/last") + request("GET", "/"))
    assert (await client.answer()).body == b"last"
    assert await client.closed()
    assert len(place.tasks) == 1


async def test_a_client_that_leaves_cancels_its_request(place: Place) -> None:
    client = await place.client()
    client.send(request("GET", "/waits"))
    async with asyncio.timeout(5):
        await place.reached.wait()
        client.abort()
        await place.cancelled.wait()


@pytest.mark.parametrize(("path", "body"), [("/", b""), ("/written", b"written")])
async def test_an_upgrade_is_declined_and_what_follows_it_is_answered(place: Place, path: str, body: bytes) -> None:
    client = await place.client()
    upgrade = request("GET", path).replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    client.send(request("POST", "/", b"1") + upgrade + request("POST", "/written", b"2") + request("POST", "/", b"3"))
    assert [(await client.answer()).body for _ in range(4)] == [b"1", body, b"written", b"3"]


async def test_a_malformed_request_is_refused_after_a_good_one(place: Place) -> None:
    client = await place.client()
    client.send(request("POST", "/", b"1"))
    assert (await client.answer()).body == b"1"
    client.send(b"G@T / HTTP/9\r\n\r\n")
    assert (await client.answer()).status == 400
    assert await client.closed()


async def test_a_client_still_sending_what_was_refused_as_malformed_is_not_reset(place: Place) -> None:
    if not turns.FAMILIAR:
        pytest.skip("aiohttp's own loop closes at once")
    client = await place.client()
    client.send(b"A" * 20_000)
    async with asyncio.timeout(5):
        assert (await client.reader.read()).startswith(b"HTTP/1.0 400 ")
        client.send(b"A" * 10_000_000)
        await client.writer.drain()
        (connection,) = place.front.connections
        client.writer.write_eof()
        while connection.transport is not None:
            await asyncio.sleep(0)


async def test_a_bug_in_the_handler_ends_the_connection(place: Place) -> None:
    client = await place.client()
    client.send(request("GET", "/broken") + request("GET", "/"))
    async with asyncio.timeout(5):
        assert b" 200 OK" not in await client.reader.read()


async def test_a_kept_connection_is_closed_when_it_was_idle_too_long(place: Place) -> None:
    client = await place.client()
    client.send(request("GET", "/"))
    await client.answer()
    (connection,) = place.front.connections
    connection._next_keepalive_close_time = 0.0
    connection._process_keepalive()
    assert await client.closed()
