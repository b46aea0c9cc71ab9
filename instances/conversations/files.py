"""The folder of saved conversations. Engines write and read the files themselves; what is done here is around that.

A save goes to a draft, which gets its final name only once it is known to be whole, and its stamp with it. A file is
restored only while it still has that stamp: llama.cpp's server refuses some truncated files, and of others it dies.
Everything is done in threads: a disk can take seconds for a mere rename, and whoever waits for one then is one request
and not all of them. No error of the file system leaves this module as an exception.
"""

import asyncio
import errno
import logging
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from slotproxy.instances.conversations import disk
from slotproxy.instances.conversations.disk import Trouble
from slotproxy.instances.conversations.store import Saved, Stamp, default_limit
from slotproxy.instances.wording import size

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
VERSION = 1  # of the manifest
FULL = 1 << 20  # bytes: a disk with less than that is why a save failed
_FINAL = re.compile(r"[0-9a-f]{32}\.kv")
_OURS = re.compile(rf"tmp-[0-9a-f]{{32}}|{_FINAL.pattern}|{re.escape(MANIFEST)}(?:\.new)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A draft that became a saved conversation's file."""

    name: str
    stamp: Stamp


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What was there when the proxy stopped, the least recently used first."""

    version: int
    saved: tuple[Saved, ...]


class Folder:
    """One for all instances of a proxy, which has it alone (`StateDir`)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def open(self, *, keep: bool) -> tuple[Saved, ...] | Trouble:
        """Make it, and clear it of what an earlier proxy left.

        With `keep` the conversations stay that such a proxy had kept and that are as they were then; they are returned,
        the least recently used first.
        """
        return await asyncio.to_thread(self._open, keep)

    def draft(self) -> str:
        """A new name to save under. Nobody can guess it or the final one: whoever knew them might ask for them."""
        return f"tmp-{secrets.token_hex(16)}"

    async def settle(self, draft: str, written: int) -> Settled | Trouble:
        """Give a draft, for which the engine said it had `written` so many bytes, its final name; else delete it."""
        return await asyncio.to_thread(self._settle, draft, written)

    async def drop(self, draft: str) -> Trouble:
        """Delete what a save that failed has left of a draft; why it may have failed."""
        return await asyncio.to_thread(self._drop, draft)

    async def intact(self, saved: Saved) -> bool:
        """Whether its file is the very one that was saved; if not it is deleted."""
        return await asyncio.to_thread(self._intact, saved)

    async def delete(self, names: Iterable[str]) -> None:
        await asyncio.to_thread(self._delete, tuple(names))

    async def limit(self, wanted: int | None, saved: int = 0) -> int:
        """Bytes that saved conversations may take: `wanted`, or a share of what the disk has without the `saved` ones.
        0 where the disk does not even say that.
        """
        return wanted if wanted is not None else await asyncio.to_thread(self._default_limit, saved)

    async def memory_note(self, limit: int) -> str | None:
        """Where the folder is in memory a sentence that says so; None: it is on a disk."""
        kind = await asyncio.to_thread(disk.kind_in_memory, self.path)
        if kind is None:
            return None
        return f"{self.path} is in memory ({kind}): saved conversations, at most {size(limit)}, count as memory in use"

    async def close(self, kept: Sequence[Saved] = ()) -> Trouble | None:
        """Delete everything but `kept`, and write down what that is, for the next start."""
        return await asyncio.to_thread(self._close, kept)

    # In a thread

    def _open(self, keep: bool) -> tuple[Saved, ...] | Trouble:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            found = self._kept() if keep else ()
            self._clear({saved.name for saved in found} | ({MANIFEST} if found else set()))
        except OSError as error:
            return disk.trouble(f"the folder of saved conversations {self.path} cannot be used", error)
        return found

    def _kept(self) -> tuple[Saved, ...]:
        listed = {saved.name: saved for saved in _read(self.path / MANIFEST) if _FINAL.fullmatch(saved.name)}
        return tuple(saved for saved in listed.values() if disk.stamp(self.path / saved.name) == saved.stamp)

    def _clear(self, staying: set[str]) -> None:
        """Of files that look like ours; what else is there is somebody else's. Raises OSError."""
        with os.scandir(self.path) as entries:
            going = [entry.name for entry in entries if _OURS.fullmatch(entry.name) and entry.name not in staying]
        self._delete(name for name in going if disk.stamp(self.path / name) is not None)

    def _settle(self, draft: str, written: int) -> Settled | Trouble:
        name = f"{draft.removeprefix('tmp-')}.kv"
        try:
            self._check(draft, written)
            (self.path / draft).chmod(0o600)
            (self.path / draft).rename(self.path / name)
            found = disk.stamp(self.path / name)
        except OSError as error:
            self._delete((draft,))
            return disk.trouble("a saved conversation is not used", error)
        return Trouble(sentence="a saved conversation is gone") if found is None else Settled(name=name, stamp=found)

    def _check(self, draft: str, written: int) -> None:
        """Raises OSError: it is not there, or not the `written` bytes."""
        found = disk.stamp(self.path / draft)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "the engine wrote no file")
        if not found.size or found.size != written:
            raise OSError(errno.EIO, f"{found.size} bytes are there, of {written} that the engine wrote")

    def _drop(self, draft: str) -> Trouble:
        free = disk.free(self.path)  # while what was written is still there
        self._delete((draft,))
        if free is not None and free < FULL:
            return Trouble(sentence=f"the disk of {self.path} is full", full=True)
        return Trouble(sentence="the engine could not write its file")

    def _intact(self, saved: Saved) -> bool:
        try:
            intact = disk.stamp(self.path / saved.name) == saved.stamp
        except OSError:  # what cannot be looked at cannot be restored either
            intact = False
        if not intact:
            self._delete((saved.name,))
        return intact

    def _delete(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                (self.path / name).unlink(missing_ok=True)
            except OSError as error:
                logger.warning("%s cannot be deleted: %s", self.path / name, error.strerror)

    def _default_limit(self, saved: int) -> int:
        free = disk.free(self.path)
        return 0 if free is None else default_limit(free + saved)

    def _close(self, kept: Sequence[Saved]) -> Trouble | None:
        trouble, staying = None, set[str]()
        try:
            whole = tuple(saved for saved in kept if self._flush(saved))
            if whole:
                self._write(whole)
                staying = {MANIFEST, *(saved.name for saved in whole)}
        except OSError as error:
            trouble = disk.trouble(f"saved conversations in {self.path} cannot be kept", error)
        try:
            self._clear(staying)
        except OSError as error:
            trouble = trouble or disk.trouble(f"saved conversations in {self.path} cannot be deleted", error)
        return trouble

    def _flush(self, saved: Saved) -> bool:
        """Whether it is intact; then its bytes are on the disk, for the case of a power cut. Raises OSError."""
        if disk.stamp(self.path / saved.name) != saved.stamp:
            return False
        with open(self.path / saved.name, "rb") as file:
            os.fsync(file.fileno())
        return True

    def _write(self, kept: tuple[Saved, ...]) -> None:
        """Raises OSError."""
        fresh = self.path / f"{MANIFEST}.new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(_Manifest(version=VERSION, saved=kept)))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path / MANIFEST)


def _read(path: Path) -> Iterator[Saved]:
    """What the manifest lists; nothing where there is none that can be used."""
    if disk.stamp(path) is None:
        return
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError) as error:  # cut off, or of another version of slotproxy
        logger.info("%s is not used: %s", path, error)
        return
    if manifest.version == VERSION:
        yield from manifest.saved
