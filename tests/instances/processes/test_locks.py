import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from slotproxy.instances.processes.locks import FileLock, LockHeld


def test_a_held_lock_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock.take(path)
    with pytest.raises(LockHeld, match=rf"lock is already used by process {os.getpid()} \("):
        FileLock.take(path)
    lock.release()


def test_a_released_lock_can_be_taken_although_its_file_is_still_there(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    FileLock.take(path).release()
    assert path.exists()
    FileLock.take(path).release()


def test_a_file_with_the_pid_of_a_living_process_is_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text(f"{os.getppid()}\n")
    FileLock.take(path).release()


def test_a_holder_that_wrote_nonsense_is_another_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock.take(path)
    path.write_text("who knows")
    with pytest.raises(LockHeld, match="already used by another process"):
        FileLock.take(path)
    lock.release()


def test_a_child_does_not_inherit_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock.take(path)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(5)"], close_fds=False)
    os.close(lock._descriptor)  # as when this process dies: closed, and not unlocked
    try:
        while is_held(path):  # for as long as the child is on its way through exec; else for ever
            assert child.poll() is None, "the child ended before it gave the lock back"
    finally:
        child.kill()
        child.wait()


def is_held(path: Path) -> bool:
    try:
        FileLock.take(path).release()
    except LockHeld:
        return True
    return False


def test_the_file_is_readable_by_its_owner_only_and_a_link_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock.take(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lock.release()
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic"):
        FileLock.take(tmp_path / "link")
