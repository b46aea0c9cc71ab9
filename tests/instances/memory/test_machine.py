import os
import sys
from typing import Any

import pytest

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.memory import darwin, machine, nvidia
from slotproxy.instances.memory.machine import Resident, Vram, Wired, choose, gpu_if_used
from slotproxy.instances.readings import Pressure, Reading, Total

GIB = 1 << 30
ONE = Reading(rss=9, pss=5, private=3, shared=4, vram=2)
TWO = Reading(rss=90, pss=50, private=30, shared=40, vram=20)


def test_resident_memory_is_the_sum_of_pss_and_the_private_part_is_what_one_more_costs() -> None:
    resident = Resident()
    assert resident.used([ONE, TWO]) == 55
    assert resident.part(TWO) == 30


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_can_be_read() -> None:
    resident = Resident()
    reading = resident.read(os.getpid())
    assert reading is not None
    assert 0 < resident.used([reading]) < resident.total().size
    assert 0 < resident.available([reading]) < resident.total().size
    assert 0 <= resident.pressure([os.getpid()]).stalled <= 1


def test_wired_memory_is_read_of_the_whole_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(darwin, "wired", lambda: 40 * GIB)
    monkeypatch.setattr(darwin, "wired_total", lambda: Total(size=192 * GIB, source="the GPU's wired limit"))
    wired = Wired()
    assert (wired.used([ONE]), wired.part(ONE), wired.available([])) == (40 * GIB, None, 152 * GIB)
    assert wired.total().size == 192 * GIB


def test_on_a_mac_the_pressure_level_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "sys", type("Mac", (), {"platform": "darwin"}))
    monkeypatch.setattr(darwin, "pressure", lambda: Pressure(stalled=1.0))
    assert Resident().pressure([]).stalled == 1.0


def gpu(monkeypatch: pytest.MonkeyPatch, vram: int = 0, *, usable: bool = True) -> None:
    monkeypatch.setattr(nvidia, "usable", lambda: usable)
    monkeypatch.setattr(nvidia, "used_by", lambda pids: vram)
    monkeypatch.setattr(nvidia, "total", lambda: 80 * GIB)
    monkeypatch.setattr(nvidia, "free", lambda: 70 * GIB)


def test_gpu_memory_is_the_sum_of_what_engines_hold_there(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, vram=7)
    vram = Vram()
    assert vram.used([ONE, TWO]) == 22
    assert vram.part(TWO) == 20
    assert (vram.total().size, vram.available([])) == (80 * GIB, 70 * GIB)
    reading = vram.read(os.getpid())
    assert reading is not None
    assert reading.vram == 7
    assert vram.read(2**22 + 1) is None


@pytest.mark.parametrize(
    ("metric", "metal", "kind"),
    [("auto", False, Resident), ("auto", True, Wired), ("resident", True, Resident), ("vram", False, Vram)],
)
def test_the_metric_is_what_the_user_says_or_what_the_system_has(
    monkeypatch: pytest.MonkeyPatch, metric: str, metal: bool, kind: type
) -> None:
    gpu(monkeypatch)
    monkeypatch.setattr(darwin, "has_metal", lambda: metal)
    assert type(choose(metric)) is kind


@pytest.mark.skipif(sys.platform == "darwin", reason="it is for macOS")
def test_a_metric_the_system_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, usable=False)
    for metric, words in (("wired", "is for macOS"), ("vram", "slotproxy\\[nvidia\\]")):
        with pytest.raises(ConfigurationError, match=words):
            choose(metric)


@pytest.mark.parametrize(
    ("before", "vram", "usable", "metric"),
    [
        (Resident(), 5, True, "vram"),
        (Resident(), 0, True, "resident"),
        (Resident(), 5, False, "resident"),
        (Wired(), 5, True, "wired"),
    ],
)
def test_an_engine_seen_on_a_gpu_is_governed_by_its_memory(
    monkeypatch: pytest.MonkeyPatch, before: Any, vram: int, usable: bool, metric: str
) -> None:
    gpu(monkeypatch, vram, usable=usable)
    assert gpu_if_used(before, [os.getpid()]).metric == metric
