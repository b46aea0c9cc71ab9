"""What one client, or many, can cost: connections, queue places, and the time of heads, bodies, answers and closes."""

import asyncio
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from slotproxy.proxy.clients import connection
from tests.acceptance.conftest import StartBehind
from tests.acceptance.standing import PATIENCE
from tests.clients import Client, ask, chat, connected, eventually, request, streaming
from tests.fake_engine import FakeEngine
from tests.proxy import conftest as in_process
from tests.proxy.conftest import MakeStack, answering
from tests.running import Running, StartProxy

stack = in_process.stack  # a proxy in the test's own process, whose deadlines can be shortened

DESCRIPTORS, CAP = 64, 24  # what the proxy may open, and how many clients it then has room for
SPARE = 4  # who was turned away, and is not gone yet
MANY = 40
CLOSES_WITHIN = 10.0  # seconds: "a few", on a busy machine
only_on_linux = pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")


def client_sockets(proxy: Running) -> int:
    """Connections of clients that the proxy still has open."""
    kept = psutil.Process(proxy.pid).net_connections("inet")
    return sum(one.laddr.port == proxy.port and one.status != psutil.CONN_LISTEN for one in kept)


@contextmanager
def reading_nothing(port: int, data: bytes) -> Iterator[socket.socket]:
    """A client with room for next to nothing that sends `data` and leaves what comes back where it is."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", port))
        client.sendall(data)
        yield client


def asking_for(size: int, connection: str = "close") -> bytes:
    """A request to which an answer of so many bytes is due."""
    return request("POST", "/v1/chat/completions", chat(fake={"size": size}), {"Connection": connection})


async def size_that_is_left_unread(proxy: Running) -> int:
    """Of an answer that the proxy has from the engine as a whole, and the system cannot take from the proxy."""
    taken, left = 0, 8 << 20  # bytes of answers
    while left - taken > 64 << 10:
        size = (taken + left) // 2
        with reading_nothing(proxy.port, asking_for(size)):
            await asyncio.sleep(0.1)
            if client_sockets(proxy):
                left = size
            else:
                taken = size
        await eventually(lambda: _none_of(proxy))
    return left


async def _none_of(proxy: Running) -> bool:
    return client_sockets(proxy) == 0


@asynccontextmanager
async def crowded(start_proxy: StartProxy, *options: str, descriptors: int = DESCRIPTORS) -> AsyncIterator[Running]:
    """A proxy with few descriptors, and an engine with slots for everybody."""
    async with FakeEngine() as engine:
        proxy = start_proxy(
            *("--upstream", f"{engine.url},slots=64", *options), through=("prlimit", f"--nofile={descriptors}")
        )
        await asyncio.to_thread(proxy.wait_listening)
        yield proxy


@only_on_linux
async def test_connections_that_are_closing_with_unread_output_count(start_proxy: StartProxy) -> None:
    async with crowded(start_proxy) as proxy:
        size = await size_that_is_left_unread(proxy)
        for kept in ("keep-alive", "close"):
            with ExitStack() as opened:
                for _ in range(MANY):  # beyond the cap those that are kept are closed to make room
                    opened.enter_context(reading_nothing(proxy.port, asking_for(size, kept)))
                    await asyncio.sleep(0.01)
                    assert client_sockets(proxy) <= CAP + SPARE, kept
            await eventually(lambda: _none_of(proxy), CLOSES_WITHIN)
            assert (await ask(proxy.port, "GET", "/health")).status == 200


@pytest.mark.slow
@only_on_linux
async def test_a_peer_that_does_not_take_what_was_written_before_a_close_is_aborted(start_proxy: StartProxy) -> None:
    async with crowded(start_proxy) as proxy:
        size = await size_that_is_left_unread(proxy)
        with reading_nothing(proxy.port, asking_for(size)):
            await asyncio.sleep(0.1)
            assert client_sockets(proxy) == 1
            await eventually(lambda: _none_of(proxy), CLOSES_WITHIN)


@only_on_linux
async def test_connections_in_the_middle_of_a_tls_handshake_count_and_make_room(
    start_proxy: StartProxy, certificate: tuple[str, str]
) -> None:
    chain, key = certificate
    most, told = 448, 32  # clients beside 512 descriptors, and how many more may be told that there is no room
    async with crowded(start_proxy, "--tls-cert", chain, "--tls-key", key, descriptors=512) as proxy:
        with ExitStack() as opened:
            for _ in range(most + 2 * told):
                opened.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
            await asyncio.sleep(0.1)
            assert client_sockets(proxy) <= most + told
            context = ssl.create_default_context(cafile=chain)
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection("localhost", proxy.port, ssl=context)
            client = Client(reader, writer)
            client.send(request("GET", "/health", None, {"Connection": "close"}))
            assert (await client.answer()).status == 200
            writer.close()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """The files of a certificate for localhost that nobody has signed but its own key, and of the key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl here to make a certificate")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([openssl, *made, *names, "-keyout", key, "-out", chain], check=True, capture_output=True)
    return str(chain), str(key)


