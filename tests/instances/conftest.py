"""A world to run instances in: leases, a probe, a record of every transition, and the ds4 stub as a quick engine."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from slotproxy.instances.lifecycle import State
from slotproxy.instances.processes.guardian import Guardian
from slotproxy.instances.processes.locks import FileLock, LockHeld
from slotproxy.instances.profiles import catalog
from slotproxy.instances.profiles.launch import Launch
from slotproxy.instances.profiles.profile import Idle, Profile, Stop
from slotproxy.instances.running.backoff import Backoff
from slotproxy.instances.running.instance import Instance
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.slots.pool import Pool
from slotproxy.instances.snapshot import Transition
from slotproxy.instances.upstream import Upstream

STUB = Path(__file__).parent.parent / "stubs" / "ds4-server"
SOON = 20.0
QUICK = Backoff(first=0.01, longest=0.02)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    """Enough of a model for the stub."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


def stub_profile(**changes: Any) -> Profile:
    """The shipped profile of ds4-server, quick to stop and to forgive unless `changes` say otherwise."""
    changes = {"stop": Stop(term=5, again=1), "idle": Idle(kind="delay", first=0.0, first_unstreamed=0.0)} | changes
    return msgspec.structs.replace(catalog.load("ds4-server"), **changes)


def stub_launch(
    model: Path, *extra_args: str, program: tuple[str, ...] = (sys.executable, str(STUB)), **changes: Any
) -> Launch:
    return Launch(
        profile=stub_profile(**changes),
        program=program,
        model=model,
        name="m",
        ctx=4096,
        threads=1,
        extra_args=extra_args,
    )


class World:
    """Runs instances for one test and ends them after it."""

    def __init__(self, state_dir: Path, tasks: asyncio.TaskGroup, probe: Probe) -> None:
        self.state_dir = state_dir
        self.leases = Leases(Pool(8))
        self.probe = probe
        self.transitions: list[Transition] = []
        self.tasks = tasks
        self.instances: list[Instance] = []
        self._moved = asyncio.Event()

    def instance(self, launch: Launch, backoff: Backoff = QUICK) -> Instance:
        name = str(len(self.instances))
        directory = self.state_dir / "instances" / name
        instance = Instance(name, launch, directory, self.leases, self.probe, Guardian(), self.moved, backoff)
        self.instances.append(instance)
        return instance

    async def started(self, launch: Launch, backoff: Backoff = QUICK) -> Instance:
        instance = self.instance(launch, backoff)
        self.tasks.create_task(instance.run())
        async with asyncio.timeout(SOON):
            await instance.outcome()
        return instance

    def moved(self, transition: Transition) -> None:
        self.transitions.append(transition)
        self._moved.set()

    def states(self, name: str = "0") -> list[State]:
        return [transition.after for transition in self.transitions if transition.instance == name]

    async def reached(self, state: State, times: int = 1, name: str = "0") -> None:
        """Return once the instance has been in `state` so many times."""
        async with asyncio.timeout(SOON):
            while self.states(name).count(state) < times:
                self._moved.clear()
                await self._moved.wait()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with Probe() as probe, asyncio.TaskGroup() as tasks:
        world = World(tmp_path / "state", tasks, probe)
        yield world
        for instance in world.instances:
            instance.stop()


def upstream_of(instance: Instance) -> Upstream:
    assert instance.upstream is not None
    return instance.upstream


def pid_of(instance: Instance) -> int:
    pid = instance.member().pid
    assert pid is not None
    return pid


async def assert_gone(pid: int, port: int) -> None:
    """Neither the process nor anybody on its port."""
    assert not psutil.pid_exists(pid)
    await assert_nobody_on(port)


async def assert_nobody_on(port: int) -> None:
    with contextlib.suppress(OSError):
        await asyncio.open_connection("127.0.0.1", port)
        pytest.fail(f"somebody still listens on port {port}")


def is_free(lock: Path) -> bool:
    try:
        FileLock.take(lock).release()
    except LockHeld:
        return False
    return True
