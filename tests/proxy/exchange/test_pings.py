"""Clients that asked for a stream are told to wait, and what may come of their requests after that."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic
from typing import Any

import pytest

from slotproxy.instances.errors import ShuttingDown
from slotproxy.instances.slots.lease import Lease
from slotproxy.proxy.accounts.logs import access_logger
from slotproxy.proxy.clients import connection
from slotproxy.proxy.clients.access import Access
from slotproxy.proxy.exchange import pings
from slotproxy.proxy.exchange.pings import PING
from tests.proxy.conftest import SOON, MakeStack, Script, Stack, answering
from tests.proxy.exchange.test_forward import CHUNK, END, EVENT, HEAD, OK, all_free, dechunked, post, silent, until

PERIOD = 10.0
NEVER = 1e6  # seconds
ASKED = b'{"stream":true,"messages":[]}'
COMMENT = b": ping\n\n"
MESSAGES = "/v1/messages"


class Waiting:
    """A client that asked for a stream, and the proxy's clock."""

    def __init__(self, proxy: Stack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy, self.reader, self.writer = proxy, reader, writer
        self._now = monotonic()

    def later(self, seconds: float) -> None:
        """So long after it asked, or after the time before, the proxy looks after its requests."""
        self._now += seconds
        self.proxy.forwarder.sweep(self._now)

    async def head(self) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), SOON)

    async def pinged(self) -> bytes:
        """The head, after so long that it had to come."""
        self.later(PERIOD)
        head = await self.head()
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert await asyncio.wait_for(self.reader.readexactly(len(PING)), SOON) == PING
        return head

    async def rest(self) -> tuple[bytes, bool]:
        """What else came of the body, and whether it was ended properly."""
        return dechunked(await asyncio.wait_for(self.reader.read(), SOON))

    async def error(self) -> dict[str, Any]:
        """That of the event with which the stream was cut."""
        body, ended = await self.rest()
        assert not ended
        *_, event = body.removesuffix(b"\n\n").split(b"\n\n")
        found: dict[str, Any] = json.loads(event.removeprefix(b"event: error\n").removeprefix(b"data: "))
        assert event.startswith(b"event: error\n") is (found.get("type") == "error")
        error: dict[str, Any] = found["error"]
        return error


async def start(stack: MakeStack, *engines: Script, **given: Any) -> Stack:
    return await stack(*engines, **{"prefill_timeout": NEVER, "stall_timeout": NEVER, "sse_ping": PERIOD, **given})


Ask = Callable[..., Awaitable[Waiting]]


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    writers = []

    async def asked(proxy: Stack, request: bytes | None = None) -> Waiting:
        """Returns once the proxy waits for the answer."""
        before = proxy.forwarder.in_flight
        reader, writer = await proxy.client()
        writers.append(writer)
        writer.write(request or post(ASKED))
        await until(lambda: proxy.forwarder.in_flight > before)
        return Waiting(proxy, reader, writer)

    yield asked
    for writer in writers:
        writer.close()


def slot_of(proxy: Stack) -> Lease:
    """Its only one: whoever asks has to wait."""
    lease = proxy.leases.take()
    assert lease is not None
    return lease


def gated(*, before: bytes = b"", after: bytes) -> tuple[Script, asyncio.Event]:
    """An engine that begins with `before` and says the rest when it is let go on."""
    go_on = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await script.request(reader)
            writer.write(before)
            await go_on.wait()
            writer.write(after)

    script = Script(talk)
    return script, go_on


def test_what_the_head_could_not_say_is_said_in_comments() -> None:
    own = b"x-request-id: 1\r\nx-slotproxy-instance: 3\r\nx-slotproxy-queue-ms: 70\r\nVary: Origin\r\n"
    body, _ = dechunked(pings.told(own))
    assert body == b": x-slotproxy-instance: 3\n: x-slotproxy-queue-ms: 70\n\n"


async def test_a_client_that_waits_for_a_slot_is_told_so_again_and_again(stack: MakeStack, ask: Ask) -> None:
    proxy = await start(stack, answering(HEAD + CHUNK + END))
    proxy.gate.reconfigure(Access(cors_origins=("http://localhost:3000",)), 1 << 20)
    lease = slot_of(proxy)
    client = await ask(proxy, post(ASKED, fields=b"X-Request-Id: mine\r\nOrigin: http://localhost:3000\r\n"))
    client.later(PERIOD - 1)
    head = (await client.pinged()).lower()
    for line in (b"content-type: text/event-stream", b"transfer-encoding: chunked", b"x-accel-buffering: no"):
        assert line in head
    assert b"x-request-id: mine\r\n" in head
    assert b"access-control-allow-origin: http://localhost:3000\r\n" in head
    assert b"connection: close\r\n" in head
    client.later(PERIOD - 1)
    client.later(1)
    client.later(PERIOD)
    lease.release()
    body, ended = await client.rest()
    told, _, events = body.removeprefix(COMMENT * 2).partition(b"\n\n")
    assert told.startswith(b": x-slotproxy-instance: 0\n: x-slotproxy-queue-ms: ")
    assert told.endswith(b"\n: x-slotproxy-queue-position: 0")
    assert (events, ended) == (EVENT, True)
    await all_free(proxy)


