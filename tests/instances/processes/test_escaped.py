import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from slotproxy.instances.processes import escaped


@contextmanager
def marked(directory: Path | None) -> "Iterator[subprocess.Popen[bytes]]":
    env = dict(os.environ) | ({} if directory is None else {escaped.VARIABLE: str(directory)})
    child = subprocess.Popen(["sleep", "600"], env=env, start_new_session=True)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def test_only_processes_of_that_instance_are_ended(tmp_path: Path) -> None:
    ours = tmp_path / "instances" / "1"
    with marked(ours) as stray, marked(tmp_path / "instances" / "10") as other, marked(None) as stranger:
        assert escaped.end(ours) == [stray.pid]
        assert [other.poll(), stranger.poll()] == [None, None]


def test_those_of_every_instance_are_found_from_above(tmp_path: Path) -> None:
    with marked(tmp_path / "0") as one, marked(tmp_path / "1") as two:
        assert sorted(escaped.end(tmp_path)) == sorted([one.pid, two.pid])


def test_a_stray_is_found_where_it_has_changed_its_session_and_directory(tmp_path: Path) -> None:
    leaves = "import os, sys; os.setsid() if os.fork() == 0 else sys.exit(); os.chdir('/')"
    code = f"{leaves}; os.execvp('sleep', ['sleep', '600'])"
    env = dict(os.environ) | {escaped.VARIABLE: str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert len(escaped.end(tmp_path)) == 1


def test_a_stray_is_found_that_is_just_becoming_another_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = psutil.Process.environ
    looked: set[int] = set()

    def empty_at_first(process: psutil.Process) -> dict[str, str]:
        if process.pid in looked:
            return environ(process)
        looked.add(process.pid)
        return {}

    with marked(tmp_path) as stray:
        monkeypatch.setattr(psutil.Process, "environ", empty_at_first)
        assert escaped.end(tmp_path) == [stray.pid]
