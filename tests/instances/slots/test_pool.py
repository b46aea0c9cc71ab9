"""The pool under every order of arrivals, departures, additions and withdrawals."""

from collections.abc import Sequence, Set

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from slotproxy.instances.errors import QueueFull
from slotproxy.instances.slots.claim import Claim
from slotproxy.instances.slots.pool import LOOKED_AT, NOBODY, Grant, Pool, Ticket
from slotproxy.instances.slots.routing import Policy, Seat, Wait, least_busy

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


class Turn:
    """What the policy says of a claim that gets a slot."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.grant = 0


class Loyal:
    """Wants the member that the claim names as its session, and holds out for it when it is busy."""

    PATIENCE = 10.0

    def __init__(self) -> None:
        self.base: Policy = least_busy
        self.seats: list[Seat] = []  # all that it has ever seen
        self.told: dict[int, float] = {}  # by claim: when the first wait was to be over
        self.begins: list[Claim] = []

    def __call__(self, seats: Sequence[Seat], claim: Claim, now: float) -> Seat | Wait:
        self.seats += [seat for seat in seats if not any(seat is known for known in self.seats)]
        free = [seat for seat in seats if seat.free]
        assert free
        assert all(seat.slots for seat in seats)
        for seat in seats:
            if seat.member == claim.session:
                if seat.free:
                    return seat
                until = now + self.PATIENCE
                self.told.setdefault(id(claim), until)
                return Wait(seat, until)
        return least_busy(free)

    def begun(self, seat: Seat, claim: Claim, now: float) -> Turn:
        assert seat.free
        self.begins.append(claim)
        return Turn(claim)

    def failed(self, turn: Turn) -> None:
        raise AssertionError("the pool does not know what becomes of a turn")


class ClaimedPoolMachine(RuleBasedStateMachine):
    """With claims that would rather have one slot than another, or than any."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.policy = Loyal()
        self.pool: Pool[str] = Pool(queue_limit=6, claim_policy=self.policy)
        self.offered: dict[str, int] = {}
        self.waiting: dict[Ticket, tuple[Claim, Set[str]]] = {}
        self.held: dict[Ticket, str] = {}
        self.claims: list[Claim] = []  # so that no other gets the identity of one
        self.now = 0.0
        self.requests = 0

    def claim(self, wants: str) -> Claim:
        self.claims.append(Claim(session=wants))
        return self.claims[-1]

    def held_by(self, name: str) -> int:
        return list(self.held.values()).count(name)

    @property
    def free(self) -> set[str]:
        return {name for name, slots in self.offered.items() if self.held_by(name) < slots}

    def holds_out(self, ticket: Ticket) -> bool:
        """Whether it may wait beside a slot that is free."""
        claim, exclude = self.waiting[ticket]
        wanted = claim.session or ""
        if wanted in exclude or wanted in self.free or not self.offered.get(wanted):
            return False
        return self.now < self.policy.told.get(id(claim), float("inf"))

    def note(self, grants: list[Grant[str]]) -> None:
        for ticket, member, turn in grants:
            assert member in self.free, "it was over its slots already"
            claim, exclude = self.waiting[ticket]
            assert member not in exclude
            for earlier in [one for one in self.waiting if one < ticket]:
                assert member in self.waiting[earlier][1] or self.holds_out(earlier), "somebody else was first"
            del self.waiting[ticket]
            self.begin(ticket, member, turn, claim)

    def begin(self, ticket: Ticket, member: str, turn: Turn, claim: Claim) -> None:
        assert turn.claim is claim
        self.requests += 1
        assert 0 < turn.grant <= self.pool.granted
        self.held[ticket] = member

    @rule(target=tickets, wants=NAMES, exclude=st.frozensets(NAMES, max_size=2))
    def join(self, wants: str, exclude: frozenset[str]) -> object:
        claim = self.claim(wants)
        try:
            ticket, grants = self.pool.join(exclude, claim, self.now)
        except QueueFull:
            assert len(self.waiting) == 6
            assert not self.free - exclude
            return multiple()
        self.waiting[ticket] = claim, exclude
        self.note(grants)
        return ticket

    @rule(target=tickets, wants=NAMES, exclude=st.frozensets(NAMES, max_size=2))
    def take_for(self, wants: str, exclude: frozenset[str]) -> object:
        claim = self.claim(wants)
        grant = self.pool.take_for(claim, self.now, exclude)
        if grant is None:
            return multiple()
        assert not self.waiting, "it overtook the queue"
        assert grant.member in self.free - exclude
        assert grant.member == wants or wants in exclude or not self.offered.get(wants)
        self.begin(grant.ticket, grant.member, grant.turn, claim)
        return grant.ticket

    @rule(target=tickets, name=NAMES)
    def set_aside(self, name: str) -> object:
        before = self.pool.granted, self.pool.last_grant(name)
        ticket = self.pool.set_aside(name)
        assert (self.pool.granted, self.pool.last_grant(name)) == before, "it counted as a request"
        assert (ticket is not None) == (name in self.free)
        if ticket is None:
            return multiple()
        self.held[ticket] = name
        return ticket

    @rule(ticket=tickets)
    def leave(self, ticket: Ticket) -> None:
        self.waiting.pop(ticket, None)
        self.held.pop(ticket, None)
        self.note(self.pool.leave(ticket, self.now))

    @rule(seconds=st.floats(0.0, 12.0))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.note(self.pool.expire(self.now))

    @rule()
    def tick_until_the_next_is_due(self) -> None:
        due = self.pool.next_expiry
        if due is not None:
            self.now = max(self.now, due)
            self.note(self.pool.expire(self.now))

    @rule(name=NAMES, slots=st.integers(0, 3))
    def add(self, name: str, slots: int) -> None:
        self.offered[name] = slots
        self.note(self.pool.add(name, slots, now=self.now))

    @rule(name=NAMES, slots=st.integers(0, 3))
    def resize(self, name: str, slots: int) -> None:
        if name in self.offered:
            self.offered[name] = slots
        self.note(self.pool.resize(name, slots, self.now))

    @rule(name=NAMES)
    def withdraw(self, name: str) -> None:
        self.offered.pop(name, None)
        assert self.pool.withdraw(name) == self.held_by(name)
        self.note(self.pool.expire(self.now))

    @invariant()
    def every_lease_is_counted_once(self) -> None:
        assert {name: self.pool.leased(name) for name in "abc"} == {name: self.held_by(name) for name in "abc"}
        assert self.pool.active == len(self.held)

    @invariant()
    def nobody_waits_beside_a_slot_it_would_take_for_longer_than_was_said(self) -> None:
        for ticket, (_, exclude) in self.waiting.items():
            assert not self.free - exclude or self.holds_out(ticket)

    @invariant()
    def whoever_holds_out_beside_a_free_slot_is_woken_in_time(self) -> None:
        out = [claim for ticket, (claim, exclude) in self.waiting.items() if self.free - exclude]
        if out:
            due = self.pool.next_expiry
            assert due is not None
            assert self.now < due <= min(self.policy.told[id(claim)] for claim in out)

    @invariant()
    def seats_know_how_many_hold_out_for_them(self) -> None:
        assert all(seat.awaited >= 0 for seat in self.policy.seats)
        for name in "abc":
            awaited = sum(seat.awaited for seat in self.policy.seats if seat.member == name)
            wanting = [exclude for claim, exclude in self.waiting.values() if claim.session == name]
            # One that held out beside a slot which has been taken since may be counted still.
            assert sum(bool(self.free - exclude) for exclude in wanting) <= awaited <= len(wanting)

    @invariant()
    def the_policy_hears_of_every_request_once(self) -> None:
        assert self.pool.granted == self.requests == len(self.policy.begins)

    @invariant()
    def the_queue_is_what_was_not_granted(self) -> None:
        assert self.pool.queued == len(self.waiting) <= 6