@pytest.mark.parametrize("goes_on", [False, True], ids=["is silent", "goes on sending"])
async def test_a_refused_client_that_does_not_take_the_close_is_aborted(behind: StartBehind, goes_on: bool) -> None:
    bench = await behind()
    with socket.create_connection(("127.0.0.1", bench.port)) as client:
        client.sendall(request("POST", "/a", None, {"Content-Length": str(1 << 40)}))
        client.settimeout(PATIENCE)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 413 ")

        async def ended() -> bool:
            if goes_on:
                try:
                    client.sendall(b"x")
                except OSError:
                    return True
            return client_sockets(bench.proxy) == 0

        await eventually(ended, CLOSES_WITHIN)


@pytest.mark.parametrize("expects", [False, True])
@pytest.mark.parametrize("framing", [{"Content-Length": "1000"}, {"Transfer-Encoding": "chunked"}])
async def test_a_full_queue_refuses_before_the_body_has_come(
    behind: StartBehind, expects: bool, framing: dict[str, str]
) -> None:
    bench = await behind("--queue-limit", "1")
    occupant = streaming(bench.port, chat(fake={"events": 1000, "fail": "hang", "after": 1}))
    async with occupant as working, streaming(bench.port, chat()), connected(bench.port) as client:
        await working.head()
        await eventually(bench.waits)
        expectation = {"Expect": "100-continue"} if expects else {}
        client.send(request("POST", "/v1/chat/completions", None, framing | expectation))
        async with asyncio.timeout(PATIENCE):
            head = await client.head()
        assert head.status == 429
        assert 1 <= int(head["retry-after"]) <= 60


# Deadlines, each far shorter than it is outside of tests.


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def drip(client: Client, data: bytes, gap: float = 0.02) -> None:
    """Byte after byte, until somebody has had enough."""
    for byte in data:
        client.send(bytes([byte]))
        await asyncio.sleep(gap)


@asynccontextmanager
async def dripping(client: Client, data: bytes) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(drip(client, data))
        yield
        task.cancel()


@pytest.mark.parametrize("before", [b"", request("GET", "/a")], ids=["first", "second"])
async def test_a_head_that_comes_byte_after_byte_has_to_end(
    stack: MakeStack, monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    monkeypatch.setattr(connection, "HEAD", 0.3)
    proxy = await stack(answering(OK))
    async with connected(proxy.port) as client, asyncio.timeout(PATIENCE):
        if before:
            client.send(before)
            assert (await client.answer()).status == 200
        async with dripping(client, b"GET / HTTP/1.1\r\nX: " + b"a" * 500):
            answer = await client.answer()
        assert (answer.status, answer.code) == (408, "request_timeout")


async def test_a_connection_nobody_speaks_on_ends(stack: MakeStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "IDLE", 0.1)
    proxy = await stack(answering(OK))
    async with connected(proxy.port) as client, asyncio.timeout(PATIENCE):
        client.send(request("GET", "/a"))
        assert (await client.answer()).status == 200
        assert await client.closed()


@pytest.mark.parametrize("framing", [{"Content-Length": "1000"}, {"Transfer-Encoding": "chunked"}])
@pytest.mark.parametrize("slowly", [False, True], ids=["no byte comes", "byte after byte"])
async def test_a_slow_body_is_408(
    stack: MakeStack, monkeypatch: pytest.MonkeyPatch, framing: dict[str, str], slowly: bool
) -> None:
    monkeypatch.setattr(connection, "LONGEST" if slowly else "SILENCE", 0.3)
    engine = answering(OK)
    proxy = await stack(engine)
    async with connected(proxy.port) as client, asyncio.timeout(PATIENCE):
        client.send(request("POST", "/a", None, framing))
        async with dripping(client, (b"300\r\n" + b"x" * 600) * slowly):
            answer = await client.answer()
        assert (answer.status, answer.code) == (408, "request_timeout")
        assert await client.closed()
    assert engine.heads == []


@pytest.mark.parametrize("page", ["/metrics", "/slotproxy/nothing"])
async def test_own_answers_that_nobody_reads_do_not_stay(
    stack: MakeStack, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    monkeypatch.setattr(connection, "UNREAD", 0.3)
    monkeypatch.setattr(connection, "IDLE", 0.3)
    proxy = await stack(answering(OK))
    loop = asyncio.get_running_loop()

    async def none_left() -> bool:
        return not proxy.front.connections

    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", proxy.port))
        with suppress(TimeoutError, ConnectionError):  # the proxy reads no more requests, as it should
            async with asyncio.timeout(PATIENCE):
                await loop.sock_sendall(client, request("GET", page) * 100_000)
        await eventually(none_left, CLOSES_WITHIN)
