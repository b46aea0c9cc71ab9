"""How short of memory a Linux machine is: stalls (PSI), pages read back from swap, major page faults."""

import os
from collections.abc import Iterable
from pathlib import Path

from slotproxy.instances.memory import cgroups
from slotproxy.instances.readings import Pressure

PROC = Path("/proc")
PAGE = os.sysconf("SC_PAGE_SIZE")


def read(pids: Iterable[int]) -> Pressure:
    """Of the system and the cgroup around this process; `faults` of the processes `pids`."""
    files = [PROC / "pressure/memory", *cgroups.stall_files()]
    return Pressure(stalled=max(map(_stalled, files)), swapped_in=_swapped_in(), faults=sum(map(_major_faults, pids)))


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
