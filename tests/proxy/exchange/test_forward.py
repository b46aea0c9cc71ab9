"""One request's way through lease, engine and answer, with engines that are scripts of bytes."""

import asyncio
import contextlib
import json
import re
from itertools import pairwise

import pytest

from slotproxy.instances.conversations.affinity import Affinity
from slotproxy.instances.errors import ClientQueueFull, HeldBack, ShuttingDown
from slotproxy.instances.slots.line import Ahead
from slotproxy.instances.slots.principal import USUAL_COST
from slotproxy.instances.slots.routing import least_busy
from slotproxy.instances.upstream import Upstream
from slotproxy.proxy.engines import relay
from slotproxy.proxy.engines.observed import LARGEST
from tests.clients import connected
from tests.proxy.conftest import SOON, MakeStack, Script, Stack, answering

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n" + b'{"ok":true}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"x":1}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
END = b"0\r\n\r\n"


def post(body: bytes = b'{"messages":[]}', path: str = "/v1/chat/completions", fields: bytes = b"") -> bytes:
    return (
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%bContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (path.encode(), fields, len(body), body)
    )


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def code(answer: bytes) -> str:
    found: str = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]
    return found


def dechunked(body: bytes) -> tuple[bytes, bool]:
    """The payload of a chunked body, and whether it was ended properly."""
    out = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        count = int(size, 16)
        if count == 0:
            return out, body == b"\r\n"
        out, body = out + body[:count], body[count + 2 :]
    return out, False


async def until(condition: object) -> None:
    async with asyncio.timeout(SOON):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.001)


async def all_free(stack: Stack) -> None:
    await until(lambda: not any(stack.leases.leased(upstream) for upstream in stack.upstreams))


async def test_an_answer_passes_with_our_headers_added(stack: MakeStack) -> None:
    engine = answering(OK)
    proxy = await stack(engine)
    answer = await proxy.ask(post(fields=b"X-Request-Id: mine\r\n"))
    assert status(answer) == 200
    assert answer.endswith(b'\r\n\r\n{"ok":true}')
    assert b"x-request-id: mine\r\nx-slotproxy-instance: 0\r\nx-slotproxy-queue-ms: 0\r\n" in answer
    assert engine.bodies == [b'{"messages":[]}']
    assert b"x-request-id: mine\r\n" in engine.heads[0]
    await all_free(proxy)


async def test_every_cut_of_a_stream_leaves_its_bytes_alone(stack: MakeStack) -> None:
    raw = HEAD + CHUNK * 2 + b"5;ext=1\r\n: hi\n\r\n" + CHUNK + END
    cut = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for cut in range(1, len(raw)):
            await engine.request(reader)
            for start, end in pairwise((0, cut, len(raw))):
                writer.write(raw[start:end])
                await writer.drain()
                await asyncio.sleep(0)

    engine = Script(talk)
    proxy = await stack(engine)
    for cut in range(1, len(raw)):
        answer = await proxy.ask(post())
        body, ended = dechunked(answer.partition(b"\r\n\r\n")[2])
        assert (body, ended) == (EVENT * 2 + b": hi\n" + EVENT, True), cut
        assert b"X-Accel-Buffering: no" in answer
    assert engine.connections == 1


async def test_events_leave_as_they_arrive_each_in_a_chunk_of_its_own(stack: MakeStack) -> None:
    go = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await engine.request(reader)
        writer.write(HEAD)
        await go.wait()
        writer.write(CHUNK + END)

    engine = Script(talk)
    proxy = await stack(engine)
    reader, writer = await proxy.client()
    writer.write(post())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON)  # the head does not wait for an event
    assert b"Transfer-Encoding: chunked" in head
    go.set()
    assert await asyncio.wait_for(reader.read(), SOON) == CHUNK + END
    writer.close()


async def test_a_connection_is_used_again(stack: MakeStack) -> None:
    engine = answering(OK)
    proxy = await stack(engine)
    for _ in range(3):
        assert status(await proxy.ask(post())) == 200
    assert engine.connections == 1


async def test_not_for_an_engine_that_takes_one_request_per_connection(stack: MakeStack) -> None:
    engine = answering(OK)
    proxy = await stack(engine, keepalive=0)
    for _ in range(3):
        assert status(await proxy.ask(post())) == 200
    assert engine.connections == 3


