"""DESIGN section 8: each refusal has its status, its code and what a client needs to go on."""

import asyncio
import signal
import socket
from pathlib import Path

from tests.acceptance.conftest import Behind, StartBehind
from tests.clients import Answer, ask, chat, connected, eventually, post, request, streaming
from tests.running import StartProxy

BUSY = chat(fake={"events": 1000, "fail": "hang", "after": 1})


def assert_retry_after(answer: Answer) -> None:
    assert 1 <= int(answer.head["retry-after"]) <= 60


async def test_a_full_queue_is_429(behind: StartBehind) -> None:
    bench = await behind("--queue-limit", "1")
    async with streaming(bench.port, BUSY) as occupant, streaming(bench.port, chat()):
        await occupant.head()
        await eventually(bench.waits)
        answer = await post(bench.port, chat())
        assert (answer.status, answer.code) == (429, "queue_full")
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert_retry_after(answer)
    await eventually(bench.rests)
    assert (await post(bench.port, chat())).status == 200


async def test_waiting_too_long_is_503(behind: StartBehind) -> None:
    bench = await behind("--queue-timeout", "200ms")
    async with streaming(bench.port, BUSY) as occupant:
        await occupant.head()
        answer = await post(bench.port, chat())
        assert (answer.status, answer.code) == (503, "queue_timeout")
        assert answer.json()["error"]["type"] == "server_error"
        assert_retry_after(answer)
    assert len(bench.engine.asked) == 1


async def test_while_no_instance_is_ready_requests_wait_and_then_get_503(start_proxy: StartProxy) -> None:
    with socket.socket() as nobody:  # bound and not listening: nobody else can take the port, nobody answers
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        proxy = start_proxy("--upstream", url, "--queue-timeout", "300ms").wait_listening()
        answer = await post(proxy.port, chat())
        assert (answer.status, answer.code) == (503, "loading_model")
        assert_retry_after(answer)
        assert proxy.get("/ready")[0] == 503
        assert proxy.get("/health")[0] == 200


async def drain(bench: Behind) -> None:
    bench.proxy.process.send_signal(signal.SIGTERM)

    async def refuses() -> bool:
        return "stopping" in bench.proxy.log

    await eventually(refuses)


async def test_draining_refuses_new_work_and_finishes_the_old(behind: StartBehind) -> None:
    bench = await behind()
    async with connected(bench.port) as idle, streaming(bench.port, chat(fake={"events": 20, "gap": 0.05})) as client:
        idle.send(request("GET", "/health"))
        await idle.answer()
        await client.head()
        await client.next_event()
        await drain(bench)
        idle.send(request("POST", "/v1/chat/completions", chat()))
        refused = await idle.answer()
        assert (refused.status, refused.code) == (503, "shutting_down")
        assert refused.head["connection"].lower() == "close"
        assert await idle.closed()
        assert [event async for event in client.events()][-1] == b"data: [DONE]"
    assert await asyncio.to_thread(bench.proxy.wait) == 0


async def test_draining_refuses_what_was_queued(behind: StartBehind) -> None:
    bench = await behind()
    async with streaming(bench.port, chat(fake={"events": 20, "gap": 0.05})) as client, connected(bench.port) as queued:
        await client.head()
        queued.send(request("POST", "/v1/chat/completions", chat()))
        await eventually(bench.waits)
        await drain(bench)
        refused = await queued.answer()
        assert (refused.status, refused.code) == (503, "shutting_down")
    assert await asyncio.to_thread(bench.proxy.wait) == 0
    assert len(bench.engine.asked) == 1


async def test_a_body_over_the_limit_is_413_before_it_is_read(behind: StartBehind) -> None:
    bench = await behind("--max-body", "1MiB")
    length = {"Content-Length": str(1 << 30), "Content-Type": "application/json", "Expect": "100-continue"}
    async with connected(bench.port) as client:
        client.send(request("POST", "/v1/chat/completions", None, length))
        head = await client.head()
        assert head.status == 413
        assert await client.reader.readexactly(int(head["content-length"]))
        assert await client.closed()
    big = await post(bench.port, chat("x" * (1 << 20)))
    assert (big.status, big.code) == (413, "request_too_large")
    chunked = b"%x\r\n" % (2 << 20) + b"x" * (2 << 20) + b"\r\n0\r\n\r\n"
    async with connected(bench.port) as client:
        client.send(request("POST", "/v1/chat/completions", None, {"Transfer-Encoding": "chunked"}) + chunked)
        assert (await client.answer()).status == 413
    assert bench.engine.asked == []


async def test_a_body_that_is_no_json_object_is_400(behind: StartBehind) -> None:
    bench = await behind()
    for body in (b"{", b"\xff{}", b"[]", b'"x"', b"", b"{}{}"):
        answer = await ask(bench.port, "POST", "/v1/chat/completions", body)
        assert answer.status == 400, body
        assert answer.code, body
    assert bench.engine.asked == []


async def test_requests_need_a_key_when_keys_are_set(behind: StartBehind, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("second\n")
    bench = await behind("--api-key", "first", "--api-key-file", str(keys))
    for wrong in ({}, {"Authorization": "Bearer nope"}, {"Authorization": "Basic first"}, {"x-api-key": "firs"}):
        answer = await post(bench.port, chat(), wrong)
        assert (answer.status, answer.code) == (401, "invalid_api_key"), wrong
        assert answer.head["www-authenticate"] == "Bearer"
        assert (await ask(bench.port, "GET", "/metrics", headers=wrong)).status == 401
    for right in ({"Authorization": "Bearer first"}, {"x-api-key": "first"}, {"Authorization": "Bearer second"}):
        assert (await post(bench.port, chat(), right)).status == 200, right
    for path in ("/health", "/ready"):
        assert (await ask(bench.port, "GET", path)).status == 200
    assert len(bench.engine.asked) == 3


async def test_on_messages_refusals_have_anthropics_shape(behind: StartBehind) -> None:
    bench = await behind("--api-key", "key")
    answer = await ask(bench.port, "POST", "/v1/messages", chat())
    assert answer.status == 401
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "authentication_error"


async def test_a_refusal_carries_the_request_id(behind: StartBehind) -> None:
    bench = await behind("--api-key", "key")
    assert (await post(bench.port, chat(), {"X-Request-Id": "mine"})).head["x-request-id"] == "mine"
