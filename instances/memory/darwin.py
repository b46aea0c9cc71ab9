"""macOS: wired memory, its limit, the memory pressure level, and what the system charges a process.

Written after Apple's headers (sys/resource.h, libproc.h, sys/sysctl.h); the parts that call the system do nothing on
others.
"""

import ctypes
import platform
import struct
import sys
from functools import cache
from typing import Any

import psutil

from slotproxy.instances.readings import Pressure, Total

RUSAGE_INFO_V0 = 0
RUSAGE_V0 = struct.Struct("<16s10Q")  # uuid; times, wake-ups, page-ins, wired, resident, footprint, start, exit
FOOTPRINT = 8  # its place among them
MIB = 1 << 20
SMALL = 36 << 30  # bytes of memory up to which the GPU may wire two thirds of it; above, three quarters
LEVELS = {1: 0.0, 2: 0.5, 4: 1.0}  # kern.memorystatus_vm_pressure_level: normal, warning, critical
WIRED_LIMIT, PRESSURE_LEVEL = "iogpu.wired_limit_mb", "kern.memorystatus_vm_pressure_level"


def has_metal() -> bool:
    """Whether engines use a GPU that shares the machine's memory: on every Mac with Apple's own processor."""
    return sys.platform == "darwin" and platform.machine() == "arm64"


def wired() -> int:
    """Bytes that may not be paged out, of the whole system."""
    return int(getattr(psutil.virtual_memory(), "wired", 0))


def wired_total() -> Total:
    """What the GPU may wire: what the user has set, or else the system's own share of the physical memory."""
    physical = int(psutil.virtual_memory().total)
    return limit(physical, number(WIRED_LIMIT) or 0)


def limit(physical: int, set_to: int) -> Total:
    """`set_to`: iogpu.wired_limit_mb, where 0 stands for the system's own choice."""
    share = physical * 2 // 3 if physical <= SMALL else physical * 3 // 4
    allowed = set_to * MIB if set_to else share
    if allowed >= physical:
        return Total(size=physical, source="physical memory")
    return Total(size=allowed, source=WIRED_LIMIT if set_to else "the GPU's wired limit")


def pressure() -> Pressure:
    """The system knows three levels only; they stand for none, half and all of the time."""
    return Pressure(stalled=LEVELS.get(number(PRESSURE_LEVEL) or 1, 1.0), swapped_in=int(psutil.swap_memory().sin))


def footprint(pid: int) -> int | None:
    """Bytes the system charges `pid`: dirty, compressed and GPU memory, without files it maps. None: it is gone."""
    library = _system()
    if library is None:
        return None
    buffer = ctypes.create_string_buffer(RUSAGE_V0.size)
    failed = library.proc_pid_rusage(ctypes.c_int(pid), ctypes.c_int(RUSAGE_INFO_V0), buffer)
    return None if failed else footprint_in(buffer.raw)


def footprint_in(usage: bytes) -> int:
    """Of a `struct rusage_info_v0`."""
    return int(RUSAGE_V0.unpack(usage)[FOOTPRINT])


def number(name: str) -> int | None:
    """A sysctl of four or eight bytes; None where the system does not have it."""
    library = _system()
    if library is None:
        return None
    buffer, length = ctypes.create_string_buffer(8), ctypes.c_size_t(8)
    failed = library.sysctlbyname(name.encode(), buffer, ctypes.byref(length), None, ctypes.c_size_t(0))
    return None if failed else number_in(buffer.raw[: length.value])


def number_in(value: bytes) -> int:
    return int.from_bytes(value, "little", signed=True)


@cache
def _system() -> Any:
    """The system's C library, which holds libproc, too. `Any`: ctypes knows no signatures."""
    return ctypes.CDLL("/usr/lib/libSystem.B.dylib") if sys.platform == "darwin" else None
