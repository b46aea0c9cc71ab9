"""The fleet as growth sees it, with the ds4 stub as the engine."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slotproxy.instances.aftercare import Aftercare
from slotproxy.instances.lifecycle import State
from slotproxy.instances.processes.guardian import Guardian
from slotproxy.instances.profiles.launch import Launch
from slotproxy.instances.running.fleet import Fleet
from slotproxy.instances.running.instance import Instance
from slotproxy.instances.scaling import benchmark, scaled_fleet, sharing, workload
from slotproxy.instances.scaling.generations import NotMeasured, Obstacle
from slotproxy.instances.scaling.memory_monitor import MemoryMonitor
from slotproxy.instances.scaling.scalable import Arrival
from slotproxy.instances.scaling.scaled_fleet import ScaledFleet
from slotproxy.instances.settings import SupplySettings
from tests.instances.conftest import QUICK, SOON, World, stub_launch, upstream_of

DEMO_SIZE = 98_362_432  # bytes


class Ground:
    """A scaled in a test's world."""

    def __init__(self, world: World, launch: Launch) -> None:
        self.world, self.launch = world, launch
        self.failed: list[Instance] = []
        self.fleet = Fleet(
            world.leases, world.probe, Guardian(), lambda number: world.state_dir / str(number), world.moved, QUICK
        )
        settings = SupplySettings(model=launch.model, state_dir=world.state_dir)
        self.monitor = MemoryMonitor(settings, lambda: self.fleet.instances)
        self.scaled = ScaledFleet(
            self.fleet, world.leases, world.probe, self.monitor, lambda: self.launch, self.failed.append, world.tasks
        )
        world.leases.owner = Aftercare(world.leases, lambda: self.fleet.instances, world.tasks)

    async def add(self, count: int = 1) -> Arrival:
        async with asyncio.timeout(SOON):
            return [await self.scaled.add() for _ in range(count)][-1]


@pytest.fixture
async def ground(world: World, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ground]:
    monkeypatch.setattr(benchmark, "PATIENCE", 0.0)
    found = Ground(world, stub_launch(gguf))
    yield found
    for instance in found.fleet.instances:
        instance.stop()


async def test_instances_that_come_and_go_are_counted(ground: Ground) -> None:
    assert await ground.add(2) is Arrival.READY
    level = ground.scaled.level()
    assert (level.running, level.idle, level.leaving, level.out_of_memory) == (2, 2, 0, False)
    await ground.scaled.remove(hard=False)
    assert ground.scaled.level().running == 1
    assert [instance.id for instance in ground.fleet.instances] == ["0"]


async def test_the_newest_idle_one_goes_and_work_in_flight_goes_on(ground: Ground) -> None:
    await ground.add(2)
    newest = upstream_of(ground.fleet.instances[1])
    lease = ground.world.leases.take({upstream_of(ground.fleet.instances[0])})
    assert lease is not None
    assert lease.upstream is newest
    await ground.scaled.remove(hard=False)
    assert [instance.id for instance in ground.fleet.instances] == ["1"]
    lease.release()


async def test_without_an_idle_one_the_newest_goes_when_its_request_has_ended(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaled_fleet, "LEAVING", 0.0)
    await ground.add(2)
    leases = [ground.world.leases.take() for _ in range(2)]
    await ground.scaled.remove(hard=False)
    level = ground.scaled.level()
    assert (level.running, level.leaving) == (1, 1)
    assert ground.fleet.instances[1].status.state is State.DRAINING
    for lease in leases:
        assert lease is not None
        lease.release()
    async with asyncio.timeout(SOON):
        await ground.fleet.instances[1].ended()


async def test_past_the_hard_watermark_nothing_is_waited_for(ground: Ground) -> None:
    await ground.add(3)
    leases = [ground.world.leases.take() for _ in range(3)]
    first_out = ground.fleet.instances[2]
    ground.world.tasks.create_task(ground.fleet.remove(first_out, None))
    await ground.world.reached(State.DRAINING, name="2")
    async with asyncio.timeout(SOON):
        await ground.scaled.remove(hard=True)
        await first_out.ended()
    assert [instance.id for instance in ground.fleet.staying] == ["0"]
    for lease in leases:
        assert lease is not None
        lease.release()


async def test_the_last_one_is_never_taken_out(ground: Ground) -> None:
    await ground.add()
    await ground.scaled.remove(hard=True)
    assert ground.scaled.level().running == 1


@pytest.mark.parametrize("count", [1, 2])
async def test_an_engine_that_does_not_start_for_another_reason_than_memory_is_told_of(
    ground: Ground, count: int
) -> None:
    if count == 2:
        await ground.add()
    ground.launch = replace(ground.launch, program=("/bin/false",))
    assert await ground.add() is Arrival.FAILED
    assert [instance.id for instance in ground.failed] == [str(count - 1)]


async def test_an_engine_without_memory_is_the_first_to_go(ground: Ground, tmp_path: Path) -> None:
    await ground.add()
    program = tmp_path / "starving"
    program.write_text("#!/bin/sh\necho 'ds4: Metal model warmup failed: Insufficient Memory' >&2\nexit 1\n")
    program.chmod(0o755)
    ground.launch = replace(ground.launch, program=(str(program),))
    assert await ground.add() is Arrival.OUT_OF_MEMORY
    assert "Insufficient Memory" in ground.scaled.why()
    assert ground.scaled.level().out_of_memory
    await ground.scaled.remove(hard=True)
    level = ground.scaled.level()
    assert (level.running, level.out_of_memory) == (1, False)


async def test_work_fills_some_context_and_learns_what_one_more_costs(ground: Ground) -> None:
    await ground.add()
    await ground.scaled.work(known=False)
    level = ground.scaled.level()
    assert level.next_cost > 0
    assert level.used >= level.next_cost
    assert level.idle == 1


async def test_instances_are_compared_with_one_less_in_turns(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "WINDOW", 0.0)
    await ground.add(2)
    pairs = await ground.scaled.compare(0.05, wait=True)
    assert isinstance(pairs, list)
    assert len(pairs) >= 2
    assert all(before > 0 and after > 0 for before, after in pairs)
    assert ground.scaled.level().idle == 2


async def test_with_clients_or_one_instance_there_is_no_comparison(ground: Ground) -> None:
    await ground.add()
    assert await ground.scaled.compare(0.05, wait=True) == NotMeasured(obstacle=Obstacle.TOO_FEW)
    await ground.add()
    lease = ground.world.leases.take()
    assert lease is not None
    assert await ground.scaled.compare(0.05, wait=True) == NotMeasured(obstacle=Obstacle.CLIENTS)
    lease.release()


async def test_engines_that_cannot_be_measured_are_not_compared(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workload, "request", lambda *_: ("/nowhere", {}))
    await ground.add(2)
    caplog.set_level("INFO")
    found = await ground.scaled.compare(0.05, wait=True)
    assert found == NotMeasured(obstacle=Obstacle.ENGINE, sentence="instance 0 did not generate")
    assert "the instances cannot be compared: instance 0 did not generate" in caplog.text


async def test_whether_the_model_is_shared_is_found_out_once_an_instance_is_idle(
    ground: Ground, demo_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(sharing, "broken", lambda **facts: asked.update(facts) or "a sentence")
    ground.launch = replace(ground.launch, model=demo_model)
    assert not await ground.scaled.check_sharing()
    await ground.add()
    assert await ground.scaled.check_sharing()
    assert "a sentence" in caplog.text
    assert asked["weights"] == DEMO_SIZE
    assert asked["kv"] == 23040 * ground.launch.ctx
    assert asked["mapping"] is None, "the stub does not map it"
