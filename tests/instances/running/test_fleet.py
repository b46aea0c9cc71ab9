import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from slotproxy.instances.lifecycle import State
from slotproxy.instances.processes.guardian import Guardian
from slotproxy.instances.profiles.launch import Launch
from slotproxy.instances.running.fleet import Fleet
from slotproxy.instances.running.instance import Instance
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.slots.pool import Pool
from slotproxy.instances.upstream import Upstream
from tests.instances.conftest import QUICK, SOON, assert_gone, pid_of, stub_launch, upstream_of


class Witness:
    """Notes of every engine that comes or goes whether it is offered and whether it is alive then."""

    def __init__(self, leases: Leases, probe: Probe) -> None:
        self.leases, self.probe = leases, probe
        self.seen: list[tuple[str, str, bool, bool]] = []
        self.takes_long = False

    async def joining(self, upstream: Upstream, launch: Launch, directory: Path) -> None:
        await self.note("joining", upstream)

    async def leaving(self, upstream: Upstream) -> None:
        await self.note("leaving", upstream)
        if self.takes_long:
            await asyncio.Event().wait()

    def left(self, upstream: Upstream) -> None:
        self.seen.append(("left", upstream.instance, self.leases.offered(upstream) > 0, False))

    async def note(self, what: str, upstream: Upstream) -> None:
        offered = self.leases.offered(upstream) > 0
        self.seen.append((what, upstream.instance, offered, await self.probe.listens(upstream)))


class Yard:
    """A fleet of stubs and what is needed to run one."""

    def __init__(self, folder: Path, model: Path, tasks: asyncio.TaskGroup, probe: Probe) -> None:
        self.leases = Leases(Pool(8))
        self.witness = Witness(self.leases, probe)
        self.fleet = Fleet(
            self.leases, probe, Guardian(), lambda n: folder / str(n), lambda step: None, QUICK, self.witness
        )
        self.launch = stub_launch(model)
        self.tasks = tasks

    async def ready(self, number: int = 1) -> list[Instance]:
        instances = [self.fleet.add(self.launch, self.tasks) for _ in range(number)]
        async with asyncio.timeout(SOON):
            assert {await instance.outcome() for instance in instances} == {State.READY}
        return instances


@pytest.fixture
async def yard(tmp_path: Path, gguf: Path) -> AsyncIterator[Yard]:
    async with Probe() as probe, asyncio.TaskGroup() as tasks:
        yard = Yard(tmp_path, gguf, tasks, probe)
        yield yard
        for instance in yard.fleet.instances:
            instance.stop()


async def test_one_is_taken_out_only_when_its_requests_have_ended(yard: Yard) -> None:
    (instance,) = await yard.ready()
    pid, port = pid_of(instance), upstream_of(instance).port
    lease = yard.leases.take()
    assert lease is not None
    removal = yard.tasks.create_task(yard.fleet.remove(instance, patience=SOON))
    while instance.status.state is not State.DRAINING:
        await asyncio.sleep(0)
    assert yard.fleet.staying == ()
    assert yard.leases.take() is None
    lease.release()
    await asyncio.wait_for(removal, SOON)
    assert yard.fleet.instances == ()
    await assert_gone(pid, port)


async def test_patience_ends(yard: Yard) -> None:
    (instance,) = await yard.ready()
    assert yard.leases.take() is not None
    await asyncio.wait_for(yard.fleet.remove(instance, patience=0), SOON)
    assert instance.status.state is State.STOPPED


async def test_the_lowest_free_number_is_the_next(yard: Yard) -> None:
    first, _ = await yard.ready(2)
    await yard.fleet.remove(first, patience=0)
    (third,) = await yard.ready()
    assert third.id == "0"
    assert [instance.id for instance in yard.fleet.instances] == ["1", "0"]


async def test_the_newest_idle_one_is_found(yard: Yard) -> None:
    first, second = await yard.ready(2)
    assert yard.fleet.newest_idle() is second
    lease = yard.leases.take(frozenset({upstream_of(first)}))
    assert lease is not None
    assert yard.fleet.newest_idle() is first
    lease.release()
    assert yard.fleet.newest_idle() is second


async def test_all_are_restarted_in_turn_and_one_serves_at_every_moment(yard: Yard) -> None:
    instances = await yard.ready(2)
    before = [pid_of(instance) for instance in instances]
    rolling = yard.tasks.create_task(yard.fleet.restart_in_turn(instances, patience=SOON))
    while not rolling.done():
        assert yard.leases.upstreams
        await asyncio.sleep(0)
    assert rolling.result()
    assert not set(before) & {pid_of(instance) for instance in instances}
    assert [instance.status.restarts for instance in instances] == [1, 1]


