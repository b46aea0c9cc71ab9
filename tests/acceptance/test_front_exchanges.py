"""What client and proxy owe each other around a request: who speaks when, who closes, and what a body may hold."""

import asyncio
import json
import socket
from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import StartBehind
from tests.acceptance.standing import PATIENCE, Standing, assert_refused, standing, statuses, talk, until_the_end
from tests.clients import Client, ask, chat, connected, eventually, request

MAX_BODY = 1 << 20  # bytes
CHAT = "/v1/chat/completions"
DEEPEST = 500  # levels of nesting


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    with standing(tmp_path_factory.mktemp("exchanges"), "--max-body", str(MAX_BODY)) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(bench: Standing) -> None:
    bench.engine.seen.clear()


# The client closes its sending side.

WHOLE = {
    "own page": request("GET", "/health"),
    "own page, chunked": request("GET", "/health").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
    "GET": request("GET", "/a"),
    "length": request("POST", "/a", b"{}"),
    "chunked": request("POST", "/a", None, {"Transfer-Encoding": "chunked"}) + b"2\r\n{}\r\n0\r\n\r\n",
    "two": request("GET", "/a") + request("POST", "/b", b"{}"),
    "HTTP/1.0": b"GET /a HTTP/1.0\r\n\r\n",
}


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
async def test_a_client_that_has_said_all_still_gets_its_answers(bench: Standing, data: bytes) -> None:
    for head_first in (False, True):
        async with connected(bench.port) as client:
            if head_first:
                client.send(data[:40])
                await asyncio.sleep(0.005)
            client.send(data[40 * head_first :])
            client.writer.write_eof()
            assert statuses(await until_the_end(client)) == [200] * data.count(b"HTTP/1.")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_has_said_all_may_wait_for_its_engine(behind: StartBehind, stream: bool) -> None:
    bench = await behind()
    async with connected(bench.port) as client:
        client.send(request("POST", CHAT, chat(stream=stream, fake={"delay": 0.1})))
        await eventually(bench.works)
        client.writer.write_eof()
        (answer,) = await until_the_end(client)
    assert answer.status == 200
    assert not bench.engine.asked[0].cancelled


@pytest.mark.parametrize("before", [b"", request("GET", "/b")], ids=["first", "second"])
@pytest.mark.parametrize("cut", [10, 60, 130, 141])
async def test_half_a_request_and_no_more_to_come_ends_the_connection(bench: Standing, before: bytes, cut: int) -> None:
    data = request("POST", "/a", b"x" * 64)
    assert len(data) > cut
    async with connected(bench.port) as client:
        client.send(before + data[:cut])
        client.writer.write_eof()
        served = [200] * bool(before)
        assert statuses(await until_the_end(client)) in (served, [*served, 400])
    assert [seen.target for seen in bench.take()] == [b"/b"] * bool(before)


# HTTP/1.0


async def test_http_1_0_ends_with_its_answer(bench: Standing) -> None:
    (answer,) = await talk(bench, b"POST /a HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}" + request("GET", "/not-read"))
    assert answer.status == 200
    assert answer.head.get("transfer-encoding") is None
    assert [seen.target for seen in bench.take()] == [b"/a"]


async def test_http_1_0_that_asks_for_it_is_kept(bench: Standing) -> None:
    old = b"POST /a HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\n{}"
    async with connected(bench.port) as client:
        for _ in range(3):
            client.send(old)
            answer = await client.answer()
            assert answer.status == 200
            assert answer.head["connection"].lower() == "keep-alive"  # else such a client takes it for closed
        client.send(b"GET /health HTTP/1.0\r\nconnection: keep-alive\r\n\r\nGET /health HTTP/1.0\r\n\r\n")
        assert statuses(await until_the_end(client)) == [200, 200]


# Expect: 100-continue


def expecting(method: str, path: str, length: int, expectation: str = "100-continue") -> bytes:
    return request(method, path, None, {"Content-Length": str(length), "Expect": expectation})


async def test_a_client_that_waits_for_leave_to_send_its_body_gets_it(bench: Standing) -> None:
    async with connected(bench.port) as client, asyncio.timeout(PATIENCE):
        for number in range(3):  # and again on the same connection
            client.send(expecting("POST", f"/{number}", 2))
            assert (await client.head()).status == 100
            assert len(bench.engine.seen) == number
            client.send(b"{}")
            assert (await client.head()).status == 200
            await client.reader.readexactly(len(f"POST /{number} HTTP/1.1\n{{}}"))
    assert not [seen for seen in bench.take() if b"expect" in seen.head.lower()]


