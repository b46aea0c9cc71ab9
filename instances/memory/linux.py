"""Linux: what the memory cgroups around this process allow (both versions), and how short of memory the system is.

Shortage shows as stalls (PSI), pages read back from swap, and major page faults.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from slotproxy.instances.readings import Pressure

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One cgroup with a limit, in bytes."""

    limit: int
    used: int  # without the file cache that nobody maps, which can be dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """Files of one version of cgroups, and keys of its memory.stat."""

    root: Path
    limit: str
    usage: str
    cache: tuple[str, ...]
    mapped: str


def bounds() -> list[Bound]:
    """Of the cgroup of this process and all above it that can be seen.

    The older kind of cgroup writes a number near 2^63 for no limit.
    """
    return [bound for path, names in _ours() for bound in _upwards(path, names)]


def pressure(pids: Iterable[int]) -> Pressure:
    """Of the system and the cgroup around this process; `faults` of the processes `pids`."""
    files = [PROC / "pressure/memory", *stall_files()]
    return Pressure(stalled=max(map(_stalled, files)), swapped_in=_swapped_in(), faults=sum(map(_major_faults, pids)))


def stall_files() -> list[Path]:
    """`memory.pressure` of the cgroup of this process, where the system has it."""
    files = (names.root / path.strip("/") / "memory.pressure" for path, names in _ours() if names.limit == "memory.max")
    return [file for file in files if file.exists()]


def _ours() -> Iterator[tuple[str, _Names]]:
    try:
        lines = PROC.joinpath("self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield (
                path,
                _Names(
                    root=CGROUPS,
                    limit="memory.max",
                    usage="memory.current",
                    cache=("inactive_file", "active_file"),
                    mapped="file_mapped",
                ),
            )
        elif "memory" in controllers.split(","):
            yield (
                path,
                _Names(
                    root=CGROUPS / "memory",
                    limit="memory.limit_in_bytes",
                    usage="memory.usage_in_bytes",
                    cache=("total_inactive_file", "total_active_file"),
                    mapped="total_mapped_file",
                ),
            )


def _upwards(path: str, names: _Names) -> Iterator[Bound]:
    """Of the cgroup `path` and its parents; those above our own cgroup namespace cannot be seen."""
    parts = Path(path.strip("/")).parts
    for depth in range(len(parts), -1, -1):
        folder = names.root.joinpath(*parts[:depth])
        limit = _number(folder / names.limit)
        if limit is not None:
            used = _number(folder / names.usage) or 0
            yield Bound(limit=limit, used=max(0, used - _droppable(folder / "memory.stat", names)))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None


def _droppable(path: Path, names: _Names) -> int:
    """File cache that nobody maps. What an engine maps is in use, although the kernel could drop it as well: it would
    be read again at once.
    """
    try:
        found = dict(line.split(" ", 1) for line in path.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    cache = sum(int(found.get(name, 0)) for name in names.cache)
    return max(0, cache - int(found.get(names.mapped, 0)))


def _stalled(path: Path) -> float:
    """`some avg10=1.23 avg60=...`: percent."""
    try:
        text = path.read_text()
    except OSError:  # a kernel without PSI, or with PSI switched off
        return 0.0
    for word in text.partition("\n")[0].split():
        name, _, value = word.partition("=")
        if name == "avg10":
            return float(value) / 100
    return 0.0


def _swapped_in() -> int:
    try:
        with PROC.joinpath("vmstat").open() as file:
            return next((int(line.split()[1]) * PAGE for line in file if line.startswith("pswpin ")), 0)
    except OSError:
        return 0


def _major_faults(pid: int) -> int:
    try:
        text = PROC.joinpath(str(pid), "stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[9])  # the twelfth field, and the second, the name, may hold blanks
