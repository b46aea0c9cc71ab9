import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from slotproxy.instances import remote
from slotproxy.instances.endpoint import upstream_of
from slotproxy.instances.lifecycle import State
from slotproxy.instances.remote import Remote
from slotproxy.instances.settings import UpstreamSpec
from slotproxy.instances.upstream import Upstream
from tests.instances.conftest import SOON, World

MODELS = {"object": "list", "data": [{"id": "m", "meta": {"n_ctx": 2048}}]}


@dataclass
class Elsewhere:
    """A server whose statuses a test sets. `None`: it says nothing until the test is over."""

    health: int | None = 200
    models: int | None = 200
    asked: int = 0
    keys: set[str] = field(default_factory=set)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.keys.add(request.headers.get("authorization", ""))
        status = self.health if request.path.endswith("/health") else self.models
        if status is None:
            await self.over.wait()
        if status != 200:
            return web.Response(status=status or 500)
        return web.json_response(MODELS)


@pytest.fixture
def elsewhere() -> Elsewhere:
    return Elsewhere()


@pytest.fixture
async def there(world: World, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Remote]:
    monkeypatch.setattr(remote, "HEALTHY_POLL", 0.05)
    monkeypatch.setattr(remote, "FIRST_POLL", 0.05)
    monkeypatch.setattr(remote, "LONGEST_POLL", 0.05)
    app = web.Application()
    app.router.add_get("/{path:.*}", elsewhere.answer)
    async with TestServer(app) as server:
        spec = UpstreamSpec(url=f"http://127.0.0.1:{server.port}/base/", slots=3, key_env="KEY")
        there = Remote(upstream_of("u0", spec, {"KEY": "k"}), world.leases, world.probe, world.moved)
        run = world.tasks.create_task(there.run())
        yield there
        elsewhere.over.set()
        there.stop()
        await run


async def test_a_healthy_one_offers_its_slots_and_tells_its_models(
    world: World, there: Remote, elsewhere: Elsewhere
) -> None:
    await world.reached(State.READY, name="u0")
    member = there.member()
    assert (member.slots, member.n_ctx, member.pid) == (3, 2048, None)
    assert world.leases.upstreams == (there.upstream,)
    assert there.models[0]["id"] == "m"
    assert elsewhere.keys == {"Bearer k"}


async def test_without_a_health_path_its_models_are_enough(world: World, elsewhere: Elsewhere, there: Remote) -> None:
    elsewhere.health = 404
    await world.reached(State.READY, name="u0")


async def test_one_that_lost_its_health_is_withdrawn_when_a_request_says_so_and_comes_back(
    world: World, elsewhere: Elsewhere, there: Remote
) -> None:
    await world.reached(State.READY, name="u0")
    elsewhere.health = 503
    there.doubt()
    await world.reached(State.BACKOFF, name="u0")
    assert world.leases.upstreams == ()
    assert there.member().reason.endswith("/health answers 503")
    elsewhere.health = 200
    await world.reached(State.READY, times=2, name="u0")
    assert (await world.leases.wait(SOON)).upstream is there.upstream
    assert there.member().restarts == 1


async def test_a_refused_key_is_named(world: World, elsewhere: Elsewhere, there: Remote) -> None:
    await world.reached(State.READY, name="u0")
    elsewhere.models = 401
    there.doubt()
    await world.reached(State.BACKOFF, name="u0")
    assert there.member().reason.endswith("it refuses the API key (401)")


async def test_one_that_serves_is_asked_nothing_and_keeps_its_place_while_it_works(
    world: World, elsewhere: Elsewhere, there: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.reached(State.READY, name="u0")
    asked = elsewhere.asked
    lease = world.leases.take()
    assert lease is not None
    glances: asyncio.Queue[None] = asyncio.Queue()

    async def deaf(upstream: Upstream) -> bool:
        glances.put_nowait(None)
        return False

    monkeypatch.setattr(world.probe, "listens", deaf)
    for _ in range(3):
        await asyncio.wait_for(glances.get(), SOON)
    assert world.leases.upstreams == (there.upstream,)
    assert elsewhere.asked == asked
    lease.release()
    await world.reached(State.BACKOFF, name="u0")


async def test_one_that_answers_nothing_to_a_doubt_is_withdrawn_although_it_works(
    world: World, elsewhere: Elsewhere, there: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.reached(State.READY, name="u0")
    lease = world.leases.take()
    assert lease is not None
    monkeypatch.setattr("slotproxy.instances.probe.TIMEOUT", 0.05)
    elsewhere.health = elsewhere.models = None
    there.doubt()
    assert world.leases.upstreams == ()
    await world.reached(State.BACKOFF, name="u0")
    lease.release()


async def test_a_doubted_one_is_looked_at_at_once_and_offered_again(world: World, there: Remote) -> None:
    await world.reached(State.READY, name="u0")
    there.doubt()
    lease = await world.leases.wait(SOON)
    assert lease.upstream is there.upstream
    lease.release()
