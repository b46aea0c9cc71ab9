"""Processes of an instance that left its process group: found by a variable in the environment they inherited."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

VARIABLE = "INSTANCE_OF_SLOTPROXY"  # not SLOTPROXY_...: those are options

LOOKS = 50  # at a process without an environment
BETWEEN_LOOKS = 0.001  # seconds


def end(directory: Path) -> list[int]:
    """Kill every process of the instance in `directory`, or of all the instances below it; their pids.

    Looks at the environment of each process of this user: about 10 us each. Not for the event loop's thread, then.
    """
    killed = []
    for process in _marked(directory):
        with contextlib.suppress(psutil.Error):
            process.kill()  # psutil checks that the pid is still the same process
            killed.append(process.pid)
    return killed


def _marked(directory: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            place = _environment(process).get(VARIABLE)
        except (psutil.Error, OSError):  # somebody else's, or gone
            continue
        if place is not None and Path(place).is_relative_to(directory):
            yield process


def _environment(process: psutil.Process) -> dict[str, str]:
    """Linux shows an empty one while a process becomes another program; threads of the kernel never have any."""
    looks = LOOKS
    while not (found := process.environ()) and looks and process.exe():
        looks -= 1
        time.sleep(BETWEEN_LOOKS)
    return found
