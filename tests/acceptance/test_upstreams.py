"""Paid APIs as upstreams of the installed command: keys, TLS, rate limits, overflow."""

import asyncio
import contextlib
import functools
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.acceptance.conftest import StartBehind
from tests.clients import Answer, ask, chat, eventually, post, streaming
from tests.running import Running, StartProxy
from tests.stubs.cloud_api import KEY, CloudApi, anthropic_error, openai_error

ENV = {"THE_KEY": KEY}
SMALL = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a throw-away authority (ca.pem) and a certificate of its for localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("authority")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    (folder / "host").write_text("subjectAltName=DNS:localhost\n")
    openssl("req", "-x509", *SMALL, "-subj", "/CN=throw-away", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", *SMALL[:5], "-subj", "/CN=localhost", "-keyout", "host.key", "-out", "host.csr")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "host")
    openssl("x509", "-req", "-in", "host.csr", *signed, "-out", "host.pem")
    return folder


@pytest.fixture
async def api() -> AsyncIterator[CloudApi]:
    async with CloudApi() as api:
        yield api


@pytest.fixture
async def api_with_tls(authority: Path) -> AsyncIterator[CloudApi]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority / "host.pem", authority / "host.key")
    async with CloudApi(tls=context) as api:
        yield api


async def ready(proxy: Running, count: int = 1) -> int:
    """Its port. In a thread, since the upstreams answer from this loop."""
    await asyncio.to_thread(proxy.wait_ready, count)
    return proxy.port


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


async def metric(port: int, line: str) -> float:
    page = (await ask(port, "GET", "/metrics")).body.decode()
    return next((float(found.rpartition(" ")[2]) for found in page.splitlines() if found.startswith(line + " ")), 0.0)


async def test_an_api_is_spoken_to_over_verified_tls_with_our_key_only(
    start_proxy: StartProxy, api_with_tls: CloudApi, authority: Path
) -> None:
    api = api_with_tls
    proxy = start_proxy(
        *("--upstream", f"{api.url}/v1,slots=2,key-env=THE_KEY"),
        env=ENV | {"SSL_CERT_FILE": str(authority / "ca.pem")},
    )
    port = await ready(proxy)
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="sk-of-the-client") as openai:
        listed = await openai.models.list()
        assert [model.id for model in listed.data] == ["big-model"]
        stream = await openai.chat.completions.create(
            model="big-model", messages=[{"role": "user", "content": "Hi."}], stream=True
        )
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hello."
    (asked,) = api.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["host"] == f"localhost:{api.port}"
    assert "sk-of-the-client" not in str(asked.headers)
    assert "client" not in proxy.log


async def test_anthropic_gets_its_own_kind_of_key_and_the_version_its_client_names(
    start_proxy: StartProxy, api: CloudApi
) -> None:
    port = await ready(start_proxy("--upstream", f"{api.url},key-env=THE_KEY,api=anthropic", env=ENV))
    async with (
        AsyncAnthropic(base_url=f"http://127.0.0.1:{port}", api_key="sk-of-the-client") as anthropic,
        anthropic.messages.stream(
            model="big-model", max_tokens=9, messages=[{"role": "user", "content": "Hi."}]
        ) as stream,
    ):
        assert await stream.get_final_text() == "Hello."
        its_own = anthropic.default_headers["anthropic-version"]
    body = {"model": "m", "max_tokens": 9, "messages": []}
    for given in ({}, {"Anthropic-Version": "2099-01-01", "Authorization": "Bearer sk-of-the-client"}):
        assert (await ask(port, "POST", "/v1/messages", body, given)).status == 200
    versions = [asked.headers["anthropic-version"] for asked in api.asked]
    assert versions == [its_own, "2023-06-01", "2099-01-01"]
    assert "sk-of-the-client" not in str([asked.headers for asked in api.asked])


async def test_a_certificate_that_cannot_be_verified_is_named_and_never_trusted(
    start_proxy: StartProxy, api_with_tls: CloudApi
) -> None:
    proxy = start_proxy("--upstream", f"{api_with_tls.url},key-env=THE_KEY", "--queue-timeout", "0s", env=ENV)
    await asyncio.to_thread(proxy.wait_listening)

    async def named() -> bool:
        return "its certificate is not trusted (" in str((await ask(proxy.port, "GET", "/ready")).json()["reason"])

    await eventually(named)
    assert (await post(proxy.port, chat())).status == 503
    assert api_with_tls.asked == []