TestClaimedPool = ClaimedPoolMachine.TestCase
TestClaimedPool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def loyal_pool(*names: str, queue_limit: int = LOOKED_AT * 2) -> Pool[str]:
    pool: Pool[str] = Pool(queue_limit, claim_policy=Loyal())
    for name in names:
        pool.add(name)
    return pool


def test_how_long_a_ticket_holds_out_is_fixed_when_it_begins_to() -> None:
    pool = loyal_pool("a", "b")
    assert pool.take_for(Claim(session="a"), 0.0) is not None
    ticket, grants = pool.join(claim=Claim(session="a"), now=0.0)
    assert grants == []
    assert pool.next_expiry == 10.0
    for now in (1.0, 5.0, 9.9):  # it is asked again each time, and would say ten seconds more
        assert pool.expire(now) == []
        assert pool.next_expiry == 10.0
    (grant,) = pool.expire(10.0)
    assert (grant.ticket, grant.member) == (ticket, "b")
    assert pool.next_expiry is None


def test_a_full_queue_takes_whoever_finds_a_slot_free_though_not_the_one_it_would_wait_for() -> None:
    pool = loyal_pool("a", "b", queue_limit=0)
    assert pool.take_for(Claim(session="a"), 0.0) is not None
    _, (grant,) = pool.join(claim=Claim(session="a"), now=0.0)
    assert grant.member == "b"
    with pytest.raises(QueueFull):
        pool.join(claim=Claim(session="a"), now=0.0)


