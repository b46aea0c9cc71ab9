"""KV files of ds4-server, of which every instance has a folder of its own: one's conversations for another one."""

import asyncio
import errno
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slotproxy.instances.conversations import disk
from slotproxy.instances.conversations.disk import Trouble

KV_FILE = re.compile(r"[0-9a-f]{40}\.kv")  # the SHA-1 of the text whose KV it is
logger = logging.getLogger(__name__)

_NO_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked:
    """Files that an engine finds in its folder now, and why it does not find all of them."""

    names: tuple[str, ...]
    trouble: Trouble | None = None


class OwnFolders:
    """Those of engines that keep files by themselves, by instance; an engine that has ended leaves its files behind."""

    def __init__(self) -> None:
        self._folders: dict[str, Path] = {}
        self._said = False  # why not all can be linked

    def __contains__(self, instance: str) -> bool:
        return instance in self._folders

    async def join(self, instance: str, folder: Path) -> None:
        """Its engine begins, and finds what the others have."""
        self._folders[instance] = folder
        await self.gather(instance)

    async def gather(self, instance: str) -> None:
        """Let its engine find what the others have by now."""
        target = self._folders[instance]
        for other, source in list(self._folders.items()):
            if other != instance and source.is_dir():
                self._tell(await asyncio.to_thread(link_missing, source, target))

    def _tell(self, linked: Linked) -> None:
        if linked.trouble is not None and not self._said:
            self._said = True
            logger.warning("%s", linked.trouble.sentence)


def link_missing(source: Path, target: Path) -> Linked:
    """Let the engine whose folder is `target` find there what the one whose folder is `source` has written.

    By hard links, or by copies where the two folders are on different disks. Nothing is overwritten, and what is still
    being written is left out. Blocks: for a thread.
    """
    names: list[str] = []
    try:
        names.extend(_made(source, target))
    except OSError as error:
        return Linked(names=tuple(names), trouble=disk.trouble(f"not all of {source} can be linked to {target}", error))
    return Linked(names=tuple(names))


def _made(source: Path, target: Path) -> Iterator[str]:
    """The names, once they are links. Raises OSError."""
    with os.scandir(source) as entries:
        found = sorted(entry.name for entry in entries if KV_FILE.fullmatch(entry.name))
    regular = (name for name in found if disk.stamp(source / name) is not None)
    return (name for name in regular if _link(source / name, target / name))


def _link(source: Path, target: Path) -> bool:
    """Whether it was not there already. Raises OSError."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        return False
    except FileNotFoundError:
        if target.parent.is_dir():  # the engine that owns it has deleted it
            return False
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _copy(source, target)
    return True


def _copy(source: Path, target: Path) -> bool:
    """Whole or not at all. Whether it was not there already. Raises OSError."""
    draft = target.with_name(f".tmp.{secrets.token_hex(8)}")
    try:
        with open(source, "rb") as file, open(draft, "xb", opener=_private) as copy:
            shutil.copyfileobj(file, copy)
        if target.exists():
            return False
        draft.rename(target)
    finally:
        draft.unlink(missing_ok=True)
    return True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
