"""What the proxy answers itself, and what it refuses before an engine hears of it."""

import asyncio
import contextlib
import json
from time import monotonic
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from slotproxy.instances.slots.beside import EACH
from slotproxy.instances.slots.service_rate import like_any
from slotproxy.instances.snapshot import Kind
from slotproxy.proxy.clients import connection
from slotproxy.proxy.clients.access import Access
from tests.clients import connected
from tests.proxy.conftest import SOON, MakeStack, Script, answering
from tests.proxy.exchange.test_forward import OK, code, post, status


def get(path: str, fields: bytes = b"", method: bytes = b"GET") -> bytes:
    start = b"%b %b HTTP/1.1\r\n" % (method, path.encode("latin-1"))
    return start + b"Host: localhost\r\nConnection: close\r\n%b\r\n" % fields


def body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


async def test_models_tell_the_context_every_instance_has(stack: MakeStack) -> None:
    proxy = await stack(answering(OK))
    models = json.loads(body(await proxy.ask(get("/v1/models"))))
    assert models["data"] == [{"id": "demo", "meta": {"n_ctx": 2048}, "context_length": 2048}]


@pytest.mark.parametrize("up", ["..", "%2e%2e", "..%2f..", "%2e.", "..\\..", "x/..", "."])
@pytest.mark.parametrize("page", ["health", "slotproxy/api/state", "slotproxy/api/instances/1/log"])
async def test_nothing_but_models_is_found_below_their_list(stack: MakeStack, up: str, page: str) -> None:
    proxy = await stack(answering(OK), loopback=False)
    for method in (b"GET", b"POST", b"DELETE"):
        for path in (f"/v1/models/{up}/{up}/{page}", f"/v1/models/{up}%2f{up}%2f{page.replace('/', '%2F')}"):
            answer = await proxy.ask(get(path, method=method))
            assert (status(answer), code(answer)) in [(404, "model_not_found"), (405, "method_not_allowed")]
    assert proxy.operations.asked == []


async def test_with_upstreams_only_they_say_themselves_what_they_have(stack: MakeStack) -> None:
    engine = answering(OK)
    proxy = await stack(engine, kind=Kind.UPSTREAM, slotless=("/v1/models",))
    proxy.leases.take()
    assert body(await proxy.ask(get("/v1/models"))) == b'{"ok":true}'
    assert engine.heads[0].startswith(b"GET /v1/models HTTP/1.1\r\n")


async def test_what_an_engine_answers_beside_its_slots_waits_for_none(stack: MakeStack) -> None:
    engine = answering(OK)
    proxy = await stack(engine, queue=0, slotless=("/tokenize",))
    proxy.leases.take()
    assert status(await proxy.ask(post(path="/tokenize"))) == 200
    assert status(await proxy.ask(post())) == 429
    assert proxy.leases.leased(proxy.upstreams[0]) == 1


async def test_the_method_says_whether_a_request_needs_a_slot(stack: MakeStack) -> None:
    engine = answering(OK)
    proxy = await stack(engine, queue=0, slotless=("GET /*",))
    proxy.leases.take()
    for method in (b"GET", b"HEAD"):
        assert status(await proxy.ask(get("/?a=/x", method=method))) == 200
    assert status(await proxy.ask(post(path="/"))) == 429
    assert [head.split(b" ")[0] for head in engine.heads] == [b"GET", b"HEAD"]


