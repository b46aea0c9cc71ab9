import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slotproxy.instances.lifecycle import State
from slotproxy.instances.memory import machine as machines
from slotproxy.instances.memory.machine import Resident
from slotproxy.instances.readings import Pressure, Reading, Total
from slotproxy.instances.scaling.memory_monitor import ENGINES_EVERY, MemoryMonitor, stall
from slotproxy.instances.settings import MemoryLimit, SupplySettings
from slotproxy.instances.upstream import Upstream

MIB = 1 << 20


class Bench(Resident):
    """A machine of 1000 MiB whose engines hold what the test says, by pid."""

    def __init__(self, *, divisible: bool = True) -> None:
        self.held: dict[int, int] = {}
        self.base = 0
        self.divisible = divisible
        self.now = Pressure()

    def total(self) -> Total:
        return Total(size=1000 * MIB, source="physical memory")

    def read(self, pid: int) -> Reading | None:
        held = self.held[pid] * MIB
        return Reading(rss=held, pss=held, private=held, shared=0)

    def used(self, readings: Any) -> int:
        return self.base * MIB + sum(int(reading.pss) for reading in readings)

    def part(self, reading: Reading) -> int | None:
        return reading.private if self.divisible else None

    def available(self, readings: Any) -> int:
        return 1000 * MIB - self.used(readings)

    def pressure(self, pids: Any) -> Pressure:
        return self.now


@dataclass
class Status:
    state: State = State.READY


class Engine:
    """As much of an instance as is read."""

    def __init__(self, pid: int) -> None:
        self.upstream: Upstream | None = Upstream(instance=str(pid), host="h", port=pid)
        self.status = Status()
        self.memory: Reading | None = None
        self.pid = pid

    def member(self) -> "Engine":
        return self

    async def measure(self, read: Any) -> None:
        self.memory = read(self.pid) or self.memory


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench()
    monkeypatch.setattr(machines, "choose", lambda metric: bench)
    monkeypatch.setattr(machines, "gpu_if_used", lambda machine, pids: machine)
    return bench


def monitor(engines: list[Engine], **changes: Any) -> MemoryMonitor:
    settings = SupplySettings(model=Path("m"), state_dir=Path("s"), **changes)
    return MemoryMonitor(settings, lambda: engines)  # type: ignore[arg-type, return-value]


async def test_one_more_costs_as_much_as_the_dearest_did_at_its_busiest(bench: Bench) -> None:
    found = monitor([Engine(1), Engine(2)])
    for bench.held in ({1: 100, 2: 120}, {1: 150, 2: 120}, {1: 90, 2: 90}):
        await found.read()
    assert found.cost(2) == 150 * MIB
    assert found.used == 180 * MIB
    assert found.peak(2) == 270 * MIB
    assert found.available == 820 * MIB


async def test_what_is_expected_counts_until_more_was_seen(bench: Bench) -> None:
    found = monitor([Engine(1)])
    bench.held = {1: 100}
    await found.read()
    found.expect(130 * MIB)
    assert found.cost(1) == 130 * MIB
    found.forget()
    assert found.cost(1) == 0


async def test_where_only_the_whole_can_be_read_one_more_costs_the_largest_step(bench: Bench) -> None:
    bench.divisible, bench.base = False, 50
    engines: list[Engine] = []
    found = monitor(engines)
    await found.read()
    bench.held = {1: 70, 2: 90}
    for pid in (1, 2):
        engines.append(Engine(pid))
        await found.read()
    assert found.cost(1) == 70 * MIB
    assert found.cost(2) == 90 * MIB


async def test_an_engine_that_is_gone_costs_nothing_more(bench: Bench) -> None:
    engines = [Engine(1), Engine(2)]
    found = monitor(engines)
    bench.held = {1: 100, 2: 300}
    await found.read()
    engines.pop()
    await found.read()
    assert found.cost(1) == 100 * MIB


async def test_while_one_comes_or_goes_the_sum_is_of_no_number_of_instances(bench: Bench) -> None:
    engines = [Engine(1), Engine(2)]
    engines[1].status = Status(State.STOPPING)
    found = monitor(engines)
    bench.held = {1: 100, 2: 300}
    await found.read()
    engines.pop()
    await found.read()
    assert found.peak(1) == 100 * MIB
    assert found.peak(2) == 100 * MIB


async def test_a_limit_in_percent_is_of_the_total(bench: Bench) -> None:
    found = monitor([], memory_limit=MemoryLimit(percent=50))
    assert found.limit == 500 * MIB
    found.reconfigure(SupplySettings(model=None, state_dir=Path("s"), memory_limit=MemoryLimit(size=7)))
    assert found.limit == 7


async def test_reading_dear_engines_is_done_less_often(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = [Engine(1)]
    found = monitor(engines)
    bench.held = {1: 1}
    clock = iter([0.0, 0.5])
    monkeypatch.setattr(time, "thread_time", lambda: next(clock))
    assert found.pause == ENGINES_EVERY
    await found.read()
    assert found.pause == 100.0, "half a second of work once in a hundred is half a percent"


async def test_what_cannot_be_read_stays_as_it_was_and_is_said_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = monitor([Engine(1)])
    bench.held = {1: 100}
    await found.read()

    def lost(*_: object) -> Any:
        raise OSError("the GPU is lost")

    monkeypatch.setattr(bench, "available", lost)
    monkeypatch.setattr(bench, "read", lost)
    await found.read()
    await found.read()
    assert (found.used, found.available) == (100 * MIB, 900 * MIB)
    assert caplog.text.count("memory cannot be read: the GPU is lost") == 1


async def test_stalls_show_from_the_second_look_on(bench: Bench) -> None:
    found = monitor([])
    bench.now = Pressure(swapped_in=1 << 40)
    await found.read_machine()
    assert found.stall == "", "swapped in since the system started"
    bench.now = Pressure(swapped_in=1 << 40, stalled=0.5)
    await found.read_machine()
    assert found.stall == "programs wait for memory 50 % of the time"


async def test_gpu_memory_is_governed_once_an_engine_was_seen_to_use_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Bench()
    gpu.held = {1: 40}
    monkeypatch.setattr(machines, "gpu_if_used", lambda machine, pids: gpu)
    named, automatic = monitor([Engine(1)], memory_metric="resident"), monitor([Engine(1)])
    await named.govern_gpu_if_used()
    await automatic.govern_gpu_if_used()
    assert named.machine is bench
    assert automatic.machine is gpu
    assert automatic.used == 40 * MIB


@pytest.mark.parametrize(
    ("after", "short", "said"),
    [
        (Pressure(), False, ""),
        (Pressure(stalled=0.09), False, ""),
        (Pressure(stalled=0.1), False, "programs wait for memory 10 % of the time"),
        (Pressure(swapped_in=63 * MIB), False, ""),
        (Pressure(swapped_in=64 * MIB), False, "16.0 MiB are read back from swap every second"),
        (Pressure(faults=4000), False, ""),
        (Pressure(faults=4000), True, "1000 pages are read from disk again every second"),
    ],
)
def test_what_counts_as_a_stall(after: Pressure, short: bool, said: str) -> None:
    assert stall(Pressure(), after, 4.0, short=short) == said