async def test_no_byte_is_written_before_the_period_is_over(stack: MakeStack, ask: Ask) -> None:
    engine, go_on = gated(after=HEAD + CHUNK + END)
    proxy = await start(stack, engine)
    client = await ask(proxy)
    client.later(PERIOD - 1)
    go_on.set()
    assert b"x-slotproxy-instance: 0" in await client.head()


async def test_so_is_one_whose_engine_reads_its_prompt(stack: MakeStack, ask: Ask) -> None:
    engine, go_on = gated(after=HEAD + CHUNK * 2 + END)
    proxy = await start(stack, engine)
    client = await ask(proxy)
    await until(lambda: engine.heads)
    await client.pinged()
    client.later(PERIOD)
    go_on.set()
    body, ended = await client.rest()
    assert body.startswith(COMMENT + b": x-slotproxy-instance: 0\n")
    assert (body.endswith(b"\n\n" + EVENT * 2), ended) == (True, True)
    assert body.count(COMMENT) == 1


async def test_the_connection_serves_on_after_a_stream_that_followed_pings(stack: MakeStack, ask: Ask) -> None:
    engine, go_on = gated(after=HEAD + CHUNK + END)
    proxy = await start(stack, engine)
    client = await ask(proxy, post(ASKED).replace(b"Connection: close\r\n", b""))
    assert b"connection:" not in (await client.pinged()).lower()
    go_on.set()
    assert (await asyncio.wait_for(client.reader.readuntil(CHUNK + END), SOON)).endswith(CHUNK + END)
    client.writer.write(post(ASKED))
    assert b"x-slotproxy-instance: 0" in await client.head()
    assert await client.rest() == (EVENT, True)


@pytest.mark.parametrize("was_pinged", [False, True])
@pytest.mark.parametrize("came", [b'8\r\ndata: {"', b"8\r\n: hello\n\r\n"])
async def test_nothing_is_put_into_what_an_engine_has_begun_to_say(
    stack: MakeStack, ask: Ask, came: bytes, was_pinged: bool
) -> None:
    begins, goes_on = asyncio.Event(), asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await engine.request(reader)
        await begins.wait()
        writer.write(HEAD + came)
        await goes_on.wait()
        writer.write((b"" if came.endswith(b"\n") else b"\r\n") + CHUNK + END)

    engine = Script(talk)
    proxy = await start(stack, engine)
    client = await ask(proxy)
    if was_pinged:
        await client.pinged()
    begins.set()
    if not was_pinged:
        await client.head()
    await until(lambda: any(one.size for one in proxy.forwarder.active))
    client.later(PERIOD)
    client.later(PERIOD)
    goes_on.set()
    body, ended = await client.rest()
    assert (b"ping" in body, body.endswith(EVENT), ended) == (False, True, True)


async def test_an_engine_that_has_only_said_it_will_stream_has_not_begun(stack: MakeStack, ask: Ask) -> None:
    dies = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await engine.request(reader)
        begun.set()
        await waits.wait()
        writer.write(HEAD)
        await dies.wait()
        writer.transport.abort()

    begun, waits = asyncio.Event(), asyncio.Event()
    engine = Script(talk)
    proxy = await start(stack, engine, answering(HEAD + CHUNK + END))
    client = await ask(proxy)
    await asyncio.wait_for(begun.wait(), SOON)
    await client.pinged()
    waits.set()
    await until(lambda: any(one.stream for one in proxy.forwarder.active))
    client.later(PERIOD)
    dies.set()
    body, ended = await client.rest()
    assert body.startswith(COMMENT + b": x-slotproxy-instance: 1\n")
    assert (body.endswith(EVENT), ended) == (True, True)


async def test_a_request_whose_engine_dies_after_a_ping_is_tried_elsewhere(stack: MakeStack, ask: Ask) -> None:
    dies = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await dying.request(reader)
        await dies.wait()
        writer.transport.abort()

    dying = Script(talk)
    proxy = await start(stack, dying, answering(HEAD + CHUNK + END))
    client = await ask(proxy)
    await client.pinged()
    dies.set()
    body, ended = await client.rest()
    assert body.startswith(b": x-slotproxy-instance: 1\n")
    assert (body.endswith(EVENT), ended) == (True, True)


