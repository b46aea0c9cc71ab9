"""A supervisor's memory at work, with the ds4 stub as the engine."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slotproxy.instances.decisions import Decision, Move
from slotproxy.instances.lifecycle import State
from slotproxy.instances.memory import process_tree
from slotproxy.instances.readings import Total
from slotproxy.instances.scaling import benchmark, governor, scalable, scaled_fleet, watermarks
from slotproxy.instances.scaling.generations import NotMeasured, Obstacle
from slotproxy.instances.scaling.planner import Pair
from slotproxy.instances.settings import MemoryLimit
from tests.instances.conftest import SOON
from tests.instances.test_supervisor import Supply, supplying

GIB = 1 << 30
PREVENTED = NotMeasured(obstacle=Obstacle.CLIENTS)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """100 GiB, all of them available until a test says otherwise; looks are quick."""
    found = SimpleNamespace(available=100 * GIB)
    monkeypatch.setattr(process_tree, "effective_total", lambda: Total(size=100 * GIB, source="physical memory"))
    monkeypatch.setattr(process_tree, "available", lambda mapped=0: found.available)
    monkeypatch.setattr(governor, "MACHINE_EVERY", 0.01)
    monkeypatch.setattr(benchmark, "ANSWER_TOKENS", 1)
    monkeypatch.setattr(benchmark, "STEPS", 1)
    monkeypatch.setattr(watermarks, "PAUSE", 0.0)
    monkeypatch.setattr(watermarks, "REST", 0.0)
    return found


def decisions(supply: Supply) -> list[Decision]:
    return list(supply.supervisor.snapshot().decisions)


async def settled(tmp_path: Path, model: Path, **changes: Any) -> list[Decision]:
    """The decisions of one start."""
    async with supplying(tmp_path, model, max_instances=1, **changes) as supply:
        await supply.until(ready=1)
        return decisions(supply)


async def test_what_one_start_found_out_the_next_one_does_not_measure_again(tmp_path: Path, demo_model: Path) -> None:
    first = await settled(tmp_path, demo_model)
    assert [decision.reason for decision in first] == ["max-instances"]
    (again,) = await settled(tmp_path, demo_model)
    assert (again.reason, again.move) == ("max-instances", Move.STOP)
    assert again.sentence.startswith("using 1 instance, measured 2")
    assert again.sentence.endswith(f"; --recalibrate to repeat (found then: {first[0].sentence})")
    assert await settled(tmp_path, demo_model, recalibrate=True) == first


async def test_no_gain_takes_the_newest_out_and_keeps_it_out(
    tmp_path: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def compare(*_: object, wait: bool) -> list[Pair]:
        return [(10.0, 10.1)]

    monkeypatch.setattr(scaled_fleet.ScaledFleet, "compare", compare)
    for expected in (["fits", "no-gain"], ["no-gain"]):
        async with supplying(tmp_path, demo_model) as supply:
            await supply.until(ready=1)
            assert [decision.reason for decision in decisions(supply)] == expected


async def test_a_comparison_that_clients_prevented_is_tried_again(
    tmp_path: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[list[Pair] | NotMeasured] = [PREVENTED, PREVENTED, [(10.0, 10.1)]]

    async def compare(*_: object, wait: bool) -> list[Pair] | NotMeasured:
        return answers.pop(0)

    monkeypatch.setattr(scaled_fleet.ScaledFleet, "compare", compare)
    monkeypatch.setattr(governor, "QUIET", 0.0)
    monkeypatch.setattr(governor, "LONGEST_PAUSE", 0.0)
    async with supplying(tmp_path, demo_model, max_instances=2) as supply:
        await supply.until(ready=2)
        await supply.until(ready=1)
        assert [decision.reason for decision in decisions(supply)] == ["fits", "max-instances", "no-gain"]
        assert [member.id for member in supply.members if member.state is State.READY] == ["0"]


async def test_a_comparison_is_tried_again_after_a_quiet_while_and_not_at_once(
    tmp_path: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    async def compare(*_: object, wait: bool) -> NotMeasured:
        asked.append(wait)
        return PREVENTED

    monkeypatch.setattr(scaled_fleet.ScaledFleet, "compare", compare)
    monkeypatch.setattr(governor, "QUIET", 600.0)
    monkeypatch.setattr(governor, "PAUSE", 600.0)
    async with supplying(tmp_path, demo_model, max_instances=2) as supply:
        await supply.until(ready=2)
        lease = await supply.leases.wait(SOON)
        lease.release()
        await asyncio.sleep(0.1)
        assert asked == [True], "a request a moment ago"
        monkeypatch.setattr(governor, "QUIET", 0.0)
        async with asyncio.timeout(SOON):
            while asked != [True, False]:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert asked == [True, False], "clients ended it, so the next one comes later"


async def test_memory_that_others_take_makes_one_leave_and_a_queue_brings_it_back(
    tmp_path: Path, demo_model: Path, machine: SimpleNamespace
) -> None:
    async with supplying(tmp_path, demo_model, max_instances=2, min_gain=0.0) as supply:
        await supply.until(ready=2)
        machine.available = 9 * GIB
        await supply.until(ready=1)
        machine.available = 100 * GIB
        lease = await supply.leases.wait(SOON)
        async with asyncio.TaskGroup() as tasks:
            second = tasks.create_task(supply.leases.wait(SOON))
            other = await second
        assert other.upstream is not lease.upstream
        await supply.until(ready=2)
        counts = {(one.decision, one.reason): one.count for one in supply.supervisor.snapshot().decision_counts}
        assert counts[Move.REMOVE, "memory"] == counts[Move.ADD, "room"] == 1
        for held in (lease, other):
            held.release()


async def test_as_many_as_the_user_asked_for_stay_and_passing_the_limit_is_said_once(
    tmp_path: Path, demo_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with supplying(tmp_path, demo_model, instances=2, memory_limit=MemoryLimit(size=1)) as supply:
        await supply.until(ready=2)
        async with asyncio.timeout(SOON):
            while "keeping 2 instances, as asked, although memory is short: 2 instances use" not in caplog.text:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert caplog.text.count("as asked, although") == 1
        assert decisions(supply) == []
        await supply.until(ready=2)


async def test_an_engine_without_memory_settles_the_number(
    tmp_path: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = scaled_fleet.ScaledFleet.add

    async def once(self: scaled_fleet.ScaledFleet) -> scalable.Arrival:
        arrival = await add(self)
        return arrival if self.level().running < 2 else scalable.Arrival.OUT_OF_MEMORY

    monkeypatch.setattr(scaled_fleet.ScaledFleet, "add", once)
    async with supplying(tmp_path, demo_model) as supply:
        await supply.until(ready=1)
        assert decisions(supply)[-1].reason == "engine-oom"
        assert len(supply.members) == 1
