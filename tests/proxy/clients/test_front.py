"""How many connections there may be, whose have to go, and when."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from slotproxy.proxy.clients import connection
from slotproxy.proxy.clients.connection import CONTINUE, ClientConnection
from slotproxy.proxy.clients.front import Front
from slotproxy.proxy.clients.head import RequestHead
from slotproxy.proxy.errors import Refusal
from slotproxy.proxy.exchange.own_answer import refusal_bytes
from tests.clients import Client, ask, connected, request
from tests.proxy.conftest import SOON, listening

MOST = 4


class Answered:
    """An exchange that answers with the body it got; one to /slow as soon as `finish` is called, one to /big with more
    than its client will read.
    """

    body_limit = 1000
    filler = CONTINUE

    def __init__(self, place: "Place", head: RequestHead, client: ClientConnection) -> None:
        self.place, self.head, self.client = place, head, client

    def admit(self, *, whole: bool) -> None:
        if self.head.path == "/refused":
            self.refuse(Refusal(403, "no", "No."))

    def serve(self, body: bytes) -> None:
        self.place.served.append((self.head.path, body))
        if self.head.path == "/slow":
            self.place.slow.append(self)
        elif self.head.path == "/big":
            self.write(b"x" * (64 << 20), keep_alive=False)
        else:
            self.write(body, keep_alive=self.head.keep_alive)

    def refuse(self, refusal: Refusal) -> None:
        if self.client.transport is not None:
            self.client.transport.write(refusal_bytes(refusal, "", "1", keep_alive=not refusal.close))
        self.client.answered(keep_alive=not refusal.close)

    def write(self, body: bytes, *, keep_alive: bool) -> None:
        if self.client.transport is not None:
            self.client.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        self.client.answered(keep_alive=keep_alive)

    def client_left(self) -> None:
        self.place.left.append(self.head.path)

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass


class Place:
    """A front with room for four."""

    def __init__(self, exits: AsyncExitStack) -> None:
        self.front = Front(self, most=MOST, body_budget=1500)
        self.port = 0
        self.exits = exits
        self.slow: list[Answered] = []
        self.served: list[tuple[str, bytes]] = []
        self.left: list[str] = []

    def begin(self, head: RequestHead, client: ClientConnection) -> Answered:
        return Answered(self, head, client)

    def malformed(self, client: ClientConnection, refusal: Refusal) -> None:
        if client.transport is not None:
            client.transport.write(refusal_bytes(refusal, "", "1"))
        client.close()

    def finish(self) -> None:
        for exchange in self.slow:
            exchange.write(b"done", keep_alive=True)

    async def client(self) -> Client:
        return await self.exits.enter_async_context(connected(self.port))

    async def idle(self) -> Client:
        """A connection that has been answered once and waits."""
        client = await self.client()
        client.send(request("GET", "/"))
        assert (await client.answer()).status == 200
        return client

    async def busy(self) -> Client:
        client, before = await self.client(), len(self.slow)
        client.send(request("GET", "/slow"))
        await until(lambda: len(self.slow) > before)
        return client


def stand_still(seconds: float) -> None:
    """The event loop does not run meanwhile, as when the process is stopped."""
    time.sleep(seconds)


async def until(condition: object) -> None:
    async with asyncio.timeout(SOON):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.001)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with AsyncExitStack() as exits:
        place = Place(exits)
        place.port = await exits.enter_async_context(listening(place.front))
        yield place


async def test_who_is_idle_makes_room_and_who_is_served_stays(place: Place) -> None:
    idle = [await place.idle() for _ in range(MOST - 1)]
    busy = await place.busy()
    assert (await ask(place.port, "GET", "/")).status == 200
    assert [await client.closed() for client in idle] == [True] * (MOST - 1)
    place.finish()
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
    place.finish()
    assert [(await client.answer()).status for client in busy] == [200] * MOST
    assert len([line for line in caplog.messages if "connections are open" in line]) == 1


async def test_connections_that_close_with_unread_answers_count_and_end_by_themselves(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CLOSING", 1.0)
    unread = [await place.client() for _ in range(MOST)]
    for client in unread:
        client.send(request("GET", "/big"))
    await until(lambda: len(place.served) == MOST)
    assert (await (await place.client()).answer()).code == "too_many_connections"
    await until(lambda: not place.front.connections)


async def test_one_whose_answer_is_being_read_is_not_cut_off(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CLOSING", 0.1)
    client = await place.client()
    client.send(request("GET", "/big"))
    head = await client.head()
    size = 0
    while size < int(head["content-length"]):
        size += len(await client.reader.read(8 << 20))
        await asyncio.sleep(0.02)
    assert await client.closed()


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


async def test_bodies_hold_no_more_than_their_budget_together(place: Place) -> None:
    first, second = await place.client(), await place.client()
    first.send(request("POST", "/slow", b"x" * 900))
    await until(lambda: place.front.bodies_held == 900)
    second.send(request("POST", "/", b"x" * 700))
    answer = await second.answer()
    assert (answer.status, answer.code) == (503, "too_much_in_flight")
    assert 1 <= int(answer.head["retry-after"]) <= 60
    place.finish()
    assert (await first.answer()).body == b"done"
    assert place.front.bodies_held == 0
    assert (await ask(place.port, "POST", "/", b"x" * 700)).status == 200


async def test_a_body_that_never_becomes_whole_is_held_no_longer_than_its_connection(place: Place) -> None:
    client = await place.client()
    client.send(request("POST", "/", b"x" * 900)[:-1])
    await until(lambda: place.front.bodies_held == 899)
    client.writer.transport.abort()
    await until(lambda: place.front.bodies_held == 0)
    assert place.left == ["/"]


async def test_an_idle_connection_is_closed_after_a_while(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "IDLE", 0.1)
    client = await place.idle()
    assert await client.closed()
    assert place.front.connections == frozenset()


async def test_time_in_which_the_proxy_stood_still_counts_against_no_client(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE", 0.4)
    client = await place.idle()
    (kept,) = place.front.connections
    before = kept.deadline
    stand_still(0.5)
    await until(lambda: kept.deadline > before + 0.3)
    client.send(request("GET", "/"))
    assert (await client.answer()).status == 200


async def test_stopping_closes_what_is_idle_and_answers_what_is_not(place: Place) -> None:
    idle, busy = await place.idle(), await place.busy()
    place.front.stop()
    assert await idle.closed()
    place.finish()
    assert (await busy.answer()).body == b"done"
    assert await busy.closed()
    with pytest.raises(ConnectionError):
        await place.client()


async def test_a_client_that_ended_its_side_is_answered_and_one_that_left_is_not(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HALF_CLOSED", 0.01)
    staying, leaving = await place.busy(), await place.busy()
    staying.writer.write_eof()
    leaving.writer.close()  # the same bytes on the wire, but its system answers ours with a reset
    await until(lambda: place.left == ["/slow"])
    place.finish()
    assert (await staying.answer()).body == b"done"
    assert await staying.closed()


async def test_several_sockets_are_served_until_it_stops(place: Place) -> None:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        await place.front.listen(one)
    assert [(await ask(port, "GET", "/")).status for port in (place.port, *ports)] == [200] * 3
    place.front.stop()
    for port in (place.port, *ports):
        await until_refused(port)
    for one in sockets:
        one.close()


async def test_several_sockets_are_served_with_tls_until_it_stops(place: Place) -> None:
    """It has no certificate: that a handshake fails, and not the connection, shows that somebody was there."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.setblocking(False)
        await place.front.listen(one, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    for port in ports:
        async with asyncio.timeout(SOON):
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                await asyncio.open_connection("127.0.0.1", port, ssl=ssl.create_default_context())
    place.front.stop()
    for port in ports:
        await until_refused(port)


async def until_refused(port: int) -> None:
    """Nobody listens there. A server of uvloop's closes its socket in one of the loop's next turns."""
    async with asyncio.timeout(SOON):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.001)
