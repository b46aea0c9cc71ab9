import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from slotproxy.instances.aftercare import Aftercare
from slotproxy.instances.errors import ConfigurationError, HeldBack
from slotproxy.instances.lifecycle import State
from slotproxy.instances.remotes import health, remote
from slotproxy.instances.remotes.endpoint import upstream_of
from slotproxy.instances.remotes.remote import Remote, Remotes
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.settings import UpstreamSpec
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.slots.pool import Pool
from slotproxy.instances.upstream import Upstream
from tests.instances.conftest import SOON, World

ONE, TWO, THREE = (UpstreamSpec(url=f"http://127.0.0.1:{port}") for port in (1, 2, 3))
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
    there.check_again()
    await world.reached(State.BACKOFF, name="u0")
    assert world.leases.upstreams == ()
    assert there.member().reason.endswith("/health answers 503")
    elsewhere.health = 200
    await world.reached(State.READY, times=2, name="u0")
    assert (await world.leases.wait(SOON)).upstream is there.upstream
    assert there.member().restarts == 1


async def test_one_that_limits_even_looks_at_it_lives(world: World, elsewhere: Elsewhere, there: Remote) -> None:
    await world.reached(State.READY, name="u0")
    elsewhere.health, elsewhere.models = 404, 429
    asked = elsewhere.asked
    there.check_again()
    await world.leases.wait(SOON)
    assert elsewhere.asked > asked
    assert State.BACKOFF not in world.states("u0")


async def test_a_key_that_is_missing_is_asked_for(world: World) -> None:
    async def wants_a_key(request: web.Request) -> web.Response:
        return web.Response(status=404 if request.path == "/health" else 401)

    app = web.Application()
    app.router.add_get("/{path:.*}", wants_a_key)
    async with TestServer(app) as server:
        spec = UpstreamSpec(url=f"http://127.0.0.1:{server.port}")
        there = Remote(upstream_of("u0", spec, {}), world.leases, world.probe, world.moved)
        run = world.tasks.create_task(there.run())
        await world.reached(State.BACKOFF, name="u0")
        assert "it wants an API key (401): name the variable" in there.member().reason
        there.stop()
        await run


async def test_a_refused_key_is_named(world: World, elsewhere: Elsewhere, there: Remote) -> None:
    await world.reached(State.READY, name="u0")
    elsewhere.models = 401
    there.check_again()
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
    monkeypatch.setattr("slotproxy.instances.running.probe.TIMEOUT", 0.05)
    elsewhere.health = elsewhere.models = None
    there.check_again()
    assert world.leases.upstreams == ()
    await world.reached(State.BACKOFF, name="u0")
    lease.release()