async def test_a_kept_connection_the_engine_had_closed_is_replaced_silently(stack: MakeStack) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await engine.request(reader)
        writer.write(OK)
        if engine.connections == 1:
            await reader.readuntil(b"\r\n\r\n")  # the second request meets a closing engine
            writer.transport.abort()

    engine = Script(talk)
    proxy = await stack(engine)
    assert [status(await proxy.ask(post())) for _ in range(2)] == [200, 200]
    assert engine.connections == 2
    assert proxy.owner.failures == []
    assert proxy.metric('slotproxy_retries_total{reason="stale"}') == 1


async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()


@pytest.mark.parametrize(
    "broken",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
     b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
     b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
     b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 70_000 + b"\r\n"],
    ids=["nothing", "half head", "garbage", "empty", "two framings", "two lengths", "upgrade", "version", "huge head"],
)  # fmt: skip
async def test_what_breaks_before_the_first_byte_is_tried_once_on_another_instance(
    stack: MakeStack, broken: bytes
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await bad.request(reader)
        writer.write(broken)
        await writer.drain()

    bad, good = Script(talk), answering(OK)
    proxy = await stack(bad, good)
    answer = await proxy.ask(post())
    assert status(answer) == 200
    assert b"x-slotproxy-instance: 1" in answer
    assert (len(bad.heads), len(good.heads)) == (1, 1)
    assert [instance for instance, _ in proxy.owner.failures] == ["0"]


async def test_and_not_on_a_third(stack: MakeStack) -> None:
    engines = Script(die), Script(die), answering(OK)
    proxy = await stack(*engines)
    answer = await proxy.ask(post())
    assert (status(answer), code(answer)) == (502, "upstream_failed")
    assert b"x-should-retry: false" in answer
    assert engines[2].heads == []


def serving_once() -> Script:
    """An engine that answers its first request, keeps the connection, and dies of every other request."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not engine.heads:
            await engine.request(reader)
            writer.write(OK)
        await engine.request(reader)
        writer.transport.abort()

    engine = Script(talk)
    return engine


async def test_a_connection_that_ends_long_after_its_request_was_not_stale(
    stack: MakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "STALE_WITHIN", 0.0)  # now everything takes long
    engines = [serving_once() for _ in range(3)]
    proxy = await stack(*engines)
    assert [status(await proxy.ask(post())) for _ in engines] == [200] * 3
    answer = await proxy.ask(post())
    assert (status(answer), code(answer)) == (502, "upstream_failed")
    assert b"x-should-retry: false" in answer
    assert sum(len(engine.heads) for engine in engines) == 3 + 2, "each of two had it once"
    assert sorted(reason for _, reason in proxy.owner.failures) == ["reset"] * 2
    assert proxy.metric('slotproxy_retries_total{reason="stale"}') == 0


async def test_a_request_meets_a_stale_connection_once(stack: MakeStack) -> None:
    engines = [serving_once() for _ in range(3)]
    proxy = await stack(*engines)
    assert [status(await proxy.ask(post())) for _ in engines] == [200] * 3
    answer = await proxy.ask(post())
    assert (status(answer), code(answer)) == (502, "upstream_failed")
    assert b"x-should-retry: false" in answer
    assert sum(len(engine.heads) for engine in engines) == 3 + 3, "on a stale connection, a fresh one, another engine"
    assert proxy.metric('slotproxy_retries_total{reason="stale"}') == 1
    assert sorted(reason for _, reason in proxy.owner.failures) == ["reset"] * 2


async def test_an_engine_that_is_gone_after_a_stale_connection_is_reported_and_had_the_prompt(
    stack: MakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await engine.request(reader)
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async def refused(upstream: Upstream) -> relay.EngineConnection:
        raise ConnectionRefusedError(111, "Connection refused")

    engine = Script(talk)
    proxy = await stack(engine)
    assert status(await proxy.ask(post())) == 200
    monkeypatch.setattr(proxy.forwarder, "connect", refused)
    answer = await proxy.ask(post())
    assert (status(answer), code(answer)) == (502, "upstream_failed")
    assert b"x-should-retry: false" in answer, "it may have died of it"
    assert proxy.owner.failures == [("0", "refused")]


async def test_engines_that_refuse_connections_are_reported_and_do_not_count_as_tries(stack: MakeStack) -> None:
    good = answering(OK)
    proxy = await stack(good)
    (serving,) = proxy.upstreams
    proxy.leases.withdraw(serving)
    for name in "xyz":
        proxy.leases.add(Upstream(instance=name, host="127.0.0.1", port=1))
    proxy.leases.add(serving)
    answer = await proxy.ask(post())
    assert status(answer) == 200
    assert proxy.owner.failures == [(name, "refused") for name in "xyz"]
    assert proxy.metric('slotproxy_retries_total{reason="refused"}') == 3
    await all_free(proxy)


async def test_a_refused_connection_tells_sdks_that_a_retry_is_safe(stack: MakeStack) -> None:
    engine = answering(OK)
    proxy = await stack(engine)
    proxy.leases.withdraw(proxy.upstreams[0])
    proxy.leases.add(Upstream(instance="x", host="127.0.0.1", port=1))
    answer = await proxy.ask(post())
    assert (status(answer), code(answer)) == (502, "upstream_failed")
    assert b"x-should-retry" not in answer


async def test_a_refused_second_try_does_not_hide_that_the_first_engine_had_the_prompt(stack: MakeStack) -> None:
    proxy = await stack(Script(die))
    proxy.leases.add(Upstream(instance="x", host="127.0.0.1", port=1))
    answer = await proxy.ask(post())
    assert (status(answer), code(answer)) == (502, "upstream_failed")
    assert b"x-should-retry: false" in answer


async def test_a_stream_of_counted_bytes_is_cut_without_an_event_that_could_stand_for_them(stack: MakeStack) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await engine.request(reader)
        size = len(EVENT) + 20  # so few bytes are missing that an error event would be longer
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % size)
        writer.write(EVENT)
        await writer.drain()

    engine = Script(talk)
    proxy = await stack(engine)
    reader, writer = await proxy.client()
    writer.write(post(b'{"stream":true}'))
    got = b""
    with contextlib.suppress(ConnectionError):  # a reset
        while data := await asyncio.wait_for(reader.read(1000), SOON):
            got += data
    writer.close()
    assert got.partition(b"\r\n\r\n")[2] in (b"", EVENT)


async def test_an_engine_that_dies_in_its_stream_ends_in_an_error_event_and_no_clean_end(stack: MakeStack) -> None:
    half = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await engine.request(reader)
        writer.write(HEAD + CHUNK + b"7\r\ndata: {\r\n")
        await half.wait()
        writer.transport.abort()

    engine, spare = Script(talk), answering(OK)
    proxy = await stack(engine, spare)
    reader, writer = await proxy.client()
    writer.write(post())
    begun = await asyncio.wait_for(reader.readuntil(b"data: {\r\n"), SOON)
    half.set()
    answer = begun + await asyncio.wait_for(reader.read(), SOON)
    body, ended = dechunked(answer.partition(b"\r\n\r\n")[2])
    assert not ended
    *_, event, rest = body.split(b"\n\n")
    assert rest == b""
    assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "upstream_failed"
    assert spare.heads == [], "a request is never sent again after the client saw a byte"
    writer.close()


async def test_a_body_that_ends_early_is_cut_off(stack: MakeStack) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await engine.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfive!")

    engine = Script(talk)
    proxy = await stack(engine)
    reader, writer = await proxy.client()
    writer.write(post())
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1000), SOON)
    writer.close()


async def test_a_body_until_close_is_framed_for_the_client(stack: MakeStack) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await engine.request(reader)
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello")

    engine = Script(talk)
    proxy = await stack(engine)
    answer = await proxy.ask(post())
    assert dechunked(answer.partition(b"\r\n\r\n")[2]) == (b"hello", True)
    old = await proxy.ask(post().replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert old.endswith(b"\r\n\r\nhello")
    assert b"chunked" not in old


@pytest.mark.parametrize(
    ("events", "whole"),
    [
        (b'data: {"n": 1}\n\ndata: [DONE]\n\n', True),
        (b'data: {"n": 1}\n\ndata:[DONE]', True),
        (b'event: message_stop\ndata: {"type": "message_stop"}\n\n', True),
        (b'data: {"type": "response.completed", "response": {}}\n\n', True),
        (b'data: {"error": {"message": "prefill failed"}}\n\n', True),
        (b'data: {"type": "response.completed", "text": "' + b"x" * 40000 + b'"}\n\n', True),
        (b'data: {"n": 1}\n\n', False),
        (b'data: {"n": 1', False),
        (b'data: {"text": "data: [DONE]"}\n\n', False),
        (b'data: {"text": "' + b"x" * 40000, False),
        (b": keep-alive\n\n", False),
        (b"", False),
    ],
)
async def test_a_stream_that_only_the_closing_of_its_connection_ends_has_to_have_said_its_end(
    stack: MakeStack, events: bytes, whole: bool
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await engine.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + events)

    engine = Script(talk)
    proxy = await stack(engine)
    answer = await proxy.ask(post())
    assert answer.endswith(b"0\r\n\r\n") == whole
    assert (b"upstream_failed" in answer) != whole


async def test_interim_answers_are_not_passed_on(stack: MakeStack) -> None:
    proxy = await stack(answering(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK))
    answer = await proxy.ask(post())
    assert answer.count(b"HTTP/1.1") == 1
    assert status(answer) == 200


async def test_bodiless_answers_and_head_requests_end_with_their_head(stack: MakeStack) -> None:
    proxy = await stack(answering(b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"))
    assert (await proxy.ask(post())).startswith(b"HTTP/1.1 204 No Content\r\n")
    head = await proxy.ask(b"HEAD /props HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert b"Content-Length: 99\r\n" in head
    assert head.endswith(b"\r\n\r\n")
    await all_free(proxy)


async def test_surplus_bytes_of_an_engine_reach_nobody(stack: MakeStack) -> None:
    engine = answering(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen", OK)
    proxy = await stack(engine)
    for _ in range(2):
        answer = await proxy.ask(post())
        assert answer.endswith(b'{"ok":true}')
        assert b"stolen" not in answer


async def test_an_engines_own_error_passes_untouched(stack: MakeStack) -> None:
    proxy = await stack(answering(b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 4\r\n\r\nbusy"))
    answer = await proxy.ask(post())
    assert answer.startswith(b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\n")
    assert answer.endswith(b"busy")


def silent() -> Script:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await script.request(reader)
        await reader.read()

    script = Script(talk)
    return script


async def test_a_client_that_leaves_resets_the_engines_connection_and_abandons_the_slot(stack: MakeStack) -> None:
    engine = silent()
    proxy = await stack(engine)
    _, writer = await proxy.client()
    writer.write(post())
    await until(lambda: engine.heads)
    writer.transport.abort()
    await until(lambda: proxy.owner.lost)
    assert proxy.leases.leased(proxy.upstreams[0]) == 1, "cancelled, but busy until the engine is known idle"
    await until(lambda: proxy.metric('slotproxy_cancelled_total{phase="prefill"}') == 1)


async def test_a_client_that_leaves_the_queue_reaches_no_engine(stack: MakeStack) -> None:
    engine = silent()
    proxy = await stack(engine)
    _, first = await proxy.client()
    first.write(post())
    await until(lambda: engine.heads)
    _, second = await proxy.client()
    second.write(post())
    await until(lambda: proxy.leases.queued)
    second.transport.abort()
    await until(lambda: not proxy.leases.queued)
    await until(lambda: proxy.metric('slotproxy_cancelled_total{phase="queued"}') == 1)
    assert len(engine.heads) == 1
    first.close()


async def test_a_client_that_leaves_in_the_tick_its_answer_ends_takes_no_slot_along(stack: MakeStack) -> None:
    proxy = await stack(answering(OK))
    for _ in range(50):
        reader, writer = await proxy.client()
        writer.write(post())
        await reader.read(1)
        writer.transport.abort()
    await until(lambda: proxy.metric('slotproxy_request_duration_seconds_count{route="/v1/chat/completions"}') == 50)
    for lease in proxy.owner.lost:
        lease.release()
    await all_free(proxy)
    assert status(await proxy.ask(post())) == 200


async def test_the_queue_is_bounded_in_length_and_in_time(stack: MakeStack) -> None:
    proxy = await stack(silent(), queue=1, queue_timeout=0.05)
    _, holder = await proxy.client()
    holder.write(post())
    await until(lambda: proxy.leases.leased(proxy.upstreams[0]))
    waiting = asyncio.ensure_future(proxy.ask(post()))
    await until(lambda: proxy.leases.queued)
    full = await proxy.ask(post())
    assert (status(full), code(full)) == (429, "queue_full")
    timeout = await waiting
    assert (status(timeout), code(timeout)) == (503, "queue_timeout")
    for answer in (full, timeout):
        found = re.search(rb"Retry-After: (\d+)\r\n", answer)
        assert found
        assert 1 <= int(found.group(1)) <= 60
    holder.close()


def told(answer: bytes) -> tuple[int, int]:
    """Of `Retry-After` and the position in the queue."""
    retry = re.search(rb"Retry-After: (\d+)\r\n", answer)
    assert retry
    return int(retry.group(1)), position(answer)


def position(answer: bytes) -> int:
    found = re.findall(rb"x-slotproxy-queue-position: (\d+)\r\n", answer)
    assert len(found) == 1
    return int(found[0])


async def test_who_has_no_slot_is_told_how_many_are_ahead_and_how_long_they_will_take(stack: MakeStack) -> None:
    proxy = await stack(silent(), queue=2, queue_timeout=0.2)
    rate = proxy.forwarder.rate
    for _ in range(200):
        rate.observe(4.0)
    proxy.leases.take()
    waiting = []
    for number in (1, 2):
        waiting.append(asyncio.ensure_future(proxy.ask(post())))
        await until(lambda number=number: proxy.leases.queued == number)
    full = await proxy.ask(post())
    assert (status(full), told(full)) == (429, (12, 2))
    in_time = [told(answer) for answer in await asyncio.gather(*waiting)]
    assert in_time == [(4, 0), (4, 0)]  # the first gave up before the second did


async def test_a_request_that_had_to_wait_is_told_how_many_were_ahead_when_it_began_to(stack: MakeStack) -> None:
    proxy = await stack(answering(OK))
    slot = proxy.leases.take()
    assert slot is not None
    waiting = []
    for number in (1, 2):
        waiting.append(asyncio.ensure_future(proxy.ask(post())))
        await until(lambda number=number: proxy.leases.queued == number)
    slot.release()
    assert [position(answer) for answer in await asyncio.gather(*waiting)] == [0, 1]
    assert b"x-slotproxy-queue-position" not in await proxy.ask(post())


async def test_one_who_floods_is_not_what_others_are_told_to_wait_for(stack: MakeStack) -> None:
    proxy = await stack(silent(), queue=3, keys=("one", "other", "third"), per_client=2)
    proxy.leases.take()
    one, other = b"x-api-key: one\r\n", b"x-api-key: other\r\n"
    waiting = []
    for number in (1, 2):
        waiting.append(asyncio.ensure_future(proxy.ask(post(fields=one))))
        await until(lambda number=number: proxy.leases.queued == number)
    refused = await proxy.ask(post(fields=one))
    assert (b"--queue-per-client" in refused, position(refused)) == (True, 2)
    waiting.append(asyncio.ensure_future(proxy.ask(post(fields=other))))
    await until(lambda: proxy.leases.queued == 3)
    refused = await proxy.ask(post(fields=one))
    assert (b"3 requests are waiting" in refused, position(refused)) == (True, 3)
    async with connected(proxy.port) as client:  # the same before its body came
        client.send(post(fields=one + b"Expect: 100-continue\r\n").partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        head = await client.head()
    assert (head.status, head["x-slotproxy-queue-position"]) == (429, "3")
    refused = await proxy.ask(post(fields=b"x-api-key: third\r\n"))
    assert position(refused) == 2  # only the first of each is ahead
    for answer in waiting:
        answer.cancel()


@pytest.mark.parametrize("stream", [False, True])
async def test_what_its_prompt_made_expect_is_measured_with_how_long_a_slot_was_held(
    stack: MakeStack, stream: bool
) -> None:
    engine = answering(HEAD + CHUNK + END if stream else OK)
    proxy = await stack(engine, engine)
    proxy.leases.decide_by(Affinity(least_busy))
    prompt = b'{"messages":[{"role":"user","content":"%b"}]}' % (b"x" * 40_000)
    assert status(await proxy.ask(post(prompt))) == 200
    wait = proxy.forwarder.rate.wait
    tokens = 1000 / (wait(Ahead(1, 1000.0), 1) / wait(Ahead(0, 0.0), 1) - 1)  # in the average: one of ten is the latest
    assert tokens == pytest.approx(USUAL_COST + 1000, rel=0.01)


async def test_a_client_with_too_many_requests_waiting_is_refused_as_by_a_full_queue(stack: MakeStack) -> None:
    proxy = await stack()
    proxy.leases.refuse(lambda: ClientQueueFull(4))
    answer = await proxy.ask(post())
    assert (status(answer), code(answer)) == (429, "queue_full")
    assert b"This client has 4 requests waiting already" in answer
    assert re.search(rb"Retry-After: \d+\r\n", answer)
    assert proxy.metric('slotproxy_queue_rejected_total{reason="client"}') == 1
    assert proxy.metric('slotproxy_queue_rejected_total{reason="full"}') == 0


async def test_with_no_engine_ready_the_wait_ends_in_loading_model(stack: MakeStack) -> None:
    proxy = await stack(queue_timeout=0.01)
    answer = await proxy.ask(post())
    assert (status(answer), code(answer)) == (503, "loading_model")


async def test_queued_requests_are_refused_at_once_when_the_proxy_drains(stack: MakeStack) -> None:
    proxy = await stack()
    waiting = asyncio.ensure_future(proxy.ask(post()))
    await until(lambda: proxy.leases.queued)
    proxy.leases.refuse(ShuttingDown)
    answer = await waiting
    assert (status(answer), code(answer)) == (503, "shutting_down")
    assert b"Connection: close" in answer


@pytest.mark.parametrize("began", [False, True])
async def test_a_hung_engine_is_given_up_at_its_deadline(stack: MakeStack, began: bool) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await engine.request(reader)
        if began:
            writer.write(HEAD + CHUNK)
        await reader.read()

    engine = Script(talk)
    proxy = await stack(engine, answering(OK), prefill_timeout=0.5, stall_timeout=0.2)
    answering_now = asyncio.ensure_future(proxy.ask(post()))
    await until(lambda: engine.heads)
    loop = asyncio.get_running_loop()
    while not answering_now.done():
        proxy.forwarder.sweep(loop.time())
        await asyncio.sleep(0.01)
    answer = await answering_now
    if began:
        body, ended = dechunked(answer.partition(b"\r\n\r\n")[2])
        assert b"upstream_timeout" in body
        assert not ended
    else:
        assert (status(answer), code(answer)) == (504, "upstream_timeout")
        assert b"x-should-retry: false" in answer
    assert proxy.owner.failures == [("0", "hang")]


@pytest.mark.parametrize("write_stall", [0.0, 2.0])
async def test_a_client_that_does_not_read_costs_bounded_memory(stack: MakeStack, write_stall: float) -> None:
    sent = 0
    piece = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await engine.request(reader)
        writer.write(HEAD)
        for _ in range(4096):  # 64 MiB
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    engine = Script(talk)
    proxy = await stack(engine, write_stall=write_stall, stall_timeout=0.2)
    _, writer = await proxy.client()
    writer.write(post())
    loop = asyncio.get_running_loop()
    before = -1
    while before != sent or not sent:
        before = sent
        await asyncio.sleep(0.1)
    assert sent < 24 << 20, "what the sockets and the proxy hold together"
    while not proxy.owner.lost:
        proxy.forwarder.sweep(loop.time())
        await asyncio.sleep(0.01)
    assert proxy.owner.failures == [], "the engine is not to blame"
    await until(lambda: not proxy.front.connections)  # nor does its connection wait for it to read the rest
    writer.close()


async def test_a_connection_that_one_client_held_back_serves_the_next(stack: MakeStack) -> None:
    size = 16 << 10
    engine = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    proxy = await stack(engine)
    _, unread = await proxy.client()
    unread.write(post().replace(b"Connection: close\r\n", b"") * 1000)
    await until(lambda: any(connection.writing_paused for connection in proxy.front.connections))
    unread.transport.abort()
    await until(lambda: not proxy.front.connections)
    for lease in proxy.owner.lost:
        lease.release()
    assert status(await proxy.ask(post())) == 200


async def test_answers_behind_unread_ones_cost_bounded_memory_too(stack: MakeStack) -> None:
    size, count = 16 << 10, 3000  # 47 MiB, each answer in one segment
    engine = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    proxy = await stack(engine)
    _, writer = await proxy.client()
    writer.write(post().replace(b"Connection: close\r\n", b"") * count)
    before = -1
    while before != len(engine.heads) or not engine.heads:
        before = len(engine.heads)
        await asyncio.sleep(0.2)
    assert len(engine.heads) * size < 24 << 20
    writer.close()


async def test_a_slow_reader_gets_every_byte(stack: MakeStack) -> None:
    total = 8 << 20

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await engine.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        for _ in range(total >> 16):
            writer.write(b"x" * (1 << 16))
            await writer.drain()
        await reader.read()

    engine = Script(talk)
    proxy = await stack(engine)
    reader, writer = await proxy.client()
    writer.write(post())
    await asyncio.sleep(0.1)
    answer = await asyncio.wait_for(reader.read(), 20)
    assert answer.partition(b"\r\n\r\n")[2] == b"x" * total
    writer.close()


async def test_when_the_drain_is_over_streams_end_visibly_incomplete(stack: MakeStack) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await engine.request(reader)
        writer.write(HEAD + CHUNK)
        await reader.read()

    engine = Script(talk)
    proxy = await stack(engine)
    reader, writer = await proxy.client()
    writer.write(post())
    await asyncio.wait_for(reader.readuntil(CHUNK), SOON)
    proxy.forwarder.break_off()
    body, ended = dechunked(await asyncio.wait_for(reader.read(), SOON))
    assert b"shutting_down" in body
    assert not ended
    writer.close()


async def test_keys_are_checked_and_not_passed_on(stack: MakeStack) -> None:
    engine = answering(OK)
    proxy = await stack(engine, keys=("sesame",))
    refused = await proxy.ask(post())
    assert (status(refused), code(refused)) == (401, "invalid_api_key")
    assert status(await proxy.ask(post(fields=b"Authorization: Bearer sesame\r\n"))) == 200
    assert b"sesame" not in engine.heads[0]
    assert status(await proxy.ask(b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")) == 200


@pytest.mark.parametrize("model", [None, "theirs"])
async def test_json_that_only_the_engine_judges_reaches_it_as_it_came(stack: MakeStack, model: str | None) -> None:
    engine = answering(OK)
    proxy = await stack(engine, model=model)
    for filler in (b"", b"x" * 10_000, b"x" * 200_000):
        body = b'\xef\xbb\xbf{"model":"ours","messages":["Hi \\ud83d there%b"]}\0' % filler
        assert status(await proxy.ask(post(body))) == 200
        assert engine.bodies.pop() == (body if model is None else body.replace(b"ours", b"theirs"))


LIMITED = b'{"error":{"type":"requests","code":"rate_limit_exceeded"}}'
REFUSED = (
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(LIMITED), LIMITED)
)


async def test_what_an_upstream_refuses_another_is_asked_for(stack: MakeStack) -> None:
    first, second = answering(REFUSED), answering(OK)
    proxy = await stack(first, second, observed=True)
    answer = await proxy.ask(post(b'{"messages":["x"]}'))
    assert status(answer) == 200
    assert b"x-slotproxy-instance: 1\r\n" in answer
    assert second.bodies == [b'{"messages":["x"]}']
    assert proxy.metric('slotproxy_retries_total{reason="limited"}') == 1
    (told,) = [one for one in proxy.owner.answers if one[0] == "0"]
    assert (told[1], told[3]) == (429, LIMITED)
    assert (b"Retry-After", b"7") in told[2]
    assert proxy.leases.statistics.errors.refused == 1
    await all_free(proxy)


@pytest.mark.parametrize("count", [1, 2])
async def test_a_refusal_of_everybody_who_may_be_asked_passes_untouched(stack: MakeStack, count: int) -> None:
    engines = [answering(REFUSED) for _ in range(count)]
    proxy = await stack(*engines, observed=True)
    answer = await proxy.ask(post())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\n")
    assert head.lower().count(b"content-length") == 1
    assert body == LIMITED
    assert sum(len(engine.heads) for engine in engines) == count
    assert b"x-slotproxy-instance: %d\r\n" % (count - 1) in answer
    await all_free(proxy)


@pytest.mark.parametrize("size", [0, 10, 400_000])
async def test_a_refusal_of_any_framing_and_size_passes(stack: MakeStack, size: int) -> None:
    body = b"x" * size
    chunk = b"%x\r\n%b\r\n" % (size, body) if size else b""
    head = b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n"
    proxy = await stack(answering(head + chunk + END), observed=True)
    answer = await proxy.ask(post())
    assert status(answer) == 503
    assert dechunked(answer.partition(b"\r\n\r\n")[2]) == (body, True)
    (told,) = proxy.owner.answers
    assert told[1] == 503
    assert body.startswith(told[3])
    assert len(told[3]) >= min(size, LARGEST)


async def test_nobody_waits_for_a_slot_of_one_that_may_have_none(stack: MakeStack) -> None:
    proxy = await stack(answering(REFUSED), answering(OK), observed=True)
    proxy.leases.resize(proxy.upstreams[1], 0)
    assert status(await proxy.ask(post())) == 429
    assert proxy.leases.queued == 0


async def test_a_refusal_is_the_clients_when_the_wait_for_another_was_in_vain(stack: MakeStack) -> None:
    proxy = await stack(answering(REFUSED), silent(), observed=True, queue_timeout=0.05)
    proxy.leases.add(proxy.upstreams[0])  # it is its turn next
    busy = proxy.leases.take({proxy.upstreams[0]})
    assert busy is not None
    answer = await proxy.ask(post())
    assert status(answer) == 429
    assert b"x-slotproxy-instance: 0\r\n" in answer
    busy.release()


async def test_a_refusal_is_the_clients_when_the_other_one_is_dead(stack: MakeStack) -> None:
    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    proxy = await stack(answering(REFUSED), Script(dies), observed=True)
    assert status(await proxy.ask(post())) == 429


async def test_the_refusals_of_our_own_engines_pass_at_once(stack: MakeStack) -> None:
    other = answering(OK)
    proxy = await stack(answering(REFUSED), other)
    assert status(await proxy.ask(post())) == 429
    assert other.heads == []
    assert proxy.owner.answers == []


async def test_a_client_that_leaves_during_a_refusal_ends_it(stack: MakeStack) -> None:
    ended = asyncio.Event()

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(REFUSED[:-5])
        try:
            await reader.read()
        finally:
            ended.set()

    proxy = await stack(Script(slowly), observed=True)
    _, writer = await proxy.client()
    writer.write(post())
    await until(lambda: proxy.leases.leased(proxy.upstreams[0]))
    writer.transport.abort()
    await asyncio.wait_for(ended.wait(), SOON)
    await until(lambda: proxy.owner.lost)
    proxy.owner.lost[0].release()
    await all_free(proxy)


async def test_what_is_observed_is_told_once_for_every_answer_and_once_more_for_an_error_in_a_stream(
    stack: MakeStack,
) -> None:
    error = b'{"type":"error","error":{"type":"overloaded_error"}}'
    event = b"event: error\ndata: " + error + b"\n\n"
    broken = b"%x\r\n%b\r\n" % (len(event), event)
    good = HEAD + CHUNK + END
    bad = HEAD + CHUNK + broken[:20] + broken[20:] + END
    proxy = await stack(answering(OK, good, bad), observed=True)
    answers = [await proxy.ask(post()) for _ in range(3)]
    assert dechunked(answers[2].partition(b"\r\n\r\n")[2]) == (EVENT + event, True)
    assert [(told[1], told[3]) for told in proxy.owner.answers] == [(200, b""), (200, b""), (200, b""), (None, error)]


async def test_nobody_waits_for_what_will_not_come_in_time(stack: MakeStack) -> None:
    engine = answering(OK)
    proxy = await stack(engine, observed=True)
    proxy.leases.resize(proxy.upstreams[0], 0)
    proxy.owner.vain = HeldBack("api.example takes no request: its rate limit is reached", 40)
    answer = await proxy.ask(post())
    assert (status(answer), code(answer)) == (429, "upstream_rate_limited")
    assert b"Retry-After: 40\r\n" in answer
    assert b"No request is taken for another 40 s: api.example takes no request: its rate limit is reached." in answer
    proxy.leases.resize(proxy.upstreams[0], 1)
    assert status(await proxy.ask(post())) == 200
