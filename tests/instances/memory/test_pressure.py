import os
import sys
from pathlib import Path

import pytest

from slotproxy.instances.memory import cgroups, pressure
from slotproxy.instances.readings import Pressure

PSI = "some avg10={some} avg60=0.00 avg300=0.00 total=1\nfull avg10=9.00 avg60=0.00 avg300=0.00 total=1\n"


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(pressure, "PROC", tmp_path)
    monkeypatch.setattr(cgroups, "PROC", tmp_path)
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path / "cgroup")
    (tmp_path / "pressure").mkdir()
    return tmp_path


def test_a_system_that_tells_nothing_is_not_under_pressure(proc: Path) -> None:
    assert pressure.read([1]) == Pressure()


def test_stalls_are_the_share_of_time_in_which_some_task_waits(proc: Path) -> None:
    (proc / "pressure/memory").write_text(PSI.format(some="12.50"))
    assert pressure.read([]).stalled == 0.125


def test_the_cgroup_may_stall_while_the_machine_does_not(proc: Path) -> None:
    (proc / "pressure/memory").write_text(PSI.format(some="0.00"))
    (proc / "self").mkdir()
    (proc / "self/cgroup").write_text("0::/me\n")
    (proc / "cgroup/me").mkdir(parents=True)
    (proc / "cgroup/me/memory.pressure").write_text(PSI.format(some="50.00"))
    assert pressure.read([]).stalled == 0.5


def test_a_kernel_whose_stalls_are_switched_off_answers_with_an_error(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (proc / "pressure/memory").mkdir()  # reading it fails, as it does there
    assert pressure.read([]).stalled == 0.0


def test_pages_read_from_swap_are_counted_in_bytes(proc: Path) -> None:
    (proc / "vmstat").write_text("pgpgin 5\npswpin 3\npswpout 9\n")
    assert pressure.read([]).swapped_in == 3 * pressure.PAGE


def test_major_faults_are_the_engines_whatever_they_are_called(proc: Path) -> None:
    for pid, name, faults in ((7, "llama server", 11), (8, "a) b", 5)):
        (proc / str(pid)).mkdir()
        (proc / str(pid) / "stat").write_text(f"{pid} ({name}) S 1 7 7 0 -1 4194304 1000 0 {faults} 0 4 2\n")
    assert pressure.read([7, 8, 9]).faults == 16


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_system_can_be_read() -> None:
    found = pressure.read([os.getpid()])
    assert 0 <= found.stalled <= 1
    assert found.faults >= 0
