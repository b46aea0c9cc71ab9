"""The saved conversations of one proxy: a folder, what is in it, and engines that write and read there.

Whoever asks for a save or a restore holds the engine's slot. Nothing raises: what fails is said in the log, once where
it would be said again and again, and means that a prompt is computed as if nothing had been saved.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from slotproxy.instances.conversations.disk import Trouble
from slotproxy.instances.conversations.engine_kv import EngineKv, Fault, KvFailed
from slotproxy.instances.conversations.files import Folder
from slotproxy.instances.conversations.proof import Proofs, Verdict
from slotproxy.instances.conversations.store import Pause, Saved, Store
from slotproxy.instances.profiles.profile import Kv
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.slots.claim import Prefix
from slotproxy.instances.upstream import Upstream
from slotproxy.instances.wording import size

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A conversation is in the store."""

    saved: Saved
    seconds: float  # that the engine took


@dataclass(frozen=True, slots=True, kw_only=True)
class NotKept:
    """It is not, for the reason that was said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotRead:
    """It was not restored, for the reason that was said. `again`: it is still there, and may be tried once more."""

    again: bool


class Savings:
    """Closed until `open`. `gone` is told the names of files that are no longer there."""

    def __init__(self, probe: Probe, folder: Path, state_dir: Path, gone: Callable[[str], None]) -> None:
        self._folder = Folder(folder)
        self._kv = EngineKv(probe)
        self._proofs = Proofs(probe, self._folder, state_dir)
        self._store = Store(0)
        self._pause = Pause()
        self._gone = gone
        self._proven: dict[str, bool] = {}  # by build
        self._suspects: set[str] = set()  # files for which an engine gave no answer
        self._too_many: dict[str, int] = {}  # by build: tokens of the shortest conversation for which there was no room
        self._is_open = self._is_ours = False
        self._is_in_memory = False  # as a tmpfs is

    @property
    def is_open(self) -> bool:
        """Whether anything can be saved at all."""
        return self._is_open

    @property
    def size(self) -> int:
        """Bytes of all that is saved."""
        return self._store.size

    @property
    def memory(self) -> int:
        """Bytes of memory that all that is saved takes."""
        return self._store.size if self._is_in_memory else 0

    @property
    def count(self) -> int:
        """Conversations that are saved."""
        return len(self._store)

    @property
    def limit(self) -> int:
        """Bytes of all that may be saved."""
        return self._store.limit

    async def open(self, limit: int | None, *, keep: bool) -> tuple[Saved, ...]:
        """Make the folder; `limit`: bytes, None: a share of the free disk, 0: nothing is ever saved.

        With `keep` what an earlier proxy kept is there, and is returned, the least recently used first.
        """
        found = await self._folder.open(keep=keep and limit != 0)
        if isinstance(found, Trouble):
            logger.warning("conversations are not saved: %s", found.sentence)
            return ()
        self._is_ours = True
        room = await self._folder.limit(limit, sum(saved.size for saved in found))
        self._store = Store(room)
        self._is_open = room > 0
        if self._is_open and (note := await self._folder.memory_note(room)) is not None:
            self._is_in_memory = True
            logger.warning("%s", note)
        for saved in found:
            await self._folder.delete(self._store.add(saved))
        return tuple(self._store.values())

    async def close(self, *, keep: bool) -> None:
        """Delete all of them, or with `keep` write down for the next start what there is."""
        self._is_open = False
        if not self._is_ours:  # another proxy's, perhaps
            return
        trouble = await self._folder.close(tuple(self._store.values()) if keep else ())
        if trouble is not None:
            logger.warning("%s", trouble.sentence)

    async def is_proven(self, upstream: Upstream, kv: Kv, build: str) -> bool:
        """Whether engines of this build can go on with what others of it have saved; tried on `upstream` if need be."""
        if not self._is_open or kv.how != "slots":
            return False
        if build not in self._proven:
            proof = await self._proofs.of(upstream, kv, build)
            if proof.verdict is Verdict.NOT_TRIED:
                return False
            self._proven[build] = proof.verdict is Verdict.HOLDS
        return self._proven[build]

    def may_save(self, build: str, tokens: int) -> bool:
        """Whether it is worth to try: the disk was not full a moment ago, and there is room for so many tokens."""
        fits = tokens < self._too_many.get(build, tokens + 1)
        return self._is_open and fits and self._pause.over(monotonic())

    async def save(self, upstream: Upstream, kv: Kv, build: str, principal: str, prefix: Prefix) -> Kept | NotKept:
        """What the slot of `upstream` holds, under what is known of it."""
        draft = self._folder.draft()
        written = await self._kv.save(upstream, kv, draft)
        if isinstance(written, KvFailed):
            trouble = await self._folder.drop(draft)
            return self._not_kept(upstream, written.sentence if written.fault is not Fault.REFUSED else "", trouble)
        settled = await self._folder.settle(draft, written.size)
        if isinstance(settled, Trouble):
            return self._not_kept(upstream, "", settled)
        self._pause.end()
        saved = Saved(
            name=settled.name, principal=principal, prefix=prefix, tokens=written.tokens, build=build,
            stamp=settled.stamp,
        )  # fmt: skip
        await self._delete(self._store.add(saved))
        if self._store.find(saved.name) is None:
            self._note_too_large(saved)
            return NotKept()
        return Kept(saved=saved, seconds=written.seconds)

    async def restore(self, upstream: Upstream, kv: Kv, saved: Saved) -> float | NotRead:
        """Over whatever the slot of `upstream` holds; the seconds it took. What cannot be restored is deleted."""
        if self._store.find(saved.name) is not saved:
            return NotRead(again=False)
        if not await self._folder.intact(saved):
            logger.warning("a saved conversation is not used: its file is not the one that was saved")
            await self.delete(saved)
            return NotRead(again=False)
        self._store.touch(saved.name)
        restored = await self._kv.restore(upstream, kv, saved.name)
        if not isinstance(restored, KvFailed):
            self._suspects.discard(saved.name)
            return restored.seconds
        logger.warning("instance %s: a saved conversation is not used: %s", upstream.instance, restored.sentence)
        if restored.fault is Fault.NO_ANSWER and saved.name not in self._suspects:  # it may have died by chance
            self._suspects.add(saved.name)
            return NotRead(again=True)
        await self.delete(saved)
        return NotRead(again=False)

    async def delete(self, saved: Saved) -> None:
        """It is of no use any longer."""
        self._store.discard(saved.name)
        await self._delete((saved.name,))

    async def _delete(self, names: tuple[str, ...]) -> None:
        self._suspects.difference_update(names)
        for name in names:
            self._gone(name)
        if names:
            await self._folder.delete(names)

    def _note_too_large(self, saved: Saved) -> None:
        """So that no engine writes as much again in vain."""
        if saved.build not in self._too_many:
            there, wanted = size(self.limit), size(saved.size)
            logger.warning("a conversation of %s is not saved: there is room for %s (--kv-store-limit)", wanted, there)
        self._too_many[saved.build] = min(saved.tokens, self._too_many.get(saved.build, saved.tokens))

    def _not_kept(self, upstream: Upstream, sentence: str, trouble: Trouble) -> NotKept:
        if self._pause.begin(monotonic()):
            why = sentence or trouble.sentence
            logger.warning(
                "instance %s: its conversation is not saved: %s; tried again in a minute", upstream.instance, why
            )
        return NotKept()
