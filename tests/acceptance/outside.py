"""Memory of engines as somebody outside sees it: an own reading of /proc, every 50 ms, in a thread of its own."""

import threading
import time
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import Self

PROC = Path("/proc")
EVERY = 0.05  # seconds
ENGINE = b"slotproxy.instances.profiles.embedded"
MIB = 1 << 20
PASSES, TOLERANCE = 20, 1 * MIB


def descendants(pid: int) -> list[int]:
    """Of `pid`, by the parents that /proc tells."""
    children = defaultdict(list)
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children[int(fields[1])].append(int(entry.name))
    found, waiting = set[int](), [pid]
    while waiting:
        waiting += children[waiting.pop()]
        found.update(waiting)
    return list(found)


def engines(proxy: int) -> list[int]:
    """Processes below the proxy that are engines; the one that is still a copy of the proxy is none yet."""
    found = []
    for pid in descendants(proxy):
        try:
            if ENGINE in (PROC / str(pid) / "cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return sorted(found)


def rollup(pid: int) -> dict[str, int]:
    """smaps_rollup in bytes; empty when the process is gone."""
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {name: int(value.split()[0]) * 1024 for name, value in (line.split(":", 1) for line in lines)}


def private(pid: int) -> int:
    return rollup(pid).get("Pss_Anon", 0)


def together(pids: list[int]) -> int:
    """What `pids` cost together: read until two passes agree.

    Processes are read one after another. One that maps the model between the reading of its sibling and its own halves
    the share of that sibling, which was already counted in full: such a sum never was in memory.
    """
    used, before = _pass(pids), -1
    for _ in range(PASSES):
        used, before = _pass(pids), used
        if abs(used - before) <= TOLERANCE:
            break
    return used


def _pass(pids: list[int]) -> int:
    return sum(rollup(pid).get("Pss", 0) for pid in pids)


class Sampler:
    """`highest`: the most that the engines of `proxy` cost together, ever; `highest_of[n]`: with n of them running."""

    def __init__(self, proxy: int) -> None:
        self.highest = 0
        self.samples = 0
        self.highest_of: dict[int, int] = defaultdict(int)
        self._proxy = proxy
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            pids = engines(self._proxy)
            used = together(pids)
            self.samples += 1
            self.highest = max(self.highest, used)
            self.highest_of[len(pids)] = max(self.highest_of[len(pids)], used)
            due = max(due + EVERY, time.monotonic())
            self._stop.wait(due - time.monotonic())
