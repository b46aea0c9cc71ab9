"""What the cgroups around us allow, together with what the machine has, and how short of memory both are."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from slotproxy.instances.memory import linux, process_tree
from slotproxy.instances.readings import Pressure, Total

PSI = "some avg10={some} avg60=0.00 avg300=0.00 total=1\nfull avg10=9.00 avg60=0.00 avg300=0.00 total=1\n"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "Machine":
    """1000 bytes of memory, 700 of them available, no cgroups."""
    monkeypatch.setattr(linux, "PROC", tmp_path / "proc")
    monkeypatch.setattr(linux, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1000, available=700))
    return Machine(tmp_path)


class Machine:
    """/proc and /sys/fs/cgroup."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def belongs_to(self, line: str) -> None:
        folder = self.root / "proc" / "self"
        folder.mkdir(parents=True)
        (folder / "cgroup").write_text(f"3:cpu,cpuacct:/elsewhere\n{line}\n")

    def cgroup(self, path: str, **files: object) -> None:
        folder = self.root / "cgroup" / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name.replace("memory_", "memory.", 1)).write_text(f"{content}\n")


def test_without_cgroups_the_machine_is_what_there_is(machine: Machine) -> None:
    assert process_tree.effective_total() == Total(size=1000, source="physical memory")
    assert process_tree.available() == 700


def test_the_tightest_of_a_cgroup_and_its_parents_counts(machine: Machine) -> None:
    machine.belongs_to("0::/user/me")
    machine.cgroup("user/me", memory_max=600, memory_current=100)
    machine.cgroup("user", memory_max=500, memory_current=450, memory_stat="anon 300\ninactive_file 150\nfile 9")
    machine.cgroup("", memory_max="max")
    assert process_tree.effective_total() == Total(size=500, source="cgroup limit")
    assert process_tree.available() == 200, "what is used without the cache that can be given back"


def test_a_cgroup_limit_above_physical_memory_changes_nothing(machine: Machine) -> None:
    machine.belongs_to("0::/")
    machine.cgroup("", memory_max=2000, memory_current=10)
    assert process_tree.effective_total() == Total(size=1000, source="physical memory")
    assert process_tree.available() == 700


def test_a_cgroup_over_its_limit_has_nothing_left(machine: Machine) -> None:
    machine.belongs_to("0::/")
    machine.cgroup("", memory_max=500, memory_current=600)
    assert process_tree.available() == 0


def test_the_older_kind_of_cgroup_counts_too(machine: Machine) -> None:
    machine.belongs_to("4:memory:/docker/abc")
    machine.cgroup(
        "memory/docker/abc",
        memory_limit_in_bytes=400,
        memory_usage_in_bytes=300,
        memory_stat="inactive_file 1\ntotal_inactive_file 50",
    )
    machine.cgroup("memory", memory_limit_in_bytes=9223372036854771712, memory_usage_in_bytes=300)
    assert process_tree.effective_total() == Total(size=400, source="cgroup limit")
    assert process_tree.available() == 150


def test_in_a_container_the_limit_stands_at_the_root_it_sees(machine: Machine) -> None:
    machine.belongs_to("4:memory:/docker/abc")  # as the host names it; the container sees only its own part of the tree
    machine.cgroup("memory", memory_limit_in_bytes=400, memory_usage_in_bytes=0)
    assert process_tree.effective_total().size == 400


def test_a_cgroup_outside_the_namespace_ends_at_the_root_it_sees(machine: Machine) -> None:
    machine.belongs_to("0::/../../other")
    machine.cgroup("", memory_max=300, memory_current=0)
    assert process_tree.effective_total().size == 300


def test_cache_that_an_engine_maps_is_in_use(machine: Machine) -> None:
    machine.belongs_to("0::/me")
    stat = "anon 100\nfile 350\ninactive_file 150\nactive_file 200\nfile_mapped 300"
    machine.cgroup("me", memory_max=600, memory_current=450, memory_stat=stat)
    assert process_tree.available() == 600 - 450 + 50


def test_what_engines_map_is_not_available_on_the_machine_either(machine: Machine) -> None:
    assert process_tree.available(mapped=200) == 500


def test_only_a_cgroup_that_has_them_tells_of_stalls(machine: Machine) -> None:
    assert linux.stall_files() == []
    machine.belongs_to("0::/me")
    assert linux.stall_files() == []
    machine.cgroup("me", memory_pressure="some avg10=1.00")
    assert linux.stall_files() == [machine.root / "cgroup/me/memory.pressure"]


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(linux, "PROC", tmp_path)
    monkeypatch.setattr(linux, "CGROUPS", tmp_path / "cgroup")
    (tmp_path / "pressure").mkdir()
    return tmp_path


def test_a_system_that_tells_nothing_is_not_under_pressure(proc: Path) -> None:
    assert linux.pressure([1]) == Pressure()


def test_stalls_are_the_share_of_time_in_which_some_task_waits(proc: Path) -> None:
    (proc / "pressure/memory").write_text(PSI.format(some="12.50"))
    assert linux.pressure([]).stalled == 0.125


def test_the_cgroup_may_stall_while_the_machine_does_not(proc: Path) -> None:
    (proc / "pressure/memory").write_text(PSI.format(some="0.00"))
    (proc / "self").mkdir()
    (proc / "self/cgroup").write_text("0::/me\n")
    (proc / "cgroup/me").mkdir(parents=True)
    (proc / "cgroup/me/memory.pressure").write_text(PSI.format(some="50.00"))
    assert linux.pressure([]).stalled == 0.5


def test_a_kernel_whose_stalls_are_switched_off_answers_with_an_error(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (proc / "pressure/memory").mkdir()  # reading it fails, as it does there
    assert linux.pressure([]).stalled == 0.0


def test_pages_read_from_swap_are_counted_in_bytes(proc: Path) -> None:
    (proc / "vmstat").write_text("pgpgin 5\npswpin 3\npswpout 9\n")
    assert linux.pressure([]).swapped_in == 3 * linux.PAGE


def test_major_faults_are_the_engines_whatever_they_are_called(proc: Path) -> None:
    for pid, name, faults in ((7, "llama server", 11), (8, "a) b", 5)):
        (proc / str(pid)).mkdir()
        (proc / str(pid) / "stat").write_text(f"{pid} ({name}) S 1 7 7 0 -1 4194304 1000 0 {faults} 0 4 2\n")
    assert linux.pressure([7, 8, 9]).faults == 16


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_system_can_be_read() -> None:
    found = linux.pressure([os.getpid()])
    assert 0 <= found.stalled <= 1
    assert found.faults >= 0