def anthropic_limits(remaining: int) -> dict[str, str]:
    prefix = "anthropic-ratelimit-output-tokens"
    reset = (datetime.now(UTC) + timedelta(minutes=1)).isoformat(timespec="seconds")
    return {f"{prefix}-limit": "1000", f"{prefix}-remaining": str(remaining), f"{prefix}-reset": reset}


@pytest.mark.parametrize(
    ("status", "body", "why", "kind"),
    [
        pytest.param(429, openai_error("rate_limit_exceeded"), "rate-limit", "refused", id="429"),
        pytest.param(
            529, anthropic_error("overloaded_error"), "overload", "unavailable", id="529", marks=pytest.mark.slow
        ),
    ],
)
async def test_after_a_refusal_it_is_left_alone_as_long_as_it_says_and_then_asked_less_at_once(
    start_proxy: StartProxy, api: CloudApi, status: int, body: Any, why: str, kind: str
) -> None:
    port = await ready(start_proxy("--upstream", f"{api.url},slots=4,key-env=THE_KEY", env=ENV))
    api.limits = anthropic_limits(1000)
    api.script.append((status, {"Retry-After": "1"}, body))
    refused = await post(port, chat())
    assert (refused.status, refused.json(), refused.head["retry-after"]) == (status, body, "1")
    api.gate.clear()
    async with asyncio.TaskGroup() as clients:
        answers = [clients.create_task(post(port, chat())) for _ in range(6)]

        async def two_at_work() -> bool:
            return api.working == 2

        await eventually(two_at_work)
        assert await metric(port, 'slotproxy_upstream_slots_offered{instance="u0"}') == 2
        state = (await ask(port, "GET", "/slotproxy/api/state")).json()
        pool, (member,) = state["pool"], state["members"]
        assert (pool["concurrency_limit"], pool["active"], pool["queued"], pool["requests"]) == (2, 2, 4, 3)
        assert (member["slots"], member["offered"], member["traffic"]["held_back"]) == (4, 2, why)
        api.gate.set()
    assert [answer.result().status for answer in answers] == [200] * 6
    first, *later = api.asked
    assert min(asked.at for asked in later) - first.at >= 1
    for _ in range(12):
        assert (await post(port, chat())).status == 200
    assert await metric(port, 'slotproxy_upstream_slots_offered{instance="u0"}') == 4
    assert await metric(port, f'slotproxy_upstream_unserved_total{{instance="u0",kind="{kind}"}}') == 1
    assert await metric(port, f'slotproxy_unserved_total{{kind="{kind}"}}') == 1
    assert await metric(port, 'slotproxy_upstream_requests_total{instance="u0"}') == 19
    pool = (await ask(port, "GET", "/slotproxy/api/state")).json()["pool"]
    assert (pool["errors"][kind], pool["errors"]["total"], pool["requests"]) == (1, 1, 19)
    assert pool["average_wait"] > 0
    limit = 'slotproxy_upstream_ratelimit_remaining{instance="u0",kind="output-tokens"}'
    assert await metric(port, limit) == 1000


async def test_without_quota_its_answer_passes_once_and_it_is_not_asked_again(
    start_proxy: StartProxy, api: CloudApi
) -> None:
    port = await ready(start_proxy("--upstream", f"{api.url},slots=4,key-env=THE_KEY", env=ENV))
    api.script.append((429, {}, openai_error("insufficient_quota")))
    first = await post(port, chat())
    assert (first.status, first.code) == (429, "insufficient_quota")
    second = await post(port, chat())
    assert (second.status, second.code, second.head["retry-after"]) == (429, "upstream_rate_limited", "60")
    assert "its quota or spend limit is used up" in second.json()["error"]["message"]
    assert len(api.asked) == 1


