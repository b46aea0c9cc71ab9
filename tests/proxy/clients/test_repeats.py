"""Requests whose head came before: handled like the first, without a parser."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from itertools import pairwise

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slotproxy.proxy.clients import repeats
from slotproxy.proxy.clients.access import Access
from slotproxy.proxy.clients.front import ClientConnection, Front
from slotproxy.proxy.clients.turns import Repeat, Turns
from tests.clients import Client, Unframed, connected
from tests.proxy.conftest import MakeStack, answering, listening
from tests.proxy.exchange.test_forward import OK


class Place:
    """A front whose handlers answer with the body they got; the one for known heads says so."""

    def __init__(self, exits: AsyncExitStack) -> None:
        self.port = 0
        self.exits = exits
        self.front = Front(self.handle, self.again)
        self.parsed = self.repeated = 0

    async def handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        self.parsed += 1
        assert isinstance(raw.protocol, ClientConnection)
        raw.protocol.remember(raw._message, raw.path)
        return web.Response(body=await raw.read(), headers={"x-path": raw.path})

    async def again(self, repeat: Repeat, client: Turns) -> web.StreamResponse:
        self.repeated += 1
        return web.Response(body=repeat.body, headers={"x-path": repeat.made})

    async def client(self) -> Client:
        return await self.exits.enter_async_context(connected(self.port))


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with AsyncExitStack() as exits:
        place = Place(exits)
        place.port = await exits.enter_async_context(listening(place.front))
        yield place


def post(body: bytes = b"{}", *, fields: bytes = b"", path: bytes = b"/", method: bytes = b"POST") -> bytes:
    head = b"%b %b HTTP/1.1\r\nHost: localhost\r\n%bContent-Length: %d\r\nAccept: */*\r\n\r\n"
    return head % (method, path, fields, len(body)) + body


async def told(client: Client, request: bytes) -> tuple[int, str, bytes]:
    client.send(request)
    answer = await client.answer()
    return answer.status, answer.head["x-path"], answer.body


async def test_the_second_request_with_a_head_needs_no_parser_whatever_its_length(place: Place) -> None:
    client = await place.client()
    for body in (b"first", b"", b"a longer one", b"x" * 100_000):
        assert await told(client, post(body)) == (200, "/", body)
    assert place.parsed + place.repeated == 4
    assert place.repeated >= 2  # the last may come in several pieces


async def test_a_head_is_known_to_every_connection(place: Place) -> None:
    assert await told(await place.client(), post(b"first")) == (200, "/", b"first")
    assert await told(await place.client(), post(b"second")) == (200, "/", b"second")
    assert (place.parsed, place.repeated) == (1, 1)


async def test_also_as_the_first_request_of_a_connection_sent_with_others(place: Place) -> None:
    await told(await place.client(), post(b"first"))
    for _ in range(20):
        client = await place.client()
        client.send(post(b"2"))
        client.send(post(b"3"))
        assert [(await client.answer()).body for _ in range(2)] == [b"2", b"3"]
    assert place.parsed + place.repeated == 41


async def test_a_connection_whose_loop_has_not_begun_yet_asks_too(place: Place) -> None:
    await told(await place.client(), post(b"first"))
    connection = place.front()
    transport = Heard()
    connection.connection_made(transport)
    connection.data_received(post(b"second"))
    await transport.answered.wait()
    assert transport.data.endswith(b"second")
    assert (place.parsed, place.repeated) == (1, 1)
    connection.connection_lost(None)


class Heard(asyncio.Transport):
    """Remembers what was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.answered = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += bytes(data)
        self.answered.set()

    def writelines(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(pieces))

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is open."""


async def test_a_body_may_follow_its_head(place: Place) -> None:
    client = await place.client()
    await told(client, post(b"first"))
    client.send(post(b"second")[:-6])
    await asyncio.sleep(0)
    assert await told(client, b"second") == (200, "/", b"second")
    assert place.parsed + place.repeated == 2


async def test_a_body_that_comes_late_has_the_time_that_bodies_have(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "HOLD", 0.0)
    client = await place.client()
    await told(client, post(b"first"))
    client.send(post(b"second")[:-3])
    async with asyncio.timeout(5):
        while place.parsed < 2:
            await asyncio.sleep(0)
    assert await told(client, b"ond") == (200, "/", b"second")
    assert await told(client, post(b"third")) == (200, "/", b"third")
    assert (place.parsed, place.repeated) == (2, 1)


async def test_a_client_that_leaves_between_head_and_body_leaves_nothing(place: Place) -> None:
    client = await place.client()
    await told(client, post(b"first"))
    client.send(post(b"second")[:-3])
    await asyncio.sleep(0)
    client.abort()
    async with asyncio.timeout(5):
        while place.front.connections:
            await asyncio.sleep(0)
    assert await told(await place.client(), post(b"third")) == (200, "/", b"third")


@pytest.mark.parametrize(
    "first",
    [
        post(b"x", fields=b"Connection: close\r\n"),
        post(b"x", fields=b"Expect: 100-continue\r\n"),
        post(b"x").replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Accept", b"Connection: keep-alive\r\nAccept"),
        post(b"1\r\nx\r\n0\r\n\r\n").replace(b"Content-Length: 11", b"Transfer-Encoding: chunked"),
        post(b"x", method=b"PUT"),
        post(b"x").replace(b"Content-Length", b"CONTENT-LENGTH"),
        b"\r\n" + post(b"x"),
        post(b"x") + post(b"x", path=b"/other"),
    ],
    ids=["close", "expect", "1.0", "chunked", "put", "capitals", "empty line", "pipelined"],
)
async def test_some_heads_are_parsed_every_time(place: Place, first: bytes) -> None:
    for _ in range(2):
        client = await place.client()
        client.send(first)
        assert (await client.answer()).body == b"x"
    assert place.repeated == 0


async def test_requests_sent_at_once_are_answered_in_turn_also_when_their_heads_are_known(place: Place) -> None:
    client = await place.client()
    await told(client, post(b"first"))
    client.send(post(b"2") + post(b"3") + post(b"4"))
    assert [(await client.answer()).body for _ in range(3)] == [b"2", b"3", b"4"]


async def test_a_malformed_request_after_known_ones_is_refused(place: Place) -> None:
    client = await place.client()
    await told(client, post(b"first"))
    await told(client, post(b"second"))
    client.send(post(b"x").replace(b"Host: localhost", b"Host : localhost"))
    assert (await client.answer()).status == 400
    assert await client.closed()


REQUESTS = (
    post(b"one"),
    post(b"", path=b"/empty"),
    post(b"two"),
    b"GET /get HTTP/1.1\r\nHost: localhost\r\n\r\n",
    post(b"three, longer"),
    post(b"5\r\nhello\r\n0\r\n\r\n", path=b"/chunked").replace(b"Content-Length: 15", b"Transfer-Encoding: chunked"),
    post(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nAccept: */*\r\n\r\nx"),
)
EXPECTED = [
    ("/", b"one"), ("/empty", b""), ("/", b"two"), ("/get", b""), ("/", b"three, longer"), ("/chunked", b"hello"),
    ("/", REQUESTS[6].partition(b"\r\n\r\n")[2]),
]  # fmt: skip


@given(st.lists(st.integers(0, len(REQUESTS) - 1), max_size=8), st.lists(st.integers(1, 600), max_size=6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_wherever_segments_begin_and_end_the_answers_are_the_same(
    place: Place, order: list[int], cuts: list[int]
) -> None:
    client = await place.client()
    sent = b"".join(REQUESTS[number] for number in order)
    places = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    for begin, end in pairwise(places):
        client.send(sent[begin:end])
        await client.writer.drain()
        await asyncio.sleep(0.0005)
    answers = [await client.answer() for _ in order]
    assert [(answer.head["x-path"], answer.body) for answer in answers] == [EXPECTED[number] for number in order]


async def test_whatever_is_sent_after_a_known_head_no_answer_is_made_up(place: Place) -> None:
    await told(await place.client(), post(b"first"))
    for length in (b"5, 5", b"+5", b" 5", b"5 ", b"0x5", b"", b"99999999999999999999"):
        client = await place.client()
        client.send(post(b"hello").replace(b"Content-Length: 5", b"Content-Length: " + length))
        client.writer.write_eof()
        try:
            answer = await client.answer()
        except Unframed:
            continue
        assert answer.status == 400 or answer.body == b"hello", length
    assert place.repeated == 0


# with the routes and an engine


def chat(body: bytes = b'{"messages":[]}', fields: bytes = b"") -> bytes:
    return post(body, path=b"/v1/chat/completions", fields=b"Content-Type: application/json\r\n" + fields)


async def test_a_known_request_gets_an_id_of_its_own_and_the_same_way_to_an_engine(stack: MakeStack) -> None:
    engine = answering(OK)
    proxy = await stack(engine)
    async with connected(proxy.port) as client:
        answers = []
        for _ in range(3):
            client.send(chat())
            answers.append(await client.answer())
    assert [answer.status for answer in answers] == [200] * 3
    ids = [answer.head["x-request-id"] for answer in answers]
    assert len(set(ids)) == 3
    first, *others = (head.replace(name.encode(), b"ID") for head, name in zip(engine.heads, ids, strict=True))
    assert others == [first, first]
    assert len(proxy.routes.known) == 1


async def test_the_body_of_a_known_request_is_looked_at_like_the_first(stack: MakeStack) -> None:
    proxy = await stack(answering(OK), max_body=100)
    async with connected(proxy.port) as client:
        client.send(chat())
        assert (await client.answer()).status == 200
        client.send(chat(b'{"messages":'))
        answer = await client.answer()
        assert (answer.status, answer.code) == (400, "invalid_json")
        assert answer.head["server"] == "slotproxy"
        assert answer.head["x-request-id"]
        client.send(chat(json.dumps({"messages": ["x" * 100]}).encode()))
        assert (await client.answer()).status == 413


async def test_a_head_whose_key_no_longer_counts_is_not_known_any_more(stack: MakeStack) -> None:
    proxy = await stack(answering(OK), keys=("old",))
    request = chat(fields=b"Authorization: Bearer old\r\n")
    async with connected(proxy.port) as client:
        for _ in range(2):
            client.send(request)
            assert (await client.answer()).status == 200
        proxy.routes.reconfigure(Access(keys=("new",)), 1 << 20)
        client.send(request)
        assert (await client.answer()).status == 401
        client.send(request)
        assert (await client.answer()).status == 401
    assert len(proxy.routes.known) == 0


async def test_known_requests_are_turned_away_while_the_proxy_stops(stack: MakeStack) -> None:
    proxy = await stack(answering(OK))
    async with connected(proxy.port) as client:
        client.send(chat())
        assert (await client.answer()).status == 200
        proxy.routes.drain()
        client.send(chat())
        answer = await client.answer()
        assert (answer.status, answer.code) == (503, "shutting_down")
        assert await client.closed()


async def test_a_restarted_engine_is_told_its_own_host(stack: MakeStack) -> None:
    one, other = answering(OK), answering(OK)
    proxy = await stack(one, other)
    async with connected(proxy.port) as client:
        for _ in range(4):
            client.send(chat())
            assert (await client.answer()).status == 200
    for engine in (one, other):
        assert engine.heads
        assert all(b"\r\nHost: 127.0.0.1:%d\r\n" % engine.port in head for head in engine.heads)
