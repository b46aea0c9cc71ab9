"""Lock files held by a live process: `flock`, never the file's existence, says whether one is held."""

import contextlib
import fcntl
import os
from pathlib import Path

import psutil

from slotproxy.instances.errors import InstanceError


class LockHeld(InstanceError):
    """Another process holds the lock; `holder` names it."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is already used by {holder}")
        self.holder = holder


class FileLock:
    """Freed by `release` or by the end of this process, however it ends: the descriptor is not inherited."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> "FileLock":
        """Hold `path`, created if need be, with our pid in it. Raises LockHeld or OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise LockHeld(path, holder) from None
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        return cls(descriptor)

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):  # not only closed: a child between fork and exec has the descriptor, too
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _holder(descriptor: int) -> str:
    """Whom the file names. The pid is a hint: it was written by whoever held the lock."""
    text = os.pread(descriptor, 32, 0).strip()
    if not text.isdigit():
        return "another process"
    try:
        name = psutil.Process(int(text)).name()
    except (psutil.Error, OverflowError):
        return f"another process (the file names {int(text)})"
    return f"process {int(text)} ({name})"
