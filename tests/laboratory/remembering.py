"""The dispatcher that knows of conversations: the proxy's `Affinity`, and a store as the proxy fills it.

What the proxy's shells do with engines and files is done here with texts: before a turn what its slot holds is saved
and what is saved of its conversation is restored, if the policy says so; after it, its text is saved.
"""

from collections import OrderedDict
from typing import Any

from slotproxy.instances.conversations import affinity
from slotproxy.instances.conversations.holdings import Saved
from slotproxy.instances.slots.pool import Grant
from slotproxy.instances.slots.routing import least_busy
from tests.laboratory.dispatch import Done, Given, Plain
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
        self._saving: dict[int, Any] = {}  # by engine: what it saves
        self._store: OrderedDict[str, Text] = OrderedDict()  # the least recently used first
        self._stored = 0  # bytes
        self._names = 0

    def offer(self, engine: int, now: float) -> list[Given]:
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
        if self._pool.queued and self.affinity.figures.saving(held.tokens) > affinity.LONGEST_DELAY:
            return False  # somebody waits, who may not be delayed for so long
        self._saving[done.engine] = held
        return True

    def end(self, done: Done, saving: float, now: float) -> list[Given]:
        held = self._saving.pop(done.engine, None)
        if held is not None:
            self._save(held, saving)
        del self._turns[done.number]
        self._pool.warm(done.engine, self.affinity.warmth(done.engine))
        return super().end(done, saving, now)

    def _given(self, grants: list[Grant[int]], now: float) -> list[Given]:
        return [self._one_given(grant) for grant in grants]

    def _one_given(self, grant: Grant[int]) -> Given:
        number, turn = self._numbers[grant.ticket], grant.turn
        self._turns[number] = turn
        first, saved = None, None
        if turn.way.keep is not None:
            first = self.affinity.to_be_saved(grant.member)
        if turn.restore is not None:
            saved = self.affinity.holdings.saved(turn.restore)
        if first is not None:
            self._save(first, None)
        text = None if saved is None else self._use(saved.name)
        return Given(number, grant.member, first is not None, text, turn.way.have)

    def _use(self, name: str) -> Text:
        self._store.move_to_end(name)
        return self._store[name]

    def _save(self, held: Any, seconds: float | None) -> None:
        """`seconds`: how long it took; None: that is not known yet, and taken to be as expected."""
        figures, text = self.affinity.figures, self._texts[held.record]
        tokens = size(text)
        before = self.affinity.holdings.saved(held.record)
        if before is not None:
            self._drop(before.name)
        self._names += 1
        saved = Saved(f"conversation {self._names}", BUILD, held.prefix, tokens, tokens * self._kv_bytes)
        self._store[saved.name], self._stored = text, self._stored + saved.size
        self.affinity.saved(held, saved, figures.saving(tokens) if seconds is None else seconds)
        while self._stored > STORE and len(self._store) > 1:
            name = next(iter(self._store))
            self._drop(name)
            self.affinity.holdings.discard(name)

    def _drop(self, name: str) -> None:
        self._stored -= size(self._store.pop(name)) * self._kv_bytes