async def test_an_engine_that_dies_after_that_cuts_the_stream(stack: MakeStack, ask: Ask) -> None:
    dies = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await dying.request(reader)
        await dies.wait()
        writer.write(HEAD + CHUNK)
        await writer.drain()
        await until(lambda: any(one.begun for one in proxy.forwarder.active))
        writer.transport.abort()

    dying = Script(talk)
    proxy = await start(stack, dying, answering(HEAD + CHUNK + END))
    client = await ask(proxy)
    await client.pinged()
    dies.set()
    assert (await client.error())["code"] == "upstream_failed"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions", "/v1/responses", MESSAGES])
async def test_a_wait_in_vain_ends_in_an_error_event_and_a_cut(
    stack: MakeStack, ask: Ask, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    proxy = await start(stack, answering(OK), queue_timeout=0.3)
    slot_of(proxy)
    client = await ask(proxy, post(ASKED, path))
    await client.pinged()
    error = await client.error()
    expected = {"type": "overloaded_error"} if path == MESSAGES else {"code": "queue_timeout"}
    assert error.items() >= expected.items()
    assert proxy.leases.queued == 0
    (outcome,) = [vars(record)["outcome"] for record in caplog.records if record.name == access_logger.name]
    assert (outcome.status, outcome.error) == (200, "queue_timeout")


async def test_a_deadline_that_passes_after_a_ping_is_an_event(stack: MakeStack, ask: Ask) -> None:
    proxy = await start(stack, silent(), prefill_timeout=PERIOD * 2)
    client = await ask(proxy)
    await until(lambda: proxy.leases.leased(proxy.upstreams[0]))
    await client.pinged()
    client.later(PERIOD * 2)
    assert (await client.error())["code"] == "upstream_timeout"
    assert proxy.owner.failures == [("0", "hang")]


async def test_a_stop_is_one_for_whom_waits(stack: MakeStack, ask: Ask) -> None:
    proxy = await start(stack, answering(OK))
    slot_of(proxy)
    client = await ask(proxy)
    await client.pinged()
    proxy.leases.refuse(ShuttingDown)
    assert (await client.error())["code"] == "shutting_down"


async def test_and_for_whom_an_engine_reads_a_prompt(stack: MakeStack, ask: Ask) -> None:
    proxy = await start(stack, silent())
    client = await ask(proxy)
    await client.pinged()
    proxy.forwarder.break_off()
    assert (await client.error())["code"] == "shutting_down"


OPENAI = b'{"error":{"code":400,"message":"too long","type":"exceed_context_size_error","n_ctx":2048}}'
ANTHROPIC = b'{"type":"error","error":{"type":"invalid_request_error","message":"too long"}}'


def answer(status: int, body: bytes, kind: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (status, kind, len(body), body)


@pytest.mark.parametrize(("path", "said"), [("/v1/chat/completions", OPENAI), (MESSAGES, ANTHROPIC)])
async def test_an_engines_no_is_told_as_it_came_in_an_event(stack: MakeStack, ask: Ask, path: str, said: bytes) -> None:
    engine, go_on = gated(after=answer(400, said))
    proxy = await start(stack, engine)
    client = await ask(proxy, post(ASKED, path))
    await client.pinged()
    go_on.set()
    assert await client.error() == json.loads(said)["error"]
    await all_free(proxy)
    assert (proxy.owner.failures, proxy.owner.lost) == ([], [])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (OK, "The engine answered without a stream."),
        (answer(200, b"data: 1\n\n", b"text/plain"), "The engine answered without a stream."),
        (answer(500, b"oh no", b"text/plain"), "oh no"),
        (answer(404, b"", b"text/plain"), "The engine answered 404."),
        (answer(400, EVENT, b"text/event-stream"), 'data: {"x":1}'),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "The engine answered without a stream."),
        (b"HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbusy\r\n0\r\n\r\n", "busy"),
        (b"HTTP/1.1 413 X\r\nConnection: close\r\n\r\nlarge", "large"),
    ],
)
async def test_whatever_else_an_engine_answers_than_a_stream_is_an_error_event(
    stack: MakeStack, ask: Ask, raw: bytes, message: str
) -> None:
    let_go = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await engine.request(reader)
        await let_go.wait()
        writer.write(raw)
        if b"close" not in raw:
            await reader.read()

    engine = Script(talk)
    proxy = await start(stack, engine)
    client = await ask(proxy)
    await client.pinged()
    let_go.set()
    error = await client.error()
    assert (error["code"], error["message"]) == ("engine_answered", message)
    await all_free(proxy)
    assert proxy.owner.failures == ([("0", "unavailable")] if b"503" in raw else [])


async def test_also_one_whose_head_is_known_and_whose_client_keeps_its_connection(stack: MakeStack, ask: Ask) -> None:
    proxy = await start(stack, answering(OK))
    await proxy.ask(post())
    lease = slot_of(proxy)
    client = await ask(proxy, post(ASKED).replace(b"Connection: close\r\n", b""))
    await client.pinged()
    lease.release()
    assert (await client.error())["code"] == "engine_answered"


