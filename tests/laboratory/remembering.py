"""The dispatcher that knows of conversations: the proxy's `Affinity` and `Store`, as its shells use them. No clock.

What `conversations.turns` does with engines and files is done here with texts: before a turn what its slot holds is
saved and what is saved of its conversation is restored, if the policy says so; after it, its text is saved, unless that
would delay somebody for too long: then later, once nobody wants the slot.
"""

from typing import Any

from slotproxy.instances.conversations import affinity
from slotproxy.instances.conversations.holdings import Held
from slotproxy.instances.conversations.store import Saved, Stamp, Store
from slotproxy.instances.conversations.turns import QUIET
from slotproxy.instances.slots.pool import Grant
from slotproxy.instances.slots.routing import least_busy
from tests.laboratory.dispatch import NO_TURN, Done, Given, Plain
from tests.laboratory.machines import GIB, Machine
from tests.laboratory.texts import Text, size

STORE = 8 * GIB  # bytes of saved conversations
BUILD = "the same for all"


class Remembering(Plain):
    """The pool with what the proxy knows of conversations: where each is, and which are saved."""

    def __init__(self, machine: Machine, *, waits: bool, hands_over: bool) -> None:
        super().__init__(least_busy)
        self.affinity = affinity.Affinity(least_busy, waits=waits)
        self._pool.claim_policy = self.affinity
        self._build = BUILD if hands_over else None
        self._kv_bytes = machine.kv_bytes
        self._turns: dict[int, affinity.Turn] = {}  # by number
        self._texts: dict[Any, Text] = {}  # by record: what an engine has of it
        self._saving: dict[int, Held] = {}  # by engine: what it saves
        self._later: dict[int, float] = {}  # by engine: when to look whether it may save
        self._aside: dict[int, int] = {}  # by engine: the ticket with which it saves
        self._store = Store(STORE)
        self._files: dict[str, Text] = {}
        self._names = 0

    def offer(self, engine: int, now: float) -> list[Given]:
        self._later.pop(engine, None)
        self.affinity.forget(engine)
        self.affinity.add(engine, self._build)
        return super().offer(engine, now)

    def restored(self, given: Given, seconds: float, now: float) -> None:
        turn = self._turns[given.number]
        if given.restore is not None:
            self.affinity.restored(turn, seconds)
        self.affinity.sent(turn, now)

    def answered(self, done: Done, now: float) -> bool:
        super().answered(done, now)
        turn = self._turns[done.number]
        self._texts[turn.record] = done.turn.text
        self.affinity.ended(
            turn,
            prompt=size(done.turn.prompt),
            completion=done.turn.answer.tokens,
            cached=done.cached,
            prefill=done.prefill,
            total=done.prefill + done.decode,
            now=now,
        )
        held = self.affinity.to_be_saved(done.engine)
        if held is None:
            return False
        if not self._is_time_to_save(held):
            self._later.setdefault(done.engine, now + QUIET)
            return False
        self._saving[done.engine] = held
        return True

    def _is_time_to_save(self, held: Held) -> bool:
        if self.affinity.figures.saving(held.tokens) <= affinity.LONGEST_DELAY:
            return True
        return not self._pool.queued and self._pool.has_free_slot

    def end(self, done: Done, saving: float, now: float) -> list[Given]:
        held = self._saving.pop(done.engine, None)
        if held is not None:
            self._save(held, saving)
        del self._turns[done.number]
        self._pool.warm(done.engine, self.affinity.warmth(done.engine))
        return super().end(done, saving, now)

    def wake_at(self) -> float | None:
        times = [when for when in (super().wake_at(), *self._later.values()) if when is not None]
        return min(times, default=None)

    def wake(self, now: float) -> list[Given]:
        due = [engine for engine, when in self._later.items() if when <= now]
        return super().wake(now) + [given for engine in due for given in self._save_if_idle(engine, now)]

    def _save_if_idle(self, engine: int, now: float) -> list[Given]:
        del self._later[engine]
        held = self.affinity.to_be_saved(engine)
        if held is None:
            return []
        ticket = None
        if not self._pool.queued and not self._pool.leased(engine):
            ticket = self._pool.set_aside(engine)
        if ticket is None:
            self._later[engine] = now + QUIET
            return []
        self._saving[engine], self._aside[engine] = held, ticket
        return [Given(NO_TURN, engine, keeps=True)]

    def saved(self, engine: int, seconds: float, now: float) -> list[Given]:
        self._save(self._saving.pop(engine), seconds)
        self._pool.warm(engine, self.affinity.warmth(engine))
        return self._given(self._pool.leave(self._aside.pop(engine), now), now)

    def _given(self, grants: list[Grant[int]], now: float) -> list[Given]:
        return [self._one_given(grant) for grant in grants]

    def _one_given(self, grant: Grant[int]) -> Given:
        number, turn = self._numbers[grant.ticket], grant.turn
        self._turns[number] = turn
        keep, saved = turn.way.keep, None
        first = None if keep is None else self.affinity.to_be_kept(grant.member, keep)
        if first is not None:
            self._save(first, self.affinity.figures.saving(first.tokens))
        if turn.restore is not None:
            saved = self.affinity.holdings.saved(turn.restore)
        text = None if saved is None else self._use(saved.name)
        return Given(number, grant.member, first is not None, text, turn.way.have)

    def _use(self, name: str) -> Text:
        self._store.touch(name)
        return self._files[name]

    def _save(self, held: Held, seconds: float) -> None:
        text = self._texts[held.record]
        tokens = size(text)
        before = self.affinity.holdings.saved(held.record)
        self._names += 1
        saved = Saved(
            name=f"conversation {self._names}",
            principal=held.record.principal,
            prefix=held.prefix,
            tokens=tokens,
            build=BUILD,
            stamp=Stamp(size=tokens * self._kv_bytes, mtime_ns=0, inode=self._names),
        )
        self._files[saved.name] = text
        gone = self._store.add(saved, () if before is None else (before.name,))
        self.affinity.saved(held, saved, seconds)
        for name in gone:
            del self._files[name]
            self.affinity.holdings.discard(name)
