"""What the file system says, by named outcomes. Blocks: for a thread."""

import errno
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from slotproxy.instances.conversations.store import Stamp

IN_MEMORY = ("tmpfs", "ramfs")
MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why there is no such file, or folder."""

    sentence: str
    full: bool = False  # because the disk is


def stamp(path: Path) -> Stamp | None:
    """Of a regular file of our own; None where there is none. Links are not followed. Raises OSError."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        return None
    return Stamp(size=found.st_size, mtime_ns=found.st_mtime_ns, inode=found.st_ino)


def trouble(what: str, error: OSError) -> Trouble:
    """`what` is the first half of a sentence."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return Trouble(sentence=f"{what}: {error.strerror or error}", full=full)


def free(path: Path) -> int | None:
    """Bytes that we may still write there; None: it does not say."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def kind_in_memory(path: Path) -> str | None:
    """The kind of file system at `path` where that is in memory; None: it is on a disk."""
    try:
        kind = file_system(MOUNTS.read_text(errors="replace"), path.stat().st_dev)
    except OSError:  # another system than Linux, where folders of the state are on a disk
        return None
    return kind if kind in IN_MEMORY else None


def file_system(mounts: str, device: int) -> str | None:
    """The kind of file system that `device` is, by the text of Linux's mountinfo; None: it is not listed."""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2:3] == [number] and after:
            return after.split()[0]
    return None
