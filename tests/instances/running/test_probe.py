import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from slotproxy.instances.profiles.profile import Context, Idle, Ready, WarmUp
from slotproxy.instances.running.probe import LARGEST, Probe, resolve
from slotproxy.instances.upstream import Upstream
from tests.instances.conftest import SOON

WARM_UP = WarmUp(path="/warm", body={}, timeout=SOON)
Serve = Callable[[Callable[[web.Request], web.Response]], Any]


@pytest.fixture
async def probe() -> AsyncIterator[Probe]:
    async with Probe() as probe:
        yield probe


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server that answers everything by one function; the upstream to ask it as."""
    servers: list[TestServer] = []

    async def start(answer: Callable[[web.Request], web.Response]) -> Upstream:
        async def handle(request: web.Request) -> web.Response:
            await request.read()
            return answer(request)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        servers.append(TestServer(app))
        await servers[-1].start_server()
        return Upstream(
            instance="0",
            host="127.0.0.1",
            port=servers[-1].port or 0,
            base_path="/base",
            extra_headers=((b"authorization", b"Bearer k"),),
        )

    yield start
    for server in servers:
        await server.close()


async def test_requests_carry_the_base_path_and_the_key(probe: Probe, serve: Serve) -> None:
    upstream = await serve(lambda request: web.Response(text=f"{request.path} {request.headers['authorization']}"))
    answer = await probe.ask(upstream, "/x")
    assert answer is not None
    assert answer.body == b"/base/x Bearer k"


async def test_a_base_path_that_has_a_version_stands_for_v1_and_a_request_says_who_sent_it(
    probe: Probe, serve: Serve
) -> None:
    there = await serve(lambda request: web.Response(text=f"{request.path} {request.headers['x-slotproxy-via']}"))
    answer = await probe.ask(replace(there, base_path="/api/v4", replaces_v1=True, via=b"me"), "/v1/models")
    assert answer is not None
    assert answer.body == b"/api/v4/models me"


async def test_a_redirect_is_not_followed(probe: Probe, serve: Serve) -> None:
    upstream = await serve(lambda request: web.Response(status=302, headers={"location": "/elsewhere"}))
    answer = await probe.ask(upstream, "/x")
    assert answer is not None
    assert answer.status == 302


async def test_nobody_there_too_late_and_too_large_are_all_no_answer(probe: Probe, serve: Serve) -> None:
    large = await serve(lambda request: web.Response(body=b"x" * (LARGEST + 1)))
    assert await probe.ask(large, "/x") is None
    assert await probe.ask(large, "/x", timeout=0.000001) is None
    assert await probe.ask(Upstream(instance="0", host="127.0.0.1", port=1), "/x") is None


async def test_ready_means_the_very_status_of_the_profile(probe: Probe, serve: Serve) -> None:
    loading = await serve(lambda request: web.Response(status=503))
    assert not await probe.ready(loading, Ready())
    assert await probe.ready(loading, Ready(status=503))
    assert await probe.ready(loading, Ready(path=None, banner="x"))


@pytest.mark.parametrize(
    ("status", "body", "trouble"), [(200, b"{}", None), (200, b"", "status 200, empty"), (500, b"no", "status 500, no")]
)
async def test_a_warm_up_needs_a_success_with_a_body(
    probe: Probe, serve: Serve, status: int, body: bytes, trouble: str | None
) -> None:
    upstream = await serve(lambda request: web.Response(status=status, body=body))
    assert await probe.warm_up(upstream, WARM_UP, {}) == trouble


async def test_context_and_models_are_read_from_where_the_profile_says(probe: Probe, serve: Serve) -> None:
    listing = {"data": [{"id": "m", "meta": {"n_ctx": 2048}}, "junk"]}
    upstream = await serve(lambda request: web.json_response(listing))
    assert await probe.context(upstream, Context(path="/v1/models", pointer="/data/0/meta/n_ctx")) == 2048
    assert await probe.context(upstream, Context(path="/v1/models", pointer="/data/0/id")) is None
    assert await probe.context(upstream, Context()) is None
    assert await probe.models(upstream, "/v1/models") == (listing["data"][0],)


async def test_models_of_an_engine_that_lists_none_are_none(probe: Probe, serve: Serve) -> None:
    upstream = await serve(lambda request: web.Response(text="not JSON"))
    assert await probe.models(upstream, "/v1/models") == ()
    assert await probe.context(upstream, Context(path="/v1/models", pointer="/data")) is None


async def test_idle_by_slots_waits_until_nothing_is_processing(probe: Probe, serve: Serve) -> None:
    looks = iter([True, True, False])
    upstream = await serve(lambda request: web.json_response([{"is_processing": next(looks)}]))
    idle = Idle(kind="slots", first=0, first_unstreamed=0, every=0.05)
    assert await probe.idle(upstream, idle, streamed=True, warm_up=WARM_UP, body={})
    assert list(looks) == []


@pytest.mark.parametrize("slots", [[{"is_processing": True}], {"error": "no slots"}, [{}], ["junk"]])
async def test_idle_by_slots_gives_up_at_the_limit(probe: Probe, serve: Serve, slots: Any) -> None:
    upstream = await serve(lambda request: web.Response(text=json.dumps(slots)))
    idle = Idle(kind="slots", first=0, first_unstreamed=0, every=0.05, limit=0.12)
    assert not await probe.idle(upstream, idle, streamed=True, warm_up=WARM_UP, body={})


async def test_idle_by_generation_asks_the_engine_to_generate(probe: Probe, serve: Serve) -> None:
    asked: list[str] = []

    def answer(request: web.Request) -> web.Response:
        asked.append(f"{request.method} {request.path}")
        return web.Response()

    upstream = await serve(answer)
    idle = Idle(kind="generation", first=0, first_unstreamed=0)
    assert await probe.idle(upstream, idle, streamed=False, warm_up=WARM_UP, body={})
    assert asked == ["POST /base/warm"]


async def test_idle_by_delay_asks_nothing_and_knows_streams_from_others(probe: Probe) -> None:
    nowhere = Upstream(instance="0", host="127.0.0.1", port=1)
    idle = Idle(kind="delay", first=0, first_unstreamed=60)
    assert await probe.idle(nowhere, idle, streamed=True, warm_up=WARM_UP, body={})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await probe.idle(nowhere, idle, streamed=False, warm_up=WARM_UP, body={})


@pytest.mark.parametrize(
    ("pointer", "found"), [("/a/0/b", 1), ("/a/1", None), ("/a/x", None), ("/a/0/b/c", None), ("", {"a": [{"b": 1}]})]
)
def test_a_pointer_finds_what_is_there_and_nothing_else(pointer: str, found: Any) -> None:
    assert resolve({"a": [{"b": 1}]}, pointer) == found


def test_a_pointer_may_name_keys_with_slashes_and_tildes() -> None:
    assert resolve({"a/b~c": 1}, "/a~1b~0c") == 1
