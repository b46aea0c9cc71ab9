"""What engines cost in memory, and what the machine has. Reads /proc on Linux, psutil elsewhere.

Resident pages that several engines map (the model file, the engine's code) are there once, however many map them. RSS
counts them in every process, PSS divides them among the sharers: the sum of PSS over all instances is what they cost
together. What one more instance will cost is its private part: pages with no file behind them (KV cache, compute
buffers, heap, and the weights too where an engine copies them instead of mapping them).
"""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from slotproxy.instances.memory import darwin, linux
from slotproxy.instances.readings import Mapping, Reading, Total

PROC = Path("/proc")
DIVIDES = sys.platform == "linux"
"""Whether the system tells shared pages from private ones, and which file they are of."""
_KIB = 1024


def read_tree(pid: int) -> Reading | None:
    """Memory of `pid` and all its descendants; None when it is gone or belongs to somebody else.

    The kernel walks the page tables: 1 to 3 ms for a small engine, but 35 ms for each GiB that lies in 4 KiB pages. Not
    for the event loop's thread, then.
    """
    if not PROC.joinpath("self/smaps_rollup").exists():
        return _read_with_psutil(pid)
    readings = [reading for member in tree(pid) if (reading := _read_rollup(member)) is not None]
    return _sum(readings)


def mapped(pid: int, path: Path) -> Mapping | None:
    """How `pid` and its descendants map the file `path`; None when they do not, or the system cannot tell (not Linux).

    An engine that copies its weights instead of sharing them maps few pages of the file, or dirty ones. Takes several
    times as long as `read_tree`.
    """
    if not DIVIDES:
        return None
    name, found = str(path.resolve()), []
    names = {name, f"{name} (deleted)"}  # an engine keeps a file that was replaced while it runs
    for member in tree(pid):
        found += [entry for entry in _maps(member) if entry.path in names]
    if not found:
        return None
    return Mapping(
        rss=sum(entry.rss for entry in found),
        pss=sum(entry.pss for entry in found),
        written=sum(entry.anonymous for entry in found),
    )


def _maps(pid: int) -> list[Any]:
    """Empty when the process is gone, or where the system does not tell."""
    found: list[Any] = []
    if sys.platform == "linux":
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(pid).memory_maps(grouped=True)
    return found


def effective_total() -> Total:
    """The smaller of physical memory and what the cgroups of this process allow."""
    physical = Total(size=psutil.virtual_memory().total, source="physical memory")
    limits = [bound.limit for bound in linux.bounds()]
    if limits and min(limits) < physical.size:
        return Total(size=min(limits), source="cgroup limit")
    return physical


def available(mapped: int = 0) -> int:
    """Bytes that can be taken without swapping: of the machine, or of the tightest cgroup.

    `mapped`: bytes of files that the engines map. The kernel counts them as cache that it could drop; the engines would
    read them again at once.
    """
    rooms = [bound.limit - bound.used for bound in linux.bounds()]
    return max(0, min([psutil.virtual_memory().available - mapped, *rooms]))


def _sum(readings: Iterable[Reading]) -> Reading | None:
    total: Reading | None = None
    for reading in readings:
        total = reading if total is None else total + reading
    return total


def tree(pid: int) -> Iterator[int]:
    """`pid` and its descendants."""
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
            yield from tree(int(child))


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
    """macOS charges a process its footprint; a system that has neither PSS nor that says what is not shared (USS)."""
    try:
        process = psutil.Process(pid)
        members = [(one, one.memory_full_info()) for one in (process, *process.children(recursive=True))]
    except psutil.Error:
        return None
    return _sum(_reading(info, darwin.footprint(member.pid)) for member, info in members)


def _reading(info: Any, footprint: int | None) -> Reading:
    own = info.uss if footprint is None else footprint
    return Reading(rss=info.rss, pss=own, private=own, shared=max(0, info.rss - info.uss), footprint=footprint or 0)
