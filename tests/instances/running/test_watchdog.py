"""Engines that hang without a request, or with a prompt: looked at a hundred times a second, so that it is quick."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from slotproxy.instances.failures import Cause
from slotproxy.instances.lifecycle import State
from slotproxy.instances.profiles.catalog import Stop, Watch
from slotproxy.instances.running.instance import Instance
from slotproxy.instances.running.watchdog import Watchdog
from tests.instances.conftest import World, pid_of, stub_launch

QUICK_STOP = Stop(term=0.05, again=0.05)


class Pack:
    """As much of a fleet as the watchdog asks for."""

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def instances(self) -> tuple[Instance, ...]:
        return tuple(self._world.instances)


@pytest.fixture
async def watched(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr("slotproxy.instances.running.probe.TIMEOUT", 0.05)
    async with asyncio.TaskGroup() as tasks:
        dog = tasks.create_task(Watchdog(Pack(world), period=0.01).run())  # type: ignore[arg-type]
        yield world
        dog.cancel()


async def test_an_engine_that_hangs_with_nobody_asking_is_replaced(watched: World, gguf: Path) -> None:
    instance = await watched.started(stub_launch(gguf, watch=Watch(silence=0.1), stop=QUICK_STOP))
    os.kill(pid_of(instance), signal.SIGSTOP)
    await watched.reached(State.READY, times=2)
    assert instance.standing.failure is not None
    assert instance.standing.failure.cause is Cause.HANG


async def test_an_engine_that_answers_is_left_alone(watched: World, gguf: Path) -> None:
    instance = await watched.started(stub_launch(gguf, watch=Watch(silence=0.1)))
    looks = 0

    async def answers(upstream: object) -> bool:
        nonlocal looks
        looks += 1
        return True

    instance.answers = answers  # type: ignore[method-assign]
    os.kill(pid_of(instance), signal.SIGSTOP)
    while looks < 50:
        await asyncio.sleep(0.005)
    os.kill(pid_of(instance), signal.SIGCONT)
    assert watched.states().count(State.READY) == 1


@pytest.mark.parametrize("busy_by", ["cpu", "log"])
async def test_an_engine_that_reads_a_long_prompt_and_answers_nothing_is_left_alone(
    watched: World, gguf: Path, monkeypatch: pytest.MonkeyPatch, busy_by: str
) -> None:
    instance = await watched.started(stub_launch(gguf, watch=Watch(silence=0.1)))
    looks = 0

    def more() -> int:
        nonlocal looks
        looks += 1
        return looks

    async def answers(upstream: object) -> bool:
        more()
        return False

    instance.answers = answers  # type: ignore[method-assign]
    if busy_by == "cpu":
        monkeypatch.setattr(Instance, "cpu_time", lambda self: float(more()))
    else:
        monkeypatch.setattr(Instance, "output", property(lambda self: more()))
    while looks < 100:
        await asyncio.sleep(0.005)
    assert watched.states().count(State.READY) == 1