async def test_what_needs_no_slot_is_not_refused_before_its_body_came(stack: MakeStack) -> None:
    proxy = await stack(answering(OK), queue=0, slotless=("/tokenize",))
    proxy.leases.take()
    for path, expected in [("/tokenize", [100, 200]), ("/completion", [429])]:
        async with connected(proxy.port) as client:
            client.send(b"POST %b HTTP/1.1\r\nHost: localhost\r\n" % path.encode())
            client.send(b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            statuses = [(await client.head()).status]
            if statuses == [100]:
                client.send(b"{}")
                statuses.append((await client.head()).status)
        assert statuses == expected


async def test_beyond_what_there_may_be_beside_the_slots_the_queue_holds(stack: MakeStack) -> None:
    reached, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await engine.request(reader)
        reached.release()
        await go_on.wait()
        writer.write(OK)

    engine = Script(talk)
    proxy = await stack(engine, queue=0, slotless=("/tokenize",))
    slot = proxy.leases.take()
    assert slot is not None
    asked = [asyncio.ensure_future(proxy.ask(post(path="/tokenize"))) for _ in range(EACH)]
    for _ in asked:
        await reached.acquire()
    answer = await proxy.ask(post(path="/tokenize"))
    assert (status(answer), code(answer)) == (429, "queue_full")
    assert proxy.leases.withdraw(proxy.upstreams[0]) == EACH + 1
    drained = asyncio.ensure_future(proxy.leases.drained(proxy.upstreams[0]))
    slot.release()
    await asyncio.sleep(0)
    assert not drained.done()
    go_on.set()
    assert [status(answer) for answer in await asyncio.gather(*asked)] == [200] * EACH
    await asyncio.wait_for(drained, SOON)


async def test_every_place_beside_the_slots_comes_back_whatever_became_of_its_request(stack: MakeStack) -> None:
    left = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await engine.request(reader)
        if b"x-cut" in engine.heads[-1]:
            writer.transport.abort()
        elif b"x-leave" in engine.heads[-1]:
            left.set()
            await reader.read()
        else:
            writer.write(OK)

    engine = Script(talk)
    proxy = await stack(engine, slotless=("GET /x",))
    before = proxy.forwarder.rate.wait(like_any(0), 1)
    assert status(await proxy.ask(get("/x"))) == 200
    assert status(await proxy.ask(get("/x", b"x-cut: 1\r\n"))) == 502
    async with connected(proxy.port) as client:
        client.send(get("/x", b"x-leave: 1\r\n"))
        await asyncio.wait_for(left.wait(), SOON)
        client.abort()
    proxy.leases.withdraw(proxy.upstreams[0])
    await asyncio.wait_for(proxy.leases.drained(proxy.upstreams[0]), SOON)
    assert proxy.owner.lost == []
    assert [reason for _, reason in proxy.owner.failures] == ["reset"]
    assert proxy.forwarder.rate.wait(like_any(0), 1) == before  # how long a slot is held is told by those who hold one


async def test_who_waits_too_long_beside_a_slot_does_not_end_what_the_slot_is_for(stack: MakeStack) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await engine.request(reader)
        await reader.read()

    engine = Script(talk)
    proxy = await stack(engine, slotless=("GET /x",), prefill_timeout=0.01)
    asked = asyncio.ensure_future(proxy.ask(get("/x")))
    while not asked.done():
        proxy.forwarder.sweep(monotonic())
        await asyncio.sleep(0.001)
    assert (status(await asked), code(await asked)) == (504, "upstream_timeout")
    assert proxy.owner.failures == []
    assert proxy.leases.statistics.errors.timeout == 1


async def test_one_that_dies_of_what_it_answers_beside_its_slots_is_not_the_last_to_be_asked(stack: MakeStack) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await dying.request(reader)
        writer.transport.abort()

    dying, well = Script(talk), answering(OK)
    proxy = await stack(dying, well, slotless=("GET /x",))
    assert status(await proxy.ask(get("/x"))) == 200
    assert (len(dying.heads), len(well.heads)) == (1, 1)
    assert [proxy.leases.withdraw(upstream) for upstream in proxy.upstreams] == [0, 0]


async def test_slots_are_llama_servers_shape(stack: MakeStack) -> None:
    proxy = await stack(answering(OK), answering(OK))
    proxy.leases.take()
    slots = json.loads(body(await proxy.ask(get("/slots"))))
    assert [(slot["id"], slot["n_ctx"], slot["is_processing"]) for slot in slots] == [(0, 2048, True), (1, 2048, False)]
    assert set(slots[0]) >= {"instance", "state", "pid"}


async def test_health_and_readiness_count(stack: MakeStack) -> None:
    proxy = await stack(answering(OK))
    assert json.loads(body(await proxy.ask(get("/health")))) == {
        "status": "ok", "instances": 1, "ready": 1, "busy": 0, "queued": 0,
    }  # fmt: skip
    assert status(await proxy.ask(get("/ready"))) == 200
    proxy.stop()
    answer = await proxy.ask(get("/ready"))
    assert (status(answer), json.loads(body(answer))["reason"]) == (503, "shutting down")


async def test_nothing_ready_is_said_with_the_reason(stack: MakeStack) -> None:
    proxy = await stack()
    answer = await proxy.ask(get("/ready"))
    assert status(answer) == 503
    assert "no instance" in json.loads(body(answer))["reason"]


async def test_a_served_request_with_an_absolute_target_is_counted_under_its_path(stack: MakeStack) -> None:
    proxy = await stack(answering(OK))
    assert status(await proxy.ask(post(path="http://localhost/v1/chat/completions"))) == 200
    counted = await proxy.ask(get("/metrics"))
    assert b'slotproxy_requests_total{code="200",route="/v1/chat/completions"} 1.0' in counted


async def test_the_metrics_page_is_what_prometheus_reads(stack: MakeStack) -> None:
    proxy = await stack(answering(OK))
    await proxy.ask(post())
    page = body(await proxy.ask(get("/metrics"))).decode()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    expected = (
        "requests tokens cancelled upstream_errors retries instance_restarts scale_decisions queue_rejected "
        "queue_wait_seconds time_to_first_token_seconds time_per_output_token_seconds request_duration_seconds "
        "queue_depth slots instances "
        "instance_busy instance_memory_bytes memory_used_bytes memory_limit_bytes memory_headroom_bytes "
        "event_loop_lag_seconds build_info"
    )
    assert {f"slotproxy_{name}" for name in expected.split()} <= set(families)
    assert proxy.metric('slotproxy_requests_total{code="200",route="/v1/chat/completions"}') == 1
    assert proxy.metric('slotproxy_scale_decisions_total{decision="add",reason="fits"}') == 2


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/x?y=1", "/a%2fb/../c", "/%zz", "//x/y"])
async def test_any_other_path_goes_to_an_engine_as_it_came(stack: MakeStack, path: str) -> None:
    engine = answering(OK)
    proxy = await stack(engine)
    await proxy.ask(get(path))
    assert engine.heads[0].startswith(b"GET " + path.encode() + b" HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET /health HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        (b"GET /health RTSP/1.0\r\nHost: a\r\n\r\n", 400),
        (b"GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET health HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (get("/", b"", b"TRACE"), 405),
        (get("/health", b"", b"POST"), 405),
        (get("/slotproxy/nothing"), 404),
        (get("/", b"Origin: https://evil.example\r\n"), 403),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 403),
        (post(b"[]"), 400),
        (post(b""), 400),
        (post(b'{"a":NaN}'), 400),
        (post(b'{"a":"\xff"}'), 400),
        (post(b'{"a":1}{"a":1}'), 400),
        (post(b'{"stream":true,"stream":false}'), 400),
        (post(b'{"max_tokens":' + b"9" * 4000 + b"}"), 400),
        (post().replace(b"Content-Length: 15", b"Content-Length: 9999999"), 413),
        (post().replace(b"Content-Length: 15", b"Content-Length: 9999999\r\nExpect: 100-continue"), 413),
        (post(fields=b"Expect: magic\r\n"), 417),
        (post(b"5\r\nhello\r\nzz\r\n", fields=b"Transfer-Encoding: chunked\r\n").replace(b"Content-Le", b"X-Le"), 400),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_refused_before_an_engine_hears_of_it(
    stack: MakeStack, request_bytes: bytes, expected: int
) -> None:
    engine = answering(OK)
    proxy = await stack(engine)
    answer = await proxy.ask(request_bytes)
    assert status(answer) == expected, answer
    assert code(answer)
    assert engine.heads == []


async def test_a_chunked_body_that_breaks_in_a_later_segment_is_refused_too(stack: MakeStack) -> None:
    engine = answering(OK)
    proxy = await stack(engine)
    reader, writer = await proxy.client()
    writer.write(b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel")
    await writer.drain()
    while not proxy.forwarder.active and not engine.heads and not writer.transport.is_closing():
        writer.write(b"lo\r\nzz\r\n")
        break
    answer = await reader.read()
    assert status(answer) == 400
    assert engine.heads == []
    writer.close()


async def test_long_digits_in_a_string_are_no_number(stack: MakeStack) -> None:
    engine = answering(OK)
    proxy = await stack(engine)
    assert status(await proxy.ask(post(b'{"messages":[{"content":"' + b"9" * 4000 + b'"}]}'))) == 200


async def test_a_client_that_waits_for_it_is_told_to_continue_once(stack: MakeStack) -> None:
    engine = answering(OK)
    proxy = await stack(engine)
    reader, writer = await proxy.client()
    head, _, text = post(fields=b"Expect: 100-continue\r\n").partition(b"\r\n\r\n")
    writer.write(head + b"\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(text)
    answer = await reader.read()
    assert status(answer) == 200
    assert b"100 Continue" not in answer
    assert b"Expect" not in engine.heads[0]
    writer.close()


async def test_pipelined_requests_are_answered_in_order(stack: MakeStack) -> None:
    engine = answering(OK)
    proxy = await stack(engine)
    keep = post().replace(b"Connection: close\r\n", b"")
    answer = await proxy.ask(keep + keep + get("/health"))
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.endswith(b'"queued":0}')


async def test_a_page_that_was_allowed_can_read_the_answer(stack: MakeStack) -> None:
    proxy = await stack(answering(OK))
    answer = await proxy.ask(post(fields=b"Origin: http://localhost:3000\r\n"))
    assert status(answer) == 200
    assert b"Access-Control" not in answer, "no --cors-origin was given"


@pytest.mark.parametrize("pace", ["silent", "dripping"])
async def test_a_head_that_takes_too_long_is_given_up(
    stack: MakeStack, monkeypatch: pytest.MonkeyPatch, pace: str
) -> None:
    monkeypatch.setattr(connection, "HEAD", 0.2)
    proxy = await stack(answering(OK))
    reader, writer = await proxy.client()
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n")
    async with asyncio.timeout(SOON), asyncio.TaskGroup() as tasks:
        dripping = tasks.create_task(drip(writer, b"X-Slow: 1\r\n" if pace == "dripping" else b""))
        with contextlib.suppress(ConnectionError):
            await reader.read()
        dripping.cancel()
    writer.close()
    assert status(await proxy.ask(get("/health"))) == 200


@pytest.mark.parametrize("pace", ["silent", "dripping"])
async def test_a_body_that_takes_too_long_is_given_up(
    stack: MakeStack, monkeypatch: pytest.MonkeyPatch, pace: str
) -> None:
    monkeypatch.setattr(connection, "SILENCE", 0.2)
    monkeypatch.setattr(connection, "LONGEST", 0.4)
    engine = answering(OK)
    proxy = await stack(engine)
    reader, writer = await proxy.client()
    writer.write(post().replace(b"Content-Length: 15", b"Content-Length: 9000"))
    async with asyncio.timeout(SOON), asyncio.TaskGroup() as tasks:
        dripping = tasks.create_task(drip(writer, b" " if pace == "dripping" else b""))
        answer = b""
        with contextlib.suppress(ConnectionError):  # it may be reset while we still send
            while piece := await reader.read(1000):
                answer += piece
        dripping.cancel()
    writer.close()
    assert (status(answer), code(answer)) == (408, "request_timeout")
    assert engine.heads == []


async def drip(writer: asyncio.StreamWriter, piece: bytes) -> None:
    while True:
        writer.write(piece)
        await asyncio.sleep(0.01)


# requests whose head came before, on their connection


def chat(body: bytes = b'{"messages":[]}', fields: bytes = b"") -> bytes:
    return post(body, fields=fields).replace(b"Connection: close\r\n", b"")


async def test_a_head_that_comes_again_gets_an_id_of_its_own_and_the_same_way_to_an_engine(stack: MakeStack) -> None:
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


async def test_the_body_behind_a_head_that_comes_again_is_looked_at_like_the_first(stack: MakeStack) -> None:
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


async def test_a_head_that_comes_again_is_held_to_the_rules_of_then(stack: MakeStack) -> None:
    proxy = await stack(answering(OK), keys=("old",))
    request = chat(fields=b"Authorization: Bearer old\r\n")
    async with connected(proxy.port) as client:
        for _ in range(2):
            client.send(request)
            assert (await client.answer()).status == 200
        proxy.gate.reconfigure(Access(keys=("new",)), 1 << 20)
        for _ in range(2):
            client.send(request)
            assert (await client.answer()).status == 401


async def test_a_head_that_comes_again_is_turned_away_while_the_proxy_stops(stack: MakeStack) -> None:
    proxy = await stack(answering(OK))
    async with connected(proxy.port) as client:
        client.send(chat())
        assert (await client.answer()).status == 200
        proxy.stop()
        client.send(chat())
        answer = await client.answer()
        assert (answer.status, answer.code) == (503, "shutting_down")
        assert await client.closed()


async def test_each_engine_is_told_its_own_host_also_by_a_head_that_comes_again(stack: MakeStack) -> None:
    one, other = answering(OK), answering(OK)
    proxy = await stack(one, other)
    async with connected(proxy.port) as client:
        for _ in range(4):
            client.send(chat())
            assert (await client.answer()).status == 200
    for engine in (one, other):
        assert engine.heads
        assert all(b"\r\nHost: 127.0.0.1:%d\r\n" % engine.port in head for head in engine.heads)


async def test_no_task_is_made_for_a_request_that_waits_for_nothing(stack: MakeStack) -> None:
    proxy = await stack(answering(OK))
    async with connected(proxy.port) as client:
        client.send(chat())  # connects to the engine
        assert (await client.answer()).status == 200
        made: list[str] = []

        def noted(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
            made.append(repr(work))
            return asyncio.Task(work, loop=loop, **more)

        loop = asyncio.get_running_loop()
        loop.set_task_factory(noted)
        client.send(chat() * 3)
        for _ in range(3):
            assert (await asyncio.shield(client.reader.readuntil(b'{"ok":true}'))).startswith(b"HTTP/1.1 200")
        loop.set_task_factory(None)
    assert [work for work in made if "Exchange" in work] == []


async def test_a_refusal_that_ends_a_connection_is_read_by_a_client_that_goes_on_sending(stack: MakeStack) -> None:
    proxy = await stack(answering(OK))
    async with connected(proxy.port) as client:
        client.send(b"GET http://u@h/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.sleep(0.05)  # the answer is written by now, and not read
        for _ in range(5):
            client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.sleep(0.01)
        answer = await client.answer()
        assert (answer.status, answer.code) == (400, "malformed_request")
        assert await client.closed()
