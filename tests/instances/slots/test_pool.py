"""The pool under every order of arrivals, departures, additions and withdrawals."""

from collections.abc import Set

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from slotproxy.instances.errors import QueueFull
from slotproxy.instances.slots.pool import Grant, Pool, Ticket

NAMES = st.sampled_from("abc")


class PoolMachine(RuleBasedStateMachine):
    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.pool: Pool[str] = Pool(queue_limit=3)
        self.offered: dict[str, int] = {}
        self.overflow: set[str] = set()
        self.waiting: dict[Ticket, Set[str]] = {}
        self.held: dict[Ticket, str] = {}

    def note(self, grants: list[Grant[str]]) -> None:
        for grant in grants:
            exclude = self.waiting.pop(grant.ticket)
            assert grant.member not in exclude
            assert self.held_by(grant.member) < self.offered[grant.member], "it was over its slots already"
            self.note_tier(grant.member, exclude)
            earlier = [t for t, other in self.waiting.items() if t < grant.ticket and grant.member not in other]
            assert not earlier, "somebody who would have taken this slot came first"
            self.held[grant.ticket] = grant.member

    def held_by(self, name: str) -> int:
        return list(self.held.values()).count(name)

    def note_tier(self, name: str, exclude: Set[str]) -> None:
        free = {other for other, slots in self.offered.items() if self.held_by(other) < slots}
        if name in self.overflow:
            assert not free - self.overflow - exclude, "another had a free slot"

    @rule(target=tickets, exclude=st.frozensets(NAMES, max_size=2))
    def join(self, exclude: frozenset[str]) -> object:
        try:
            ticket, grants = self.pool.join(exclude)
        except QueueFull:
            assert len(self.waiting) == 3
            return multiple()
        self.waiting[ticket] = exclude
        self.note(grants)
        return ticket

    @rule(target=tickets, exclude=st.frozensets(NAMES, max_size=2))
    def take(self, exclude: frozenset[str]) -> object:
        taken = self.pool.take(exclude)
        grant = None if taken is None else Grant(*taken)
        if grant is None:
            return multiple()
        assert not self.waiting, "it overtook the queue"
        assert grant.member not in exclude
        assert self.held_by(grant.member) < self.offered[grant.member]
        self.note_tier(grant.member, exclude)
        self.held[grant.ticket] = grant.member
        return grant.ticket

    @rule(ticket=tickets)
    def leave(self, ticket: Ticket) -> None:
        self.waiting.pop(ticket, None)
        self.held.pop(ticket, None)
        self.note(self.pool.leave(ticket))

    @rule(ticket=consumes(tickets))
    def leave_twice(self, ticket: Ticket) -> None:
        self.leave(ticket)
        before = repr(self.pool)
        assert self.pool.leave(ticket) == []
        assert repr(self.pool) == before

    @rule(name=NAMES, slots=st.integers(0, 3), overflow=st.booleans())
    def add(self, name: str, slots: int, overflow: bool) -> None:
        self.offered[name] = slots
        self.overflow.discard(name)
        if overflow:
            self.overflow.add(name)
        self.note(self.pool.add(name, slots, overflow=overflow))

    @rule(name=NAMES, slots=st.integers(0, 3))
    def resize(self, name: str, slots: int) -> None:
        if name in self.offered:
            self.offered[name] = slots
        before = repr(self.pool)
        self.note(self.pool.resize(name, slots))
        assert name in self.offered or repr(self.pool) == before

    @rule(name=NAMES)
    def withdraw(self, name: str) -> None:
        self.offered.pop(name, None)
        assert self.pool.withdraw(name) == list(self.held.values()).count(name)

    @invariant()
    def every_lease_is_counted_once(self) -> None:
        for name in "abc":
            assert self.pool.leased(name) == list(self.held.values()).count(name)

    @invariant()
    def nobody_waits_beside_a_slot_it_would_take(self) -> None:
        free = {name for name, slots in self.offered.items() if self.pool.leased(name) < slots}
        for exclude in self.waiting.values():
            assert not free - exclude

    @invariant()
    def the_queue_is_what_was_not_granted(self) -> None:
        assert self.pool.queued == len(self.waiting) <= 3


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_free_slot_is_granted_although_the_queue_may_not_hold_anybody() -> None:
    pool: Pool[str] = Pool(queue_limit=0)
    pool.add("a")
    pool.join()
    with pytest.raises(QueueFull):
        pool.join()


def test_equally_busy_members_take_turns() -> None:
    pool: Pool[str] = Pool(queue_limit=0)
    for name in "abc":
        pool.add(name)
    order = []
    for _ in range(6):
        taken = pool.take()
        grant = None if taken is None else Grant(*taken)
        assert grant is not None
        order.append(grant.member)
        pool.leave(grant.ticket)
    assert "".join(order) == "abcabc"


def test_its_repr_tells_the_whole_state() -> None:
    pool: Pool[str] = Pool(queue_limit=1)
    pool.add("a", 2)
    pool.take()
    assert repr(pool) == "<Pool a=1/2, 0 queued>"