async def test_one_that_was_taken_back_is_not_offered_again_for_its_silence_while_requests_wait_on_it(
    world: World, elsewhere: Elsewhere, there: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.reached(State.READY, name="u0")
    lease = world.leases.take()
    assert lease is not None
    looks: asyncio.Queue[None] = asyncio.Queue()

    async def silent(probe: Probe, upstream: Upstream) -> health.Health:
        looks.put_nowait(None)
        return health.SILENT

    monkeypatch.setattr(health, "examine", silent)
    there.failed("refused")
    for _ in range(4):
        await asyncio.wait_for(looks.get(), SOON)
    assert world.leases.upstreams == ()
    assert world.states("u0").count(State.READY) == 1
    lease.release()


async def test_a_doubted_one_is_looked_at_at_once_and_offered_again(world: World, there: Remote) -> None:
    await world.reached(State.READY, name="u0")
    there.check_again()
    lease = await world.leases.wait(SOON)
    assert lease.upstream is there.upstream
    lease.release()


async def test_a_rate_limit_takes_its_slots_until_it_is_over_and_brings_half_of_them_back(
    world: World, there: Remote
) -> None:
    await world.reached(State.READY, name="u0")
    there.answered(429, ((b"retry-after", b"0.05"),), b"{}")
    member = there.member()
    assert (member.slots, member.offered) == (3, 0)
    assert world.leases.take() is None
    lease = await world.leases.wait(SOON)
    assert there.member().offered == 1
    assert world.leases.take() is None
    lease.release()
    for _ in range(6):
        there.answered(200, (), b"")
    assert there.member().offered == 3
    traffic = there.member().traffic
    assert traffic is not None
    assert (traffic.requests, traffic.errors.refused, traffic.held_back, traffic.pause) == (7, 1, None, 0)


async def test_one_that_says_nothing_is_left_is_left_alone_for_a_while(world: World, there: Remote) -> None:
    await world.reached(State.READY, name="u0")
    limits = {b"limit": b"10", b"remaining": b"0", b"reset": b"600ms"}
    there.answered(200, tuple((b"x-ratelimit-%b-tokens" % name, value) for name, value in limits.items()), b"")
    member = there.member()
    assert member.offered == 0
    assert member.traffic is not None
    assert (member.traffic.limits["tokens"].remaining, member.traffic.held_back) == (0, "rate-limit")
    lease = await world.leases.wait(SOON)
    assert there.member().offered == 3
    lease.release()


async def test_what_was_left_once_says_nothing_about_an_answer_that_tells_no_limits(
    world: World, there: Remote
) -> None:
    await world.reached(State.READY, name="u0")
    limits = {b"limit": b"10", b"remaining": b"0", b"reset": b"1ms"}
    there.answered(200, tuple((b"x-ratelimit-%b-tokens" % name, value) for name, value in limits.items()), b"")
    (await world.leases.wait(SOON)).release()
    there.answered(200, (), b"")
    member = there.member()
    assert member.offered == 3
    assert member.traffic is not None
    assert member.traffic.held_back is None
    assert member.traffic.limits["tokens"].limit == 10


async def test_an_api_that_is_known_is_not_asked_for_its_health(
    world: World, elsewhere: Elsewhere, there: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "WITHOUT_HEALTH", {"127.0.0.1"})
    await world.reached(State.READY, name="u0")
    elsewhere.health = 503
    there.check_again()
    assert (await world.leases.wait(SOON)).upstream is there.upstream


async def test_a_look_during_a_pause_does_not_end_it(world: World, there: Remote) -> None:
    await world.reached(State.READY, name="u0")
    there.answered(503, ((b"retry-after", b"600"),), b"")
    there.failed("unavailable")
    while there.upstream not in world.leases.upstreams:
        await asyncio.sleep(0)
    assert world.leases.take() is None
    assert not world.leases.offers()


async def test_what_requests_met_is_counted_by_kind(world: World, there: Remote) -> None:
    await world.reached(State.READY, name="u0")
    for status in (200, 404, 429, 402, 503, 529, 500):
        there.answered(status, (), b"")
    there.answered(None, (), b'{"error":{"type":"overloaded_error"}}')
    for reason in ("hang", "reset", "unavailable"):
        there.failed(reason)
    traffic = there.member().traffic
    assert traffic is not None
    errors = traffic.errors
    assert traffic.requests == 7
    assert (errors.refused, errors.unavailable, errors.timeout, errors.other, errors.total) == (2, 3, 1, 2, 8)


async def test_a_quota_is_named_in_the_log_and_in_the_traffic(
    world: World, there: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    await world.reached(State.READY, name="u0")
    there.answered(429, (), b'{"error":{"code":"insufficient_quota"}}')
    traffic = there.member().traffic
    assert traffic is not None
    assert traffic.held_back == "quota"
    assert traffic.pause > 299
    assert "upstream u0: its quota or spend limit is used up, it is asked again in" in caplog.text


async def test_a_wait_for_upstreams_that_are_held_back_longer_is_in_vain(world: World, there: Remote) -> None:
    await world.reached(State.READY, name="u0")
    world.leases.owner = owner = Aftercare(world.leases, lambda: (there,), world.tasks)
    there.answered(429, ((b"retry-after", b"40"),), b"")
    with pytest.raises(HeldBack, match=r"takes no request: its rate limit is reached$") as held:
        await world.leases.wait(39)
    assert held.value.seconds > 39
    assert owner.why_no_slot_within(60) is None


async def test_a_run_of_short_pauses_is_told_once_and_its_end_too(
    world: World, there: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    await world.reached(State.READY, name="u0")
    with caplog.at_level("INFO"):
        for _ in range(3):
            there.answered(429, ((b"retry-after-ms", b"1"),), b"")
            (await world.leases.wait(SOON)).release()
        for _ in range(9):
            there.answered(200, (), b"")
        there.answered(429, ((b"retry-after", b"5"),), b"")
    told = [text for text in caplog.messages if "slots again" in text or "asked again" in text]
    assert [text.split(", ")[0] for text in told] == [
        "upstream u0: its rate limit is reached",
        "upstream u0: all 3 slots again",
        "upstream u0: its rate limit is reached",
    ]


def names(remotes: Remotes) -> list[str]:
    return [remote.id for remote in remotes]


async def test_what_is_named_again_stays_and_the_rest_comes_and_goes() -> None:
    remotes = Remotes(Leases(Pool(8)), Probe(), lambda step: None)
    assert not remotes
    async with asyncio.TaskGroup() as tasks:
        remotes.adopt(remotes.plan([ONE, TWO], {}), tasks)
        first, second = remotes
        assert names(remotes) == ["u0", "u1"]
        remotes.adopt(remotes.plan([TWO, THREE], {}), tasks)
        assert first not in tuple(remotes)
        assert next(iter(remotes)) is second
        assert names(remotes) == ["u1", "u2"]  # the old one's name may still be in answers and metrics
        remotes.adopt(remotes.plan([ONE], {}), tasks)
        assert names(remotes) == ["u0"]
        remotes.adopt({}, tasks)  # their tasks end, or the group would wait for ever
    assert not remotes


async def test_a_wrong_one_is_refused_before_anything_changes() -> None:
    remotes = Remotes(Leases(Pool(8)), Probe(), lambda step: None)
    with pytest.raises(ConfigurationError):
        remotes.plan([ONE, UpstreamSpec(url="nonsense")], {})
    assert not remotes
