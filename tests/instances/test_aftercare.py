"""What becomes of slots and upstreams that requests leave behind, with the ds4 stub as the engine."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from slotproxy.instances import aftercare
from slotproxy.instances.aftercare import Aftercare
from slotproxy.instances.lifecycle import State
from slotproxy.instances.profiles.launch import Launch
from slotproxy.instances.profiles.profile import Idle
from slotproxy.instances.remotes.remote import Remote
from slotproxy.instances.running.instance import Instance
from slotproxy.instances.slots.lease import Lease
from slotproxy.instances.upstream import Upstream
from tests.instances.conftest import SOON, World, pid_of, stub_launch, upstream_of

NEVER_IDLE = Idle(kind="slots", first=0.0, first_unstreamed=0.0, every=0.05, limit=0.1)  # the stub has no /slots
LATER = Idle(kind="delay", first=0.2, first_unstreamed=600)
MUCH_LATER = Idle(kind="delay", first=600, first_unstreamed=600)


async def leased(world: World, launch: Launch) -> tuple[Instance, Lease]:
    instance = await world.started(launch)
    world.leases.owner = Aftercare(world.leases, lambda: tuple(world.instances), world.tasks)
    lease = world.leases.take()
    assert lease is not None
    return instance, lease


async def returned(world: World, upstream: Upstream) -> None:
    world.leases.withdraw(upstream)
    async with asyncio.timeout(SOON):
        await world.leases.drained(upstream)


async def offered(world: World, upstream: Upstream) -> None:
    """Return once `upstream` may be leased."""
    lease = await world.leases.wait(SOON)
    assert lease.upstream is upstream
    lease.release()


async def test_an_abandoned_slot_stays_taken_until_the_engine_is_idle(world: World, gguf: Path) -> None:
    _, lease = await leased(world, stub_launch(gguf, idle=LATER))
    lease.streaming = True
    lease.abandon()
    assert world.leases.leased(lease.upstream) == 1
    await returned(world, lease.upstream)
    assert State.STOPPING not in world.states()


async def test_an_engine_that_does_not_become_idle_is_restarted(world: World, gguf: Path) -> None:
    instance, lease = await leased(world, stub_launch(gguf, idle=NEVER_IDLE))
    lease.abandon()
    await world.reached(State.READY, times=2)
    assert world.leases.leased(lease.upstream) == 0
    assert instance.member().reason == "the engine went on with an abandoned request for too long"


async def test_the_end_of_the_engine_gives_an_abandoned_slot_back(world: World, gguf: Path) -> None:
    instance, lease = await leased(world, stub_launch(gguf, idle=MUCH_LATER))
    lease.abandon()
    os.kill(pid_of(instance), signal.SIGKILL)
    await returned(world, lease.upstream)


async def test_a_hang_restarts_the_instance(world: World, gguf: Path) -> None:
    instance, lease = await leased(world, stub_launch(gguf))
    world.leases.owner.failed(lease.upstream, "hang")
    lease.release()
    assert world.leases.take() is None
    await world.reached(State.READY, times=2)
    assert instance.member().reason == "the engine gave no answer in time"


async def test_a_doubted_upstream_is_offered_again_when_it_answers(world: World, gguf: Path) -> None:
    _, lease = await leased(world, stub_launch(gguf))
    world.leases.owner.failed(lease.upstream, "reset")
    lease.release()
    assert world.leases.take() is None
    await offered(world, lease.upstream)


async def test_a_doubted_upstream_that_died_is_not_offered_again(world: World, gguf: Path) -> None:
    instance, lease = await leased(world, stub_launch(gguf))
    os.kill(pid_of(instance), signal.SIGKILL)
    world.leases.owner.failed(lease.upstream, "reset")
    lease.release()
    await world.reached(State.READY, times=2)
    await offered(world, upstream_of(instance))
    assert world.leases.upstreams == (upstream_of(instance),)


async def test_a_living_engine_that_does_not_answer_is_restarted(
    world: World, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aftercare, "LOOKS", 1)
    monkeypatch.setattr(aftercare, "BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr("slotproxy.instances.running.probe.TIMEOUT", 0.2)
    instance, lease = await leased(world, stub_launch(gguf))
    os.kill(pid_of(instance), signal.SIGSTOP)
    world.leases.owner.failed(lease.upstream, "reset")
    lease.release()
    await world.reached(State.STOPPING)
    os.kill(pid_of(instance), signal.SIGCONT)
    await world.reached(State.READY, times=2)
    assert instance.member().reason == "the engine lives but does not answer"


async def test_once_closed_it_gives_slots_back_at_once_and_starts_nothing(world: World, gguf: Path) -> None:
    _, lease = await leased(world, stub_launch(gguf, idle=MUCH_LATER))
    assert isinstance(world.leases.owner, Aftercare)
    world.leases.owner.close()
    lease.abandon()
    world.leases.owner.failed(lease.upstream, "hang")
    assert world.leases.leased(lease.upstream) == 0
    assert world.states()[-1] is State.READY


async def test_what_is_said_of_an_upstream_that_is_no_more_is_ignored(world: World, gguf: Path) -> None:
    instance, lease = await leased(world, stub_launch(gguf))
    old = lease.upstream
    os.kill(pid_of(instance), signal.SIGKILL)
    await world.reached(State.READY, times=2)
    world.leases.owner.failed(old, "hang")
    lease.abandon()
    assert world.leases.leased(old) == 0
    assert world.leases.upstreams == (upstream_of(instance),)


async def test_an_abandoned_slot_of_an_upstream_comes_back_when_the_reset_was_noticed(world: World) -> None:
    upstream = Upstream(instance="u0", host="127.0.0.1", port=1)
    remote = Remote(upstream, world.leases, world.probe, world.moved)
    world.leases.add(upstream)
    lease = world.leases.take()
    assert lease is not None
    Aftercare(world.leases, lambda: (remote,), world.tasks).abandoned(lease)
    assert world.leases.take() is None
    (await world.leases.wait(SOON)).release()
