"""What is governed and how it is read: resident memory, wired memory or memory of GPUs, behind one interface."""

import sys
from collections.abc import Iterable, Sequence
from typing import Protocol

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.memory import darwin, linux, nvidia, process_tree
from slotproxy.instances.readings import Pressure, Reading, Total


class Machine(Protocol):
    """One metric on one system. Every method reads the system: not for the event loop's thread.

    `kind` stands before the word limit in sentences, `remedy` says what a user could do about that limit.
    """

    metric: str
    kind: str
    remedy: str

    def total(self) -> Total:
        """What there is of it."""

    def read(self, pid: int) -> Reading | None:
        """Of the process tree of an engine; None when it is gone."""

    def used(self, readings: Sequence[Reading]) -> int:
        """Bytes that count against the limit, given `readings` of all engines."""

    def part(self, reading: Reading) -> int | None:
        """Bytes that one more such engine would add; None where only the whole can be read."""

    def available(self, readings: Sequence[Reading]) -> int:
        """Bytes that can still be taken."""

    def pressure(self, pids: Iterable[int]) -> Pressure:
        """How short of memory the system is; `pids` are the engines."""


class Resident:
    """Pages in memory, those that engines share counted once."""

    metric, kind, remedy = "resident", "", ""

    def total(self) -> Total:
        return process_tree.effective_total()

    def read(self, pid: int) -> Reading | None:
        return process_tree.read_tree(pid)

    def used(self, readings: Sequence[Reading]) -> int:
        return sum(reading.pss for reading in readings)

    def part(self, reading: Reading) -> int | None:
        return reading.private

    def available(self, readings: Sequence[Reading]) -> int:
        return process_tree.available(mapped=sum(max(0, reading.pss - reading.private) for reading in readings))

    def pressure(self, pids: Iterable[int]) -> Pressure:
        members = (member for pid in pids for member in process_tree.tree(pid))
        return darwin.pressure() if sys.platform == "darwin" else linux.pressure(members)


class Wired(Resident):
    """macOS: what the system may not page out, whoever it belongs to. The GPU's working set is part of it."""

    metric, kind = "wired", "wired "
    remedy = "sudo sysctl iogpu.wired_limit_mb=... allows the GPU more"

    def total(self) -> Total:
        return darwin.wired_total()

    def used(self, readings: Sequence[Reading]) -> int:
        return darwin.wired()

    def part(self, reading: Reading) -> int | None:
        return None  # a process is not charged for what the GPU wires on its behalf

    def available(self, readings: Sequence[Reading]) -> int:
        return max(0, self.total().size - darwin.wired())


class Vram(Resident):
    """Memory of the NVIDIA GPUs that can be seen."""

    metric, kind, remedy = "vram", "GPU memory ", ""

    def total(self) -> Total:
        return Total(size=nvidia.total(), source="GPU memory")

    def read(self, pid: int) -> Reading | None:
        reading = process_tree.read_tree(pid)
        return None if reading is None else nvidia.with_vram(reading, set(process_tree.tree(pid)))

    def used(self, readings: Sequence[Reading]) -> int:
        return sum(reading.vram for reading in readings)

    def part(self, reading: Reading) -> int | None:
        return reading.vram

    def available(self, readings: Sequence[Reading]) -> int:
        return nvidia.free()


def choose(metric: str) -> Machine:
    """For `--memory-metric`; `auto` takes what every system has, see `gpu_if_used`. Raises ConfigurationError."""
    if metric == "wired" and sys.platform != "darwin":
        raise ConfigurationError("--memory-metric wired is for macOS; use resident or vram here")
    if metric == "vram" and not nvidia.usable():
        raise ConfigurationError(
            "--memory-metric vram needs an NVIDIA GPU with its driver, and: pip install 'slotproxy[nvidia]'"
        )
    if metric == "wired" or (metric == "auto" and darwin.has_metal()):
        return Wired()
    return Vram() if metric == "vram" else Resident()


def gpu_if_used(machine: Machine, pids: Iterable[int]) -> Machine:
    """What to govern of the engines `pids` that were just seen at work: their GPU memory if they use any."""
    if machine.metric != "resident" or not nvidia.usable():
        return machine
    gpu = Vram()
    return gpu if any((found := gpu.read(pid)) is not None and found.vram for pid in pids) else machine
