import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from slotproxy.instances.errors import ShuttingDown
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.scaling.generations import Generations, NotMeasured, Obstacle, Run
from slotproxy.instances.slots.lease import Answered, KnownLease, Lease
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.slots.pool import Pool
from slotproxy.instances.upstream import Upstream
from tests.fake_engine import FakeEngine

SOON = 20.0
PREVENTED = NotMeasured(obstacle=Obstacle.CLIENTS)
PATH, BODY = "/v1/chat/completions", {"messages": [], "stream": True}


@dataclass
class Owner:
    """Notes which slots were abandoned and gives them back at once."""

    abandoned_on: list[Upstream] = field(default_factory=list)

    async def prepare(self, lease: KnownLease) -> None:
        pass

    def answered(self, lease: KnownLease, answered: Answered) -> None:
        lease.release()

    def abandoned(self, lease: Lease) -> None:
        self.abandoned_on.append(lease.upstream)
        lease.release()

    def failed(self, upstream: Upstream, reason: str) -> None:
        pass

    def observer(self, *_: Any) -> Any:
        pass

    def why_no_slot_within(self, *_: Any) -> None:
        pass


@dataclass
class Ground:
    """Two engines behind one pool."""

    leases: Leases
    generations: Generations
    engines: list[FakeEngine]
    upstreams: list[Upstream]
    owner: Owner

    async def run(self, patience: float = 0.0) -> Run | NotMeasured:
        async with asyncio.timeout(SOON):
            return await self.generations.run(self.upstreams, PATH, BODY, patience)

    def behave(self, **how: Any) -> None:
        for engine in self.engines:
            engine.default = how

    async def busy(self, count: int = 2) -> None:
        async with asyncio.timeout(SOON):
            while sum(engine.busy for engine in self.engines) < count:
                await asyncio.sleep(0.005)

    @property
    def leased(self) -> int:
        return sum(self.leases.leased(upstream) for upstream in self.upstreams)


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    leases, owner = Leases(Pool(8)), Owner()
    leases.owner = owner
    async with AsyncExitStack() as exits:
        engines = [await exits.enter_async_context(FakeEngine()) for _ in range(2)]
        upstreams = [
            Upstream(instance=str(number), host="127.0.0.1", port=engine.port) for number, engine in enumerate(engines)
        ]
        for upstream in upstreams:
            leases.add(upstream)
        probe = await exits.enter_async_context(Probe())
        yield Ground(leases, Generations(leases, probe), engines, upstreams, owner)


async def test_all_generate_at_once_and_their_tokens_are_counted_together(ground: Ground) -> None:
    ground.behave(events=5, gap=0.01)
    run = await ground.run()
    assert isinstance(run, Run)
    assert run.tokens == 10
    assert run.rate == 10 / run.seconds
    assert [engine.peak for engine in ground.engines] == [1, 1]
    assert ground.leased == 0
    assert ground.owner.abandoned_on == []


async def test_a_client_that_comes_is_served_first(ground: Ground) -> None:
    ground.behave(events=1000, gap=0.05)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(ground.run())
        await ground.busy()
        lease = await ground.leases.wait(SOON)
        assert await running == PREVENTED
    assert ground.owner.abandoned_on == ground.upstreams, "their engines may still be working"
    lease.release()
    assert ground.leased == 0


@pytest.mark.parametrize("patience", [0.0, 0.05])
async def test_engines_that_clients_use_are_left_alone(ground: Ground, patience: float) -> None:
    lease = ground.leases.take()
    assert lease is not None
    assert await ground.run(patience) == PREVENTED
    assert not any(engine.received for engine in ground.engines)
    assert ground.leased == 1


async def test_clients_that_leave_in_time_are_waited_for(ground: Ground) -> None:
    lease = ground.leases.take()
    assert lease is not None
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(ground.run(SOON))
        await asyncio.sleep(0)
        assert ground.leased == 1
        lease.release()
        assert isinstance(await running, Run)


async def test_an_upstream_that_is_not_offered_is_not_used(ground: Ground) -> None:
    ground.leases.withdraw(ground.upstreams[0])
    assert await ground.run() == PREVENTED


async def test_nothing_is_generated_where_clients_would_go_to_an_overflow_meanwhile(ground: Ground) -> None:
    ground.leases.add(Upstream(instance="u0", host="127.0.0.1", port=1, overflow=True))
    assert await ground.run() == PREVENTED


async def test_nothing_is_generated_while_requests_are_refused(ground: Ground) -> None:
    ground.leases.refuse(lambda: ShuttingDown("stop"))
    assert await ground.run() == PREVENTED


async def test_where_nobody_may_wait_no_slot_is_taken_from_clients(ground: Ground) -> None:
    leases = Leases(Pool(0))
    for upstream in ground.upstreams:
        leases.add(upstream)
    async with Probe() as probe:
        assert await Generations(leases, probe).run(ground.upstreams, PATH, BODY, 0.0) == PREVENTED


@pytest.mark.parametrize("how", [{"status": 400, "body": "{}"}, {"raw": "nothing"}, {"events": 0, "usage": False}])
async def test_an_engine_that_does_not_generate_is_named(ground: Ground, how: dict[str, Any]) -> None:
    ground.behave(events=3)
    ground.engines[1].default = how
    assert await ground.run() == NotMeasured(obstacle=Obstacle.ENGINE, sentence="instance 1 did not generate")
    assert ground.owner.abandoned_on == [ground.upstreams[1]]
    assert ground.leased == 0


async def test_a_cancelled_generation_gives_its_slots_up(ground: Ground) -> None:
    ground.behave(events=1000, gap=0.05)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(ground.run())
        await ground.busy()
        running.cancel()
    assert ground.leased == 0
    assert set(ground.owner.abandoned_on) == set(ground.upstreams)


async def test_a_stop_does_not_wait_for_a_generation(ground: Ground) -> None:
    ground.behave(events=1000, gap=0.05)
    async with asyncio.TaskGroup() as tasks:
        generating = tasks.create_task(ground.run())
        await ground.busy()
        ground.leases.refuse(lambda: ShuttingDown("the proxy is shutting down"))
        assert await asyncio.wait_for(generating, SOON) == PREVENTED
    assert set(ground.owner.abandoned_on) == set(ground.upstreams)
