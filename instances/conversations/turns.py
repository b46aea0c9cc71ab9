"""Between the turns of conversations: what is saved from an engine, what is restored into one, what is learned.

A slot stays leased while its engine saves or restores. After a turn its conversation is saved at once, unless that
would delay somebody for longer than he would notice; then as soon as nobody wants the slot.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from slotproxy.instances.conversations.affinity import LONGEST_DELAY, Affinity, Turn
from slotproxy.instances.conversations.hard_links import OwnFolders
from slotproxy.instances.conversations.holdings import Held
from slotproxy.instances.conversations.savings import Kept, NotRead, Savings
from slotproxy.instances.conversations.store import Saved
from slotproxy.instances.profiles import fingerprint
from slotproxy.instances.profiles.launch import Launch, Place
from slotproxy.instances.profiles.profile import Kv
from slotproxy.instances.slots.claim import Claim
from slotproxy.instances.slots.lease import Answered, KnownLease
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.upstream import Upstream

logger = logging.getLogger(__name__)

SLACK = 8  # tokens: of what an engine says of an answer and of its slot, the last ones may be in one and not the other
QUIET = 1.0  # seconds in which nobody wanted the slot, before a save that had to wait


@dataclass(frozen=True, slots=True, kw_only=True)
class _Engine:
    """How the conversations of one get out of it and into it."""

    kv: Kv
    build: str


class Turns:
    """Of one proxy. Its tasks belong to the task group it is given."""

    def __init__(self, affinity: Affinity, leases: Leases, savings: Savings) -> None:
        self._affinity = affinity
        self._leases = leases
        self._savings = savings
        self._tasks: asyncio.TaskGroup | None = None
        self._engines: dict[Upstream, _Engine] = {}
        self._folders = OwnFolders()
        self._later: dict[Upstream, asyncio.TimerHandle] = {}
        self._closed = False

    def run_in(self, tasks: asyncio.TaskGroup) -> None:
        """From now on tasks are begun there."""
        self._tasks = tasks

    def close(self) -> None:
        """The engines are being ended: nothing is saved any longer."""
        self._closed = True
        for timer in self._later.values():
            timer.cancel()
        self._later.clear()

    # engines come and go: running.instance.Company

    async def joining(self, upstream: Upstream, launch: Launch, directory: Path) -> None:
        """It is ready, and nobody uses it yet."""
        self._forget_others(upstream)
        kv = launch.profile.kv
        if kv.how == "files":
            await self._folders.join(upstream.instance, Place(directory=directory, port=0).kv)
            self._affinity.add(upstream, finds_files=True)
            return
        if not self._savings.is_open or kv.how != "slots":
            self._affinity.add(upstream)
            return
        build = await asyncio.to_thread(fingerprint.of_build, launch)
        if await self._savings.is_proven(upstream, kv, build):
            self._engines[upstream] = _Engine(kv=kv, build=build)
            self._affinity.add(upstream, build)
            self._leases.keep_conversations()
        else:
            self._affinity.add(upstream)

    async def leaving(self, upstream: Upstream) -> None:
        """It takes no requests any longer, and is about to be ended: what it holds goes on elsewhere."""
        held = self._to_be_saved(upstream)
        if held is not None and not self._leases.leased(upstream):
            await self._save(upstream, held)

    def left(self, upstream: Upstream) -> None:
        """It has ended."""
        self._engines.pop(upstream, None)
        self._affinity.forget(upstream)
        timer = self._later.pop(upstream, None)
        if timer is not None:
            timer.cancel()

    def _forget_others(self, upstream: Upstream) -> None:
        """Engines that the same instance had before."""
        for other in [one for one in self._engines if one.instance == upstream.instance and one is not upstream]:
            self.left(other)

    def recall(self, saved: Saved) -> None:
        """A conversation that an earlier proxy saved."""
        claim = Claim(principal=saved.principal, prefix=saved.prefix)
        record = self._affinity.index.note(claim, monotonic())
        record.tokens = saved.tokens
        self._affinity.holdings.save(record, saved)

    # turns: leases.UpstreamOwner

    async def prepare(self, lease: KnownLease) -> None:
        """Restore what was saved of its conversation. Whoever is cancelled here leaves the rest to the task: the slot
        is released when that is over.
        """
        task = self._begin(lease, self._restore(lease))
        if task is None:
            self._affinity.left_as_it_is(lease.turn)
        else:
            await asyncio.shield(task)

    def answered(self, lease: KnownLease, answered: Answered) -> None:
        """Learn from it; release the lease, or save the conversation first."""
        upstream, turn = lease.upstream, lease.turn
        self._affinity.ended(
            turn, prompt=answered.prompt, completion=answered.completion, cached=answered.cached,
            prefill=answered.prefill, total=answered.total, now=monotonic(),
        )  # fmt: skip
        held = self._to_be_saved(upstream)
        if held is not None and self._is_time_to_save(held):
            self._begin(lease, self._save(upstream, held))
        elif held is not None:
            self._save_later(upstream)
        self._leases.warm(upstream, self._affinity.warmth(upstream))
        lease.release()

    def broken_off(self, upstream: Upstream) -> None:
        """The engine has let go of a request whose client left, and has its prompt still: it may go on soon."""
        if self._to_be_saved(upstream) is not None:
            self._save_later(upstream)
        self._leases.warm(upstream, self._affinity.warmth(upstream))

    def _begin(self, lease: KnownLease, work: Coroutine[Any, Any, object]) -> asyncio.Task[None] | None:
        """Begin what has to be over before the lease is released; None: it is not begun, everything is being ended."""
        logged = _logged(work)
        if self._tasks is not None and not self._closed:
            with suppress(RuntimeError):  # of a task group that is being cancelled
                task = self._tasks.create_task(logged)
                lease.hold_for(task)
                return task
        logged.close()
        work.close()
        return None

    # restoring

    async def _restore(self, lease: KnownLease) -> None:
        turn: Turn = lease.turn
        upstream = lease.upstream
        if turn.restore is None:
            await self._folders.gather(upstream.instance)
        elif await self._is_free_to_be_restored(upstream, turn):
            await self._read(upstream, turn)
        else:
            self._affinity.left_as_it_is(turn)
        self._affinity.sent(turn, monotonic())

    async def _is_free_to_be_restored(self, upstream: Upstream, turn: Turn) -> bool:
        """Whether nothing would be lost; saves what would be."""
        if turn.way.keep is None:
            return True
        held = self._affinity.to_be_kept(upstream, turn.way.keep)
        return held is None or await self._save(upstream, held)

    async def _read(self, upstream: Upstream, turn: Turn) -> None:
        engine = self._engines.get(upstream)
        saved = None if turn.restore is None else self._affinity.holdings.saved(turn.restore)
        if engine is None or saved is None or saved.build != engine.build:  # it may have been saved anew meanwhile
            self._affinity.left_as_it_is(turn)
            return
        seconds = await self._savings.restore(upstream, engine.kv, saved)
        if isinstance(seconds, NotRead):
            self._affinity.not_restored(turn, again=seconds.again)
        else:
            self._affinity.restored(turn, seconds)

    # saving

    def _to_be_saved(self, upstream: Upstream) -> Held | None:
        held = self._affinity.to_be_saved(upstream) if upstream in self._engines else None
        return (
            None if held is None or self._may_be_others(upstream, held) or not self._may_save(upstream, held) else held
        )

    def _may_save(self, upstream: Upstream, held: Held) -> bool:
        engine = self._engines.get(upstream)
        return not self._closed and engine is not None and self._savings.may_save(engine.build, held.tokens)

    def _may_be_others(self, upstream: Upstream, held: Held) -> bool:
        """Whether its slot may hold something else: it had another request since, or that is not known, and the number
        of tokens could not tell either.
        """
        last = self._leases.last_grant(upstream)
        return not held.is_counted if last is None else last != self._affinity.holdings.home(upstream).grant

    def _is_time_to_save(self, held: Held) -> bool:
        """Whether nobody who waits, or is about to come, is delayed for longer than he would notice."""
        if self._affinity.figures.saving(held.tokens) <= LONGEST_DELAY:
            return True
        return not self._leases.queued and self._leases.has_free_slot

    async def _save(self, upstream: Upstream, held: Held) -> bool:
        """Whether it is saved now."""
        if not self._may_save(upstream, held):
            return False
        engine, record = self._engines[upstream], held.record
        kept = await self._savings.save(upstream, engine.kv, engine.build, record.principal, held.prefix)
        if not isinstance(kept, Kept):
            return False
        if held.is_counted and abs(kept.saved.tokens - held.tokens) > SLACK:  # another request had the slot meanwhile
            self._affinity.holdings.lose(upstream, record)
            await self._savings.delete(kept.saved)
            return False
        before = self._affinity.holdings.saved(record)
        self._affinity.saved(held, kept.saved, kept.seconds)
        if before is not None and before.name != kept.saved.name:
            await self._savings.delete(before)
        self._leases.warm(upstream, self._affinity.warmth(upstream))
        return True

    def _save_later(self, upstream: Upstream) -> None:
        if upstream not in self._later:
            loop = asyncio.get_running_loop()
            self._later[upstream] = loop.call_later(QUIET, self._save_if_idle, upstream)

    def _save_if_idle(self, upstream: Upstream) -> None:
        del self._later[upstream]
        held = self._to_be_saved(upstream)
        if held is None:
            return
        lease = self._leases.set_aside(upstream)
        if lease is None:
            self._save_later(upstream)
        else:
            self._begin(lease, self._save(upstream, held))
            lease.release()


async def _logged(work: Coroutine[Any, Any, object]) -> None:
    """No error of it ends the proxy."""
    try:
        await work
    except Exception:
        logger.exception("a conversation was not saved or restored: this is a bug of slotproxy")