async def test_leave_is_given_for_a_chunked_body_too(bench: Standing) -> None:
    chunked = {"Transfer-Encoding": "chunked", "Expect": "100-Continue"}
    async with connected(bench.port) as client, asyncio.timeout(PATIENCE):
        client.send(request("POST", "/a", None, chunked))
        assert (await client.head()).status == 100
        client.send(b"2\r\n{}\r\n0\r\n\r\n")
        assert (await client.answer()).status == 200


async def test_the_answer_waits_for_its_turn_before_leave_is_given_to_the_next(bench: Standing) -> None:
    async with connected(bench.port) as client, asyncio.timeout(PATIENCE):
        client.send(request("GET", "/first") + expecting("POST", "/second", 2))
        assert (await client.answer()).body.startswith(b"GET /first ")
        assert (await client.head()).status == 100
        client.send(b"{}")
        assert (await client.answer()).body.startswith(b"POST /second ")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (expecting("POST", "/a", 2, "200-ok"), 417),
        (expecting("POST", "/a", MAX_BODY + 1), 413),
        (expecting("POST", "/a", 2).replace(b"Host: 127.0.0.1", b"Host: evil.example"), 403),
    ],
)
async def test_no_leave_is_given_for_a_body_nobody_will_read(bench: Standing, data: bytes, status: int) -> None:
    async with connected(bench.port) as client, asyncio.timeout(PATIENCE):
        client.send(data)
        assert (await client.head()).status == status  # the first head, not an interim one
    assert bench.take() == []


async def test_http_1_0_knows_no_interim_answers(bench: Standing) -> None:
    async with connected(bench.port) as client, asyncio.timeout(PATIENCE):
        client.send(b"POST /a HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}")
        assert (await client.head()).status in (200, 417)


# A refusal is read even by a client that goes on sending.


def upload(port: int, head: bytes, piece: bytes, count: int) -> bytes:
    """Send all of it without looking at what comes back; then all that came back."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(head)
        for _ in range(count):
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


PIECE = b"x" * (1 << 16)
CHUNK = b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
UPLOADS = {
    "too long": (request("POST", CHAT, None, {"Content-Length": str(1 << 30)}), PIECE, 413),
    "chunked, too long": (request("POST", CHAT, None, {"Transfer-Encoding": "chunked"}), CHUNK, 413),
    "malformed": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX Y: 1\r\n\r\n", PIECE, 400),
    "head too long": (b"GET / HTTP/1.1\r\nX: ", PIECE, 431),
}


@pytest.mark.parametrize(("head", "piece", "status"), UPLOADS.values(), ids=UPLOADS)
async def test_a_refused_client_that_goes_on_sending_still_reads_why(
    bench: Standing, head: bytes, piece: bytes, status: int
) -> None:
    got = await asyncio.to_thread(upload, bench.port, head, piece, 80)
    reader = asyncio.StreamReader()
    reader.feed_data(got)
    reader.feed_eof()
    (answer,) = await until_the_end(Client(reader, None))  # type: ignore[arg-type]  # only read from
    assert_refused(answer, *((400, 431) if status == 431 else (status,)))


async def test_the_connection_goes_on_after_a_refusal_that_was_about_the_request_alone(bench: Standing) -> None:
    async with connected(bench.port) as client, asyncio.timeout(PATIENCE):
        client.send(request("POST", CHAT, b"{") + request("GET", "/slotproxy/nothing") + request("GET", "/a"))
        assert [(await client.answer()).status for _ in range(3)] == [400, 404, 200]


# JSON


def nested(levels: int, opening: bytes, closing: bytes) -> bytes:
    """An object, the first level, with a value that makes up the rest of `levels`."""
    return b'{"messages":[],"metadata":' + opening * (levels - 1) + b"0" + closing * (levels - 1) + b"}"


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
async def test_json_may_be_nested_500_deep_and_no_deeper(bench: Standing, opening: bytes, closing: bytes) -> None:
    assert (await ask(bench.port, "POST", CHAT, nested(DEEPEST, opening, closing))).status == 200
    for levels in (DEEPEST + 1, 1000, 3000, 100_000):
        answer = await ask(bench.port, "POST", CHAT, nested(levels, opening, closing))
        assert (answer.status, answer.code) == (400, "invalid_json"), levels
    assert len(bench.take()) == 1


async def test_brackets_in_strings_and_side_by_side_are_no_nesting(bench: Standing) -> None:
    values: tuple[object, ...] = ("[{" * 10_000, '\\"[' * 2000, [[]] * 5000, [{"a": [1]}] * 5000)
    for value in values:
        body = json.dumps({"messages": value}).encode()
        assert (await ask(bench.port, "POST", CHAT, body)).status == 200, body[:40]


async def test_brackets_without_end_are_refused_as_no_json(bench: Standing) -> None:
    for body in (b"[" * 100_000, b'{"a":' * 100_000, b"{" + b"]" * 1000):
        assert (await ask(bench.port, "POST", CHAT, body)).status == 400, body[:40]