@pytest.mark.parametrize("stops", [False, True])
async def test_the_head_says_whether_the_connection_is_kept(stack: MakeStack, ask: Ask, stops: bool) -> None:
    proxy = await start(stack, answering(HEAD + CHUNK + END))
    slot_of(proxy)
    client = await ask(proxy, post(ASKED).replace(b"Connection: close\r\n", b""))
    if stops:
        proxy.stop()
    assert (b"\r\nConnection: close\r\n" in await client.pinged()) is stops


@pytest.mark.parametrize("size", [4, 100_000])
async def test_an_upstreams_refusal_after_a_ping_is_kept_while_another_may_take_the_request(
    stack: MakeStack, ask: Ask, size: int
) -> None:
    engine, go_on = gated(after=answer(429, b"busy" * (size // 4)))
    proxy = await start(stack, engine, answering(HEAD + CHUNK + END), observed=True)
    client = await ask(proxy)
    await client.pinged()
    go_on.set()
    if size > 64 * 1024:  # too large to be kept: as without pings it is the answer
        assert (await client.error())["message"] == "busy" * 50
    else:
        body, ended = await client.rest()
        assert (body.endswith(EVENT), ended) == (True, True)
    assert proxy.owner.answers[0][:2] == ("0", 429)


async def test_and_is_an_event_when_nobody_else_does(stack: MakeStack, ask: Ask) -> None:
    engine, go_on = gated(after=answer(429, OPENAI))
    proxy = await start(stack, engine, observed=True)
    client = await ask(proxy)
    await client.pinged()
    go_on.set()
    assert await client.error() == json.loads(OPENAI)["error"]
    await all_free(proxy)


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(),
        post(b'{"stream":false}'),
        post(ASKED, "/v1/embeddings"),
        post(ASKED, "/v1/messages/count_tokens"),
        post(ASKED).replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
async def test_whoever_asks_for_no_stream_gets_an_answer_with_its_status(
    stack: MakeStack, ask: Ask, request_bytes: bytes
) -> None:
    proxy = await start(stack, answering(OK))
    lease = slot_of(proxy)
    client = await ask(proxy, request_bytes)
    client.later(PERIOD)
    client.later(PERIOD)
    lease.release()
    assert (await asyncio.wait_for(client.reader.read(), SOON)).endswith(b'\r\n\r\n{"ok":true}')


async def test_without_the_option_nobody_is_told_anything(stack: MakeStack, ask: Ask) -> None:
    proxy = await start(stack, answering(HEAD + CHUNK + END), sse_ping=None)
    lease = slot_of(proxy)
    client = await ask(proxy)
    client.later(NEVER / 2)
    lease.release()
    assert b"x-slotproxy-instance: 0\r\n" in await client.head()


async def test_who_leaves_while_it_is_told_to_wait_is_out_of_the_queue(stack: MakeStack, ask: Ask) -> None:
    proxy = await start(stack, answering(OK))
    slot_of(proxy)
    client = await ask(proxy)
    await client.pinged()
    client.writer.transport.abort()
    await until(lambda: not proxy.leases.queued)
    assert not proxy.forwarder.active


async def test_who_does_not_read_is_told_nothing(stack: MakeStack, ask: Ask) -> None:
    proxy = await start(stack, answering(HEAD + CHUNK + END))
    lease = slot_of(proxy)
    client = await ask(proxy)
    await client.pinged()
    (theirs,) = proxy.front.connections
    theirs.pause_writing()
    client.later(PERIOD)
    theirs.resume_writing()
    lease.release()
    body, ended = await client.rest()
    assert (COMMENT in body, ended) == (False, True)


async def test_one_that_has_ended_its_side_is_asked_by_what_means_nothing_in_a_stream(
    stack: MakeStack, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HALF_CLOSED", 0.0)
    proxy = await start(stack, answering(HEAD + CHUNK + END))
    lease = slot_of(proxy)
    client = await ask(proxy)
    await client.pinged()
    client.writer.write_eof()
    assert await asyncio.wait_for(client.reader.readexactly(1), SOON) == b"0"
    client.later(PERIOD)
    lease.release()
    body, ended = await client.rest()
    assert (body.startswith(COMMENT), body.endswith(EVENT), ended) == (True, True, True)


async def test_a_bug_after_a_ping_ends_the_connection(
    stack: MakeStack, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = await start(stack, answering(OK))
    lease = slot_of(proxy)
    client = await ask(proxy)
    await client.pinged()

    async def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(proxy.forwarder, "connect", fails)
    lease.release()
    assert await client.rest() == (b"", False)
    await all_free(proxy)
    assert not proxy.forwarder.active