async def test_a_restart_asked_for_several_times_before_it_began_is_one_restart(yard: Yard) -> None:
    instances = await yard.ready(2)
    rolls = [yard.tasks.create_task(yard.fleet.restart_in_turn(instances, patience=SOON)) for _ in range(3)]
    rolls += [yard.tasks.create_task(yard.fleet.restart_in_turn((instances[1],), patience=SOON)) for _ in range(3)]
    assert all(await asyncio.wait_for(asyncio.gather(*rolls), SOON))
    assert [instance.status.restarts for instance in instances] == [1, 1]
    assert await asyncio.wait_for(yard.fleet.restart_in_turn(instances, patience=SOON), SOON)
    assert [instance.status.restarts for instance in instances] == [2, 2]


async def test_a_roll_stops_at_one_that_does_not_come_back(yard: Yard, gguf: Path) -> None:
    first, second = await yard.ready(2)
    pid = pid_of(second)
    assert not await yard.fleet.restart_in_turn(
        (first, second), patience=0, launch=stub_launch(gguf.parent / "none.gguf")
    )
    assert first.status.state is State.FAILED
    assert pid_of(second) == pid


async def test_an_engine_that_dies_while_it_drains_for_a_restart_comes_back(yard: Yard) -> None:
    (instance,) = await yard.ready()
    upstream = upstream_of(instance)
    lease = yard.leases.take()
    assert lease is not None
    restart = yard.tasks.create_task(yard.fleet.restart(instance, patience=SOON))
    while instance.status.state is not State.DRAINING:
        await asyncio.sleep(0)
    engine = instance._engine
    assert engine is not None
    engine.process.kill()
    await asyncio.wait_for(instance.gone(upstream), SOON)
    lease.release()
    assert await asyncio.wait_for(restart, SOON) is State.READY


async def test_a_restart_of_one_that_is_being_taken_out_does_nothing(yard: Yard) -> None:
    (instance,) = await yard.ready()
    lease = yard.leases.take()
    assert lease is not None
    removal = yard.tasks.create_task(yard.fleet.remove(instance, patience=SOON))
    restart = yard.tasks.create_task(yard.fleet.restart(instance, patience=SOON))
    await asyncio.sleep(0)
    lease.release()
    await asyncio.wait_for(asyncio.gather(removal, restart), SOON)
    assert instance.status.state is State.STOPPED
    assert instance.status.restarts == 0


async def test_others_hear_of_an_engine_before_it_is_offered_and_before_it_is_ended(yard: Yard) -> None:
    (instance,) = await yard.ready()
    assert yard.witness.seen == [("joining", "0", False, True)]
    lease = yard.leases.take()
    assert lease is not None
    restart = yard.tasks.create_task(yard.fleet.restart(instance, patience=SOON))
    while instance.status.state is not State.DRAINING:
        await asyncio.sleep(0)
    assert len(yard.witness.seen) == 1  # it still has a request
    lease.release()
    assert await asyncio.wait_for(restart, SOON) is State.READY
    restarted = [("leaving", "0", False, True), ("left", "0", False, False), ("joining", "0", False, True)]
    assert yard.witness.seen[1:] == restarted
    await yard.fleet.remove(instance, patience=None)
    assert yard.witness.seen[4:] == [("leaving", "0", False, True), ("left", "0", False, False)]


async def test_others_hear_that_an_engine_died(yard: Yard) -> None:
    (instance,) = await yard.ready()
    upstream = upstream_of(instance)
    engine = instance._engine
    assert engine is not None
    engine.process.kill()
    await asyncio.wait_for(instance.gone(upstream), SOON)
    async with asyncio.timeout(SOON):
        while len(yard.witness.seen) < 3:
            await asyncio.sleep(0.001)
    assert yard.witness.seen[1:] == [("left", "0", False, False), ("joining", "0", False, True)]


async def test_nobody_can_hold_up_the_end_of_an_engine_for_longer_than_its_requests_may(yard: Yard) -> None:
    (instance,) = await yard.ready()
    yard.witness.takes_long = True
    await asyncio.wait_for(yard.fleet.remove(instance, patience=0.05), SOON)
    assert instance.status.state is State.STOPPED