def test_only_so_many_tickets_may_hold_out_beside_a_free_slot() -> None:
    """Each is asked about whenever a slot is free."""
    pool = loyal_pool("a", "b")
    assert pool.take_for(Claim(session="a"), 0.0) is not None
    for _ in range(LOOKED_AT):
        assert pool.join(claim=Claim(session="a"), now=0.0)[1] == []
    ticket, (grant,) = pool.join(claim=Claim(session="a"), now=0.0)
    assert (grant.ticket, grant.member) == (ticket, "b")


def test_whoever_held_out_for_a_member_that_is_withdrawn_takes_another() -> None:
    pool = loyal_pool("a", "b")
    assert pool.take_for(Claim(session="a"), 0.0) is not None
    ticket, _ = pool.join(claim=Claim(session="a"), now=0.0)
    assert pool.withdraw("a") == 1
    (grant,) = pool.expire(0.0)
    assert (grant.ticket, grant.member) == (ticket, "b")


def test_whoever_no_longer_waits_is_not_counted_as_waiting() -> None:
    policy = Loyal()
    pool: Pool[str] = Pool(8, claim_policy=policy)
    for name in "ab":
        pool.add(name)
    assert pool.take_for(Claim(session="a"), 0.0) is not None
    tickets = [pool.join(claim=Claim(session="a"), now=0.0)[0] for _ in range(2)]
    counts = [max(seat.awaited for seat in policy.seats)]
    for ticket in tickets:
        assert pool.leave(ticket, 1.0) == []
        counts.append(max(seat.awaited for seat in policy.seats))
    assert counts == [2, 1, 0]


def test_without_a_policy_for_claims_one_principal_is_served_as_it_came() -> None:
    pool: Pool[str] = Pool(queue_limit=8)
    pool.add("a")
    held, _ = pool.join(claim=Claim(session="x"), now=0.0)
    tickets = [pool.join(claim=Claim(session=str(number)), now=0.0)[0] for number in range(5)]
    served = []
    for _ in tickets:
        (grant,) = pool.leave(held, 0.0)
        assert grant.turn is None
        held = grant.ticket
        served.append(held)
    assert served == tickets


def test_a_claim_that_says_nothing_is_none_of_the_policys_business() -> None:
    pool = loyal_pool("a")
    grant = pool.take_for(Claim(principal="alice"), 0.0, NOBODY)
    assert grant is not None
    assert grant.turn is None


def test_a_slot_that_was_taken_without_a_claim_is_returned_once() -> None:
    pool = loyal_pool("a")
    ticket, _ = pool.take() or (0, "")
    waiting, grants = pool.join(claim=Claim(session="a"), now=0.0)
    assert grants == []
    assert pool.release(ticket)
    assert not pool.release(ticket)
    (grant,) = pool.expire(0.0)
    assert grant.ticket == waiting
    assert pool.leased("a") == 1


def test_the_last_lease_of_a_member_has_a_number_and_what_is_set_aside_has_none() -> None:
    pool = loyal_pool("a", "b")
    assert pool.last_grant("a") == 0
    grant = pool.take_for(Claim(session="a"), 0.0)
    assert grant is not None
    assert grant.turn.grant == pool.last_grant("a") == pool.granted == 1
    assert pool.set_aside("a") is None
    pool.leave(grant.ticket, 0.0)
    assert pool.set_aside("a") is not None
    assert pool.last_grant("a") == 1
    pool.withdraw("a")
    assert pool.last_grant("a") is None


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
