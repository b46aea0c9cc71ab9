"""macOS by recorded values: what its calls are documented to return, decoded on any system."""

import struct
import sys
from types import SimpleNamespace

import psutil
import pytest

from slotproxy.instances.memory import darwin
from slotproxy.instances.memory.darwin import footprint_in, limit, number_in

GIB, MIB = 1 << 30, 1 << 20
elsewhere = pytest.mark.skipif(sys.platform == "darwin", reason="asks the real system there")


def test_the_footprint_is_the_eighth_number_after_the_uuid() -> None:
    # rusage_info_v0: uuid, user and system time, idle wake-ups, interrupts, page-ins, wired, resident, footprint.
    usage = struct.pack("<16s10Q", b"\1" * 16, 11, 12, 13, 14, 15, 3 * GIB, 5 * GIB, 7 * GIB, 16, 17)
    assert footprint_in(usage) == 7 * GIB


@pytest.mark.parametrize(("raw", "value"), [(b"\x00\x00\x00\x00", 0), (b"\x00\xc8\x01\x00", 116736), (b"\4", 4)])
def test_a_sysctl_is_a_little_endian_number(raw: bytes, value: int) -> None:
    assert number_in(raw) == value


@pytest.mark.parametrize(
    ("physical", "set_to", "size", "source"),
    [
        (32 * GIB, 0, 32 * GIB * 2 // 3, "the GPU's wired limit"),
        (256 * GIB, 0, 192 * GIB, "the GPU's wired limit"),
        (96 * GIB, 92000, 92000 * MIB, "iogpu.wired_limit_mb"),
        (64 * GIB, 65536, 64 * GIB, "physical memory"),
    ],
)
def test_what_the_gpu_may_wire_is_set_by_the_user_or_a_share_of_memory(
    physical: int, set_to: int, size: int, source: str
) -> None:
    found = limit(physical, set_to)
    assert (found.size, found.source) == (size, source)


@pytest.mark.parametrize(("level", "stalled"), [(1, 0.0), (2, 0.5), (4, 1.0), (None, 0.0)])
def test_the_pressure_level_stands_for_a_share_of_time(
    monkeypatch: pytest.MonkeyPatch, level: int | None, stalled: float
) -> None:
    monkeypatch.setattr(darwin, "number", {darwin.PRESSURE_LEVEL: level}.get)
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(sin=4096))
    found = darwin.pressure()
    assert (found.stalled, found.swapped_in) == (stalled, 4096)


def test_wired_memory_and_its_limit_come_from_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=256 * GIB, wired=145 * GIB))
    monkeypatch.setattr(darwin, "number", {darwin.WIRED_LIMIT: 230000}.get)
    assert darwin.wired() == 145 * GIB
    assert darwin.wired_total().size == 230000 * MIB


@elsewhere
def test_elsewhere_there_is_nothing_to_ask() -> None:
    assert darwin.footprint(1) is None
    assert darwin.number(darwin.WIRED_LIMIT) is None
    assert not darwin.has_metal()
