"""Engines that hang without a request, or with a prompt: looked at a hundred times a second, so that it is quick."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.failures import Cause
from slotproxy.instances.lifecycle import State
from slotproxy.instances.profiles.profile import Stop, Watch
from slotproxy.instances.running.instance import Instance
from slotproxy.instances.running.watchdog import Activity, Liveness, Watchdog
from tests.instances.conftest import World, pid_of, stub_launch

QUICK_STOP = Stop(term=0.05, again=0.05)
PERIOD = 5.0
UNSEEN = Liveness(limit=60.0, period=PERIOD)
Look = tuple[float, int, float | None, bool]
LOOKS = st.lists(
    st.tuples(st.floats(0, 1000), st.integers(0, 2), st.none() | st.floats(0, 1), st.booleans()), max_size=60
)


def over_time(looks: list[Look]) -> list[tuple[Liveness, bool]]:
    """After each look, and whether anything showed life. What an engine has done only grows."""
    liveness, now, output, cpu, seen = UNSEEN, 0.0, 0, 0.0, []
    for passed, wrote, worked, answered in looks:
        now, output, cpu = now + passed, output + wrote, cpu + (worked or 0)
        activity = Activity(output=output, cpu=None if worked is None else cpu)
        alive = liveness.moved(activity) or answered
        liveness = liveness.looked(now, activity, alive=alive)
        seen.append((liveness, alive))
    return seen


@given(LOOKS)
def test_any_sign_of_life_ends_the_silence(looks: list[Look]) -> None:
    for liveness, alive in over_time(looks):
        assert not (alive and liveness.silence)


@given(LOOKS)
def test_only_as_much_silence_is_held_against_it_as_was_watched(looks: list[Look]) -> None:
    for number, (liveness, _) in enumerate(over_time(looks), start=1):
        assert liveness.silence <= number * 2 * PERIOD


@given(LOOKS)
def test_an_engine_that_works_or_writes_is_never_hung_however_seldom_it_answers(looks: list[Look]) -> None:
    busy = [(passed, 1, worked, False) for passed, _, worked, _ in looks]
    assert not any(liveness.hung for liveness, _ in over_time(busy))


def test_an_engine_that_stands_still_is_hung_at_the_limit_and_not_before() -> None:
    still = over_time([(PERIOD, 0, 0.0, False)] * 14)
    assert [liveness.hung for liveness, _ in still] == [False] * 12 + [True] * 2


def test_time_that_we_slept_through_does_not_count() -> None:
    asleep = over_time([(PERIOD, 0, 0.0, False), (PERIOD, 0, 0.0, False), (86_400.0, 0, 0.0, False)])
    assert asleep[-1][0].silence == PERIOD + 2 * PERIOD


def test_without_a_limit_nothing_is_hung() -> None:
    liveness = Liveness(limit=0, period=PERIOD)
    for now in range(0, 1000, 5):
        liveness = liveness.looked(now, Activity(output=0), alive=False)
    assert not liveness.hung


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
    assert instance.status.failure is not None
    assert instance.status.failure.cause is Cause.HANG


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