async def test_overflow_is_used_only_when_every_other_slot_is_busy_and_its_refusals_wait_for_one(
    behind: StartBehind, api: CloudApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    bench = await behind("--upstream", f"{api.url},slots=8,key-env=THE_KEY,overflow=true,model=big-model")
    await ready(bench.proxy, 2)

    def by(answer: Answer) -> str | None:
        return answer.head.get("x-slotproxy-instance")

    for _ in range(3):
        assert by(await post(bench.port, chat())) == "u0"
    assert api.asked == []
    async with streaming(bench.port, chat(fake={"events": 1, "fail": "hang", "after": 1})) as busy:
        await busy.head()
        assert by(await post(bench.port, chat())) == "u1"
        api.script.append((429, {"Retry-After": "600"}, openai_error("rate_limit_exceeded")))
        waiting = asyncio.ensure_future(post(bench.port, chat()))
        await eventually(bench.waits)
        busy.abort()
    assert by(await waiting) == "u0"
    assert (await waiting).status == 200
    assert [asked.body["model"] for asked in api.asked] == ["big-model", "big-model"]
    assert "model" not in bench.engine.asked[0].json()


async def test_an_overload_that_shows_only_within_a_stream_passes_and_is_respected(
    start_proxy: StartProxy, api: CloudApi
) -> None:
    port = await ready(start_proxy("--upstream", f"{api.url},slots=4,key-env=THE_KEY,api=anthropic", env=ENV))
    api.stream_ends_with = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n'
    body = {"model": "m", "max_tokens": 9, "stream": True, "messages": []}
    answer = await ask(port, "POST", "/v1/messages", body)
    assert answer.status == 200
    assert answer.body.endswith(api.stream_ends_with)
    assert await metric(port, 'slotproxy_upstream_unserved_total{instance="u0",kind="unavailable"}') == 1
    api.stream_ends_with = b""
    assert (await ask(port, "POST", "/v1/messages", body)).status == 200
    assert await metric(port, 'slotproxy_upstream_slots_offered{instance="u0"}') == 2


async def test_a_request_that_may_have_been_computed_is_not_sent_to_the_same_server_again(
    start_proxy: StartProxy,
) -> None:
    """Two servers whose connections are warm each die of it long after it was sent."""
    had: list[str] = []
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                if b"poison" in body:
                    had.append(name)
                    await asyncio.sleep(0.3)  # longer than a connection that is stale stands
                    break
                writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"data":[]}')
        writer.transport.abort()

    async with contextlib.AsyncExitStack() as servers:
        urls = []
        for name in ("u0", "u1"):
            server = await servers.enter_async_context(
                await asyncio.start_server(functools.partial(serve, name), "127.0.0.1", 0)
            )
            urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        port = await ready(start_proxy(*(word for url in urls for word in ("--upstream", url))), 2)
        for _ in range(4):
            assert (await post(port, chat())).status == 200
        answer = await post(port, chat("poison"))
    for task in serving:
        assert task is not None
        task.cancel()
        await asyncio.wait({task})
    assert (answer.status, answer.code, answer.head["x-should-retry"]) == (502, "upstream_failed", "false")
    assert sorted(had) == ["u0", "u1"]


@pytest.mark.parametrize("own", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_an_upstream_that_is_the_proxy_itself_is_refused_at_the_start(start_proxy: StartProxy, own: str) -> None:
    port = free_port()
    proxy = start_proxy("--port", str(port), "--upstream", f"http://{own}:{port}/v1")
    assert proxy.wait() == 2
    assert f"--upstream http://{own}:{port}/v1 is this proxy itself: name the server behind it" in proxy.log


@pytest.mark.parametrize("length", [2, 3])
async def test_a_request_that_proxies_send_round_in_a_loop_is_refused(
    start_proxy: StartProxy, tmp_path: Path, length: int
) -> None:
    ports, proxies = [free_port() for _ in range(length)], []
    for number, port in enumerate(ports):
        folder = tmp_path / str(number)
        folder.mkdir()
        next_one = f"http://127.0.0.1:{ports[(number + 1) % length]},slots=4"
        proxies.append(start_proxy("--port", str(port), "--upstream", next_one, folder=folder))
    for proxy in proxies:
        await ready(proxy)
    for port in ports:
        answer = await post(port, chat())
        assert (answer.status, answer.code, answer.head["x-should-retry"]) == (508, "loop_detected", "false")
    for port in ports:
        assert await metric(port, 'slotproxy_requests_total{code="508",route="/v1/chat/completions"}') <= 2 * length


async def test_a_request_that_comes_back_by_way_of_what_is_no_proxy_of_ours_is_refused(
    start_proxy: StartProxy, api: CloudApi
) -> None:
    port = await ready(start_proxy("--upstream", f"{api.url},key-env=THE_KEY", env=ENV))
    assert (await post(port, chat())).status == 200
    passed = api.asked[0].headers["x-slotproxy-via"]
    assert (await post(port, chat(), {"X-Slotproxy-Via": f"another, {passed}, a-third"})).status == 508
    assert (await post(port, chat(), {"X-Slotproxy-Via": "another"})).status == 200
    assert [asked.headers["x-slotproxy-via"] for asked in api.asked] == [passed, f"another, {passed}"]
