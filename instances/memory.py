"""What engines cost in memory, and what the machine has. Reads /proc on Linux, psutil elsewhere.

Resident pages that several engines map (the model file, the engine's code) are there once, however many map them. RSS
counts them in every process, PSS divides them among the sharers: the sum of PSS over all instances is what they cost
together. What one more instance will cost is its private part: pages with no file behind them (KV cache, compute
buffers, heap, and the weights too where an engine copies them instead of mapping them).
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
_KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Memory of one process tree, in bytes."""

    rss: int
    pss: int  # where a system has no PSS: what is not shared
    private: int  # without a file behind it: what one more instance of the same kind is going to cost
    shared: int  # resident pages that others map too, counted in full

    def __add__(self, other: "Reading") -> "Reading":
        return Reading(
            rss=self.rss + other.rss,
            pss=self.pss + other.pss,
            private=self.private + other.private,
            shared=self.shared + other.shared,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """Resident pages of one file in one process tree, in bytes."""

    rss: int
    pss: int
    private_dirty: int  # written to, so no longer the file's


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """What there is to share out, and what sets it."""

    size: int  # bytes
    source: str  # "physical memory" or "cgroup limit"


def read_tree(pid: int) -> Reading | None:
    """Memory of `pid` and all its descendants; None when it is gone or belongs to somebody else.

    The kernel walks the page tables: 1 to 3 ms for a small engine, but 35 ms for each GiB that lies in 4 KiB pages. Not
    for the event loop's thread, then.
    """
    if not PROC.joinpath("self/smaps_rollup").exists():
        return _read_with_psutil(pid)
    readings = [reading for member in _tree(pid) if (reading := _read_rollup(member)) is not None]
    return _sum(readings)


def mapped(pid: int, path: Path) -> Mapping | None:
    """How `pid` and its descendants map the file `path`; None when they do not, or the system cannot tell (not Linux).

    An engine that copies its weights instead of sharing them maps few pages of the file, or dirty ones. Takes several
    times as long as `read_tree`.
    """
    if sys.platform != "linux":
        return None
    name, found = str(path.resolve()), []
    for member in _tree(pid):
        try:
            found += [entry for entry in psutil.Process(member).memory_maps(grouped=True) if entry.path == name]
        except psutil.Error:
            continue
    if not found:
        return None
    return Mapping(
        rss=sum(entry.rss for entry in found),
        pss=sum(entry.pss for entry in found),
        private_dirty=sum(entry.private_dirty for entry in found),
    )


def effective_total() -> Total:
    """The smaller of physical memory and what the cgroups of this process allow."""
    physical = Total(size=psutil.virtual_memory().total, source="physical memory")
    limits = [limit for limit, _ in _cgroup_limits()]
    if limits and min(limits) < physical.size:
        return Total(size=min(limits), source="cgroup limit")
    return physical


def available() -> int:
    """Bytes that can be taken without swapping: of the machine, or of the tightest cgroup."""
    rooms = [limit - used for limit, used in _cgroup_limits()]
    return max(0, min([psutil.virtual_memory().available, *rooms]))


def _sum(readings: Iterable[Reading]) -> Reading | None:
    total: Reading | None = None
    for reading in readings:
        total = reading if total is None else total + reading
    return total


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        tasks = list(PROC.joinpath(str(pid), "task").iterdir())
    except OSError:
        return
    for task in tasks:
        try:
            children = task.joinpath("children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from _tree(int(child))


def _read_rollup(pid: int) -> Reading | None:
    try:
        text = PROC.joinpath(str(pid), "smaps_rollup").read_text()
    except OSError:
        return None
    fields = _fields(text)
    if not fields:
        return None  # a zombie
    return Reading(
        rss=fields["Rss"],
        pss=fields["Pss"],
        private=fields.get("Pss_Anon", fields["Anonymous"]) + fields.get("Pss_Shmem", 0),  # Linux 5.3 divides PSS
        shared=fields["Shared_Clean"] + fields["Shared_Dirty"],
    )


def _fields(text: str) -> dict[str, int]:
    """Of smaps_rollup, in bytes; empty if the process has no memory of its own any more."""
    fields = {}
    for line in text.splitlines()[1:]:
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0]) * _KIB
    return fields


def _read_with_psutil(pid: int) -> Reading | None:
    try:
        process = psutil.Process(pid)
        infos = [member.memory_full_info() for member in (process, *process.children(recursive=True))]
    except psutil.Error:
        return None
    return _sum(Reading(rss=i.rss, pss=i.uss, private=i.uss, shared=max(0, i.rss - i.uss)) for i in infos)


def _cgroup_limits() -> list[tuple[int, int]]:
    """(limit, used) in bytes of every memory cgroup around this process; used: without the cache that can be dropped.

    The older kind of cgroup writes a number near 2^63 for no limit.
    """
    try:
        lines = PROC.joinpath("self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found: list[tuple[int, int]] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names = (CGROUPS, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = (CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        found += _limits_upwards(path, *names)
    return found


def _limits_upwards(path: str, root: Path, limit: str, usage: str, cache: str) -> Iterator[tuple[int, int]]:
    """Of the cgroup `path` and its parents; those above our own cgroup namespace cannot be seen."""
    parts = Path(path.strip("/")).parts
    for depth in range(len(parts), -1, -1):
        folder = root.joinpath(*parts[:depth])
        size = _number(folder / limit)
        if size is not None:
            used = _number(folder / usage) or 0
            yield size, max(0, used - _cached(folder / "memory.stat", cache))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None


def _cached(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name + " ")), 0)
