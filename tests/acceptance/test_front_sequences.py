"""No state crosses a message: on a connection with others before it and after it, a request is what it is alone."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.acceptance.messages import TRAILERS, UPGRADES, Message, cut, sequences
from tests.acceptance.standing import PATIENCE, Standing, standing
from tests.clients import Answer, Client, connected

BETWEEN_PIECES = 0.001  # seconds: long enough that the proxy reads each on its own, on which no verdict depends
LAST = 999  # the request that shows that nothing came between
ALONE: dict[Message, bytes] = {}  # heads as they reached the engine from a fresh connection


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    with standing(tmp_path_factory.mktemp("sequences")) as running:
        yield running


async def send(client: Client, data: bytes, places: list[int]) -> None:
    for number, piece in enumerate(cut(data, places)):
        if number:
            await asyncio.sleep(BETWEEN_PIECES)
        client.send(piece)


async def play(bench: Standing, sequence: tuple[Message, ...], places: list[int], *, pipelined: bool) -> list[Answer]:
    """The answers of one connection to `sequence`, in order; fails when another byte follows them."""
    async with connected(bench.port) as client, asyncio.timeout(PATIENCE):
        groups = [sequence] if pipelined else [(message,) for message in sequence]
        answers = []
        for group in groups:
            await send(client, b"".join(message.wire for message in group), places)
            answers += [await client.answer(to_head=message.method == "HEAD") for message in group]
        if (answers[-1].head.get("connection") or "").lower() != "close":
            client.send(Message(number=LAST, for_us=("Connection: close",)).wire)
            assert (await client.answer()).head["x-request-id"] == str(LAST)
        assert await client.closed()
    return answers


def check(bench: Standing, sequence: tuple[Message, ...], answers: list[Answer]) -> None:
    """Each request reached the engine whole and in order, and has its answer."""
    for message, answer in zip(sequence, answers, strict=True):
        assert answer.status == message.status
        assert answer.head["x-request-id"] == str(message.number)
        if message.is_for_the_engine and message.method != "HEAD":
            assert answer.body == message.answer
    seen = [one for one in bench.take() if f"x-request-id: {LAST}\r\n".encode() not in one.head]
    due = [message for message in sequence if message.is_for_the_engine]
    assert len(seen) == len(due)
    for message, one in zip(due, seen, strict=True):
        message.check(one)
        assert one.head == ALONE[message], "it reached the engine otherwise than from a connection of its own"


async def play_alone(bench: Standing, message: Message) -> None:
    if message in ALONE or not message.is_for_the_engine:
        return
    async with connected(bench.port) as client, asyncio.timeout(PATIENCE):
        client.send(message.wire)
        await client.answer(to_head=message.method == "HEAD")
    (seen,) = bench.take()
    ALONE[message] = seen.head


async def judge(bench: Standing, sequence: tuple[Message, ...], places: list[int], *, pipelined: bool) -> None:
    bench.engine.seen.clear()
    for message in sequence:
        await play_alone(bench, message)
    check(bench, sequence, await play(bench, sequence, places, pipelined=pipelined))


UNSHRUNK = set(Phase) - {Phase.shrink}  # where a connection hangs, to look for a shorter example takes minutes
places = st.lists(st.one_of(st.integers(1, 300), st.integers(1, 4000)), max_size=8)


@settings(max_examples=150, deadline=None, derandomize=True, phases=UNSHRUNK)
@given(sequence=sequences(), places=places, pipelined=st.booleans())
async def test_each_request_of_a_connection_is_what_it_is_on_a_fresh_one(
    bench: Standing, sequence: tuple[Message, ...], places: list[int], pipelined: bool
) -> None:
    await judge(bench, sequence, places, pipelined=pipelined)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(sequence=sequences(), places=places, pipelined=st.booleans())
async def test_many_more_sequences(
    bench: Standing, sequence: tuple[Message, ...], places: list[int], pipelined: bool
) -> None:
    await judge(bench, sequence, places, pipelined=pipelined)


def post(number: int, body: bytes = b"{}", *for_us: str, **more: Any) -> Message:
    return Message(number=number, method="POST", target=f"/{number}", body=body, for_us=for_us, **more)


def upgrade(kind: tuple[str, ...], body: bytes | None = b"{}") -> Message:
    return Message(number=0, method="GET" if body is None else "POST", target="/0", body=body, for_us=kind)


kinds = pytest.mark.parametrize("kind", UPGRADES, ids=("h2c", "websocket", "foo"))


@pytest.mark.parametrize("pipelined", [True, False])
@pytest.mark.parametrize("trailer", [*TRAILERS, "Content-Length: 3", "Transfer-Encoding: chunked", "Upgrade: h2c"])
async def test_a_trailer_is_no_field_of_the_next_request(bench: Standing, trailer: str, pipelined: bool) -> None:
    with_trailers = post(0, b"hello", chunks=(5,), trailers=("X-First: 1", trailer))
    victim = post(1, fields=(("Authorization", "Bearer victim"),))
    await judge(bench, (with_trailers, victim, post(2)), [], pipelined=pipelined)


@kinds
@pytest.mark.parametrize("body", [None, b"", b"{}"])
async def test_what_is_pipelined_after_an_upgrade_offer_is_answered(
    bench: Standing, kind: tuple[str, ...], body: bytes | None
) -> None:
    await judge(bench, (upgrade(kind, body), post(1), post(2)), [], pipelined=True)


@kinds
@pytest.mark.parametrize("body", [None, b"{}"])
@pytest.mark.parametrize("next_one", ["post", "upgrade", "chunked"])
async def test_the_request_after_an_upgrade_offer_is_whole_however_it_comes(
    bench: Standing, kind: tuple[str, ...], body: bytes | None, next_one: str
) -> None:
    follower = {"post": post(1), "upgrade": post(1, b"{}", *kind), "chunked": post(1, chunks=(1,))}[next_one]
    whole = len(follower.wire)
    for places in ([], [whole - 2], [20, whole - 2]):
        await judge(bench, (upgrade(kind, body), follower, post(2)), places, pipelined=False)


@kinds
async def test_a_body_after_an_upgrade_offer_never_becomes_a_request(bench: Standing, kind: tuple[str, ...]) -> None:
    inner = b"GET /smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    first, second = upgrade(kind), post(1, inner)
    await judge(bench, (first, second), [len(first.wire + second.wire) - len(inner)], pipelined=True)


@kinds
async def test_garbage_after_an_upgrade_offer_ends_the_connection(bench: Standing, kind: tuple[str, ...]) -> None:
    bench.engine.seen.clear()
    async with connected(bench.port) as client, asyncio.timeout(PATIENCE):
        client.send(upgrade(kind).wire + b"\0garbage\0" + post(1).wire)
        assert (await client.answer()).body == upgrade(kind).answer
        assert (await client.answer()).status == 400
        assert await client.closed()
    assert len(bench.take()) == 1
