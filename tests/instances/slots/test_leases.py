import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from slotproxy.instances.errors import InstanceError, NoInstances, QueueFull, QueueTimeout, ShuttingDown
from slotproxy.instances.slotless import Slotless
from slotproxy.instances.slots.beside import EACH
from slotproxy.instances.slots.claim import Claim
from slotproxy.instances.slots.lease import Answered, KnownLease, Lease
from slotproxy.instances.slots.leases import FORESEEN, Leases
from slotproxy.instances.slots.pool import NO_CLAIM, Pool
from slotproxy.instances.slots.principal import USUAL_COST
from slotproxy.instances.slots.routing import Policy, Seat, Wait, least_busy
from slotproxy.instances.upstream import Observer, Upstream

SOON = 5.0


def upstream(name: str, slots: int = 1) -> Upstream:
    return Upstream(instance=name, host="127.0.0.1", port=1, slots=slots)


def leases_with(*members: Upstream, queue_limit: int = 4) -> Leases:
    leases = Leases(Pool(queue_limit))
    for member in members:
        leases.add(member)
    return leases


async def queued(leases: Leases, count: int = 1) -> None:
    while leases.queued < count:
        await asyncio.sleep(0)


async def test_a_free_slot_is_taken_without_waiting() -> None:
    leases = leases_with(upstream("a"))
    lease = leases.take()
    assert lease is not None
    assert lease.upstream.instance == "a"
    assert leases.take() is None


async def test_a_release_hands_the_slot_to_the_next_in_line() -> None:
    leases = leases_with(upstream("a"))
    first = leases.take()
    assert first is not None
    waiting = asyncio.ensure_future(leases.wait(SOON))
    await queued(leases)
    first.release()
    assert (await waiting).upstream is first.upstream


async def test_a_lease_released_twice_is_released_once() -> None:
    member = upstream("a", slots=2)
    leases = leases_with(member)
    one, two = leases.take(), leases.take()
    assert one is not None
    assert two is not None
    one.release()
    one.release()
    assert leases.leased(member) == 1


async def test_a_cancelled_waiter_leaves_the_queue_at_once() -> None:
    leases = leases_with(upstream("a"))
    leases.take()
    waiting = asyncio.ensure_future(leases.wait(SOON))
    await queued(leases)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert leases.queued == 0


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_a_cancel_and_a_grant_in_one_tick_leave_the_slot_free(cancel_first: bool) -> None:
    leases = leases_with()
    member = upstream("a")
    waiting = asyncio.ensure_future(leases.wait(SOON))
    await queued(leases)
    if cancel_first:
        waiting.cancel()
        leases.add(member)
    else:
        leases.add(member)
        waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert leases.leased(member) == 0
    assert leases.take() is not None


async def test_a_slot_given_to_a_cancelled_waiter_goes_on_to_the_one_behind_it() -> None:
    leases = leases_with()
    first, second = (asyncio.ensure_future(leases.wait(SOON)) for _ in range(2))
    await queued(leases, 2)
    leases.add(upstream("a"))
    first.cancel()
    assert (await second).upstream.instance == "a"


async def test_the_wait_is_bounded() -> None:
    leases = leases_with()
    with pytest.raises(QueueTimeout):
        await leases.wait(0.001)
    assert leases.queued == 0


async def test_who_waited_knows_how_many_were_ahead_when_it_began_to() -> None:
    leases = leases_with()
    waiting = [asyncio.ensure_future(leases.wait(SOON, claim=Claim(principal=name))) for name in "aaab"]
    await queued(leases, 4)
    leases.add(upstream("s", slots=4))
    assert [lease.position for lease in await asyncio.gather(*waiting)] == [0, 1, 2, 1]  # "b" comes after one of "a"'s


async def test_who_waited_in_vain_is_told_what_was_still_ahead() -> None:
    leases = leases_with()
    first = asyncio.ensure_future(leases.wait(SOON))
    await queued(leases)
    with pytest.raises(QueueTimeout) as caught:
        await leases.wait(0.001)
    assert (caught.value.tickets, caught.value.tokens) == (1, USUAL_COST)
    assert leases.ahead_of_newcomer(NO_CLAIM) == (1, USUAL_COST)
    first.cancel()


async def test_a_slot_that_comes_in_the_tick_of_the_timeout_leaves_nobody_ahead() -> None:
    leases = leases_with()
    waiting = asyncio.ensure_future(leases.wait(0.0))
    await queued(leases)
    leases.add(upstream("a"))
    with contextlib.suppress(QueueTimeout):
        (await waiting).release()
    assert leases.take() is not None


async def test_the_order_of_very_many_is_not_reckoned_for_each() -> None:
    leases = leases_with(queue_limit=FORESEEN + 9)
    waiting = [asyncio.ensure_future(leases.wait(SOON)) for _ in range(FORESEEN + 1)]
    await queued(leases, FORESEEN + 1)
    newcomer = Claim(principal="who has had nothing yet")
    assert leases.ahead_of_newcomer(newcomer).tickets == FORESEEN + 1
    waiting[-1].cancel()
    await asyncio.wait(waiting[-1:])
    assert leases.ahead_of_newcomer(newcomer).tickets == 1
    for one in waiting:
        one.cancel()


async def test_the_queue_is_bounded() -> None:
    leases = leases_with(queue_limit=0)
    with pytest.raises(QueueFull):
        await leases.wait(SOON)


async def test_an_excluded_upstream_is_not_granted() -> None:
    bad, good = upstream("bad"), upstream("good")
    leases = leases_with(bad)
    waiting = asyncio.ensure_future(leases.wait(SOON, {bad}))
    await queued(leases)
    leases.add(good)
    assert (await waiting).upstream is good


async def test_a_refusal_reaches_the_queued_and_the_new_each_with_an_exception_of_its_own() -> None:
    leases = leases_with()
    waiting = [asyncio.ensure_future(leases.wait(SOON)) for _ in range(2)]
    await queued(leases, 2)
    leases.refuse(ShuttingDown)
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in errors] == [ShuttingDown, ShuttingDown]
    assert errors[0] is not errors[1]
    with pytest.raises(ShuttingDown):
        leases.take()
    leases.refuse(lambda: NoInstances("all gone"))
    with pytest.raises(NoInstances, match="all gone"):
        await leases.wait(SOON)


async def test_after_accept_slots_are_leased_again() -> None:
    leases = leases_with(upstream("a"))
    leases.refuse(ShuttingDown)
    leases.accept()
    assert leases.take() is not None


async def test_drained_returns_when_the_last_lease_of_a_withdrawn_upstream_is_back() -> None:
    member = upstream("a", slots=2)
    leases = leases_with(member)
    held = [leases.take(), leases.take()]
    assert leases.withdraw(member) == 2
    drained = asyncio.ensure_future(leases.drained(member))
    for lease in held:
        await asyncio.sleep(0)
        assert not drained.done()
        assert lease is not None
        lease.release()
    await asyncio.wait_for(drained, SOON)
    assert leases.take() is None


class Owner:
    def __init__(self) -> None:
        self.lost: list[Lease] = []

    async def prepare(self, lease: KnownLease) -> None:
        pass

    def answered(self, lease: KnownLease, answered: Answered) -> None:
        lease.release()

    def abandoned(self, lease: Lease) -> None:
        self.lost.append(lease)

    def failed(self, upstream: Upstream, reason: str) -> None: ...
    def observer(self, upstream: Upstream) -> Observer:
        raise AssertionError("nobody asks who observes")

    def why_no_slot_within(self, seconds: float) -> InstanceError | None: ...


async def test_an_abandoned_slot_stays_busy_until_its_owner_releases_it() -> None:
    leases = leases_with(upstream("a"))
    leases.owner = owner = Owner()
    lease = leases.take()
    assert lease is not None
    lease.abandon()
    assert leases.take() is None
    owner.lost[0].release()
    assert leases.take() is not None


async def test_a_released_lease_cannot_be_abandoned() -> None:
    leases = leases_with(upstream("a"))
    leases.owner = owner = Owner()
    lease = leases.take()
    assert lease is not None
    lease.release()
    lease.abandon()
    assert owner.lost == []


async def test_a_resize_hands_new_slots_to_those_who_wait() -> None:
    member = upstream("a", slots=2)
    leases = leases_with()
    leases.add(member, 0)
    waiting = asyncio.ensure_future(leases.wait(SOON))
    await queued(leases)
    leases.resize(member, 1)
    assert (await waiting).upstream is member
    assert leases.take() is None


async def test_an_overflow_is_leased_when_every_other_slot_is_taken() -> None:
    spare = Upstream(instance="u0", host="127.0.0.1", port=1, slots=8, overflow=True)
    leases = leases_with(spare, upstream("0"), upstream("1"))
    order = [lease.upstream.instance for lease in (leases.take() for _ in range(3)) if lease is not None]
    assert order == ["0", "1", "u0"]


async def test_the_statistics_tell_of_everybody_who_asked_for_a_slot() -> None:
    member = upstream("a", slots=2)
    leases = leases_with(member)
    first, second = leases.take(), leases.take()
    assert first is not None
    assert second is not None
    waiting = asyncio.ensure_future(leases.wait(SOON))
    await queued(leases)
    now = leases.statistics
    assert (now.concurrency_limit, now.active, now.queued, now.requests, now.average_wait) == (2, 2, 1, 2, 0.0)
    await asyncio.sleep(0.001)
    first.release()
    third = await waiting
    with pytest.raises(QueueTimeout):
        await leases.wait(0)
    leases.unserved("refused")
    now = leases.statistics
    assert (now.active, now.queued, now.requests) == (2, 0, 3)
    assert now.average_wait > 0
    assert (now.errors.timeout, now.errors.refused, now.errors.total) == (1, 1, 2)
    second.release()
    third.release()
    assert leases.statistics.active == 0


def test_only_members_with_slots_count_as_offering() -> None:
    member, other = upstream("a"), upstream("b")
    leases = leases_with(member, other)
    assert leases.offers({member})
    leases.resize(other, 0)
    assert not leases.offers({member})
    assert leases.offers()


def tokenizer(name: str = "a", *, overflow: bool = False) -> Upstream:
    return Upstream(instance=name, host="h", port=1, slotless=Slotless(["POST /tokenize"]), overflow=overflow)


def beside(leases: Leases) -> Lease:
    lease = leases.at_once("POST", "/tokenize")
    assert lease is not None
    assert not lease.holds_slot
    return lease


def test_what_is_answered_beside_the_slots_takes_none_and_goes_past_a_full_queue() -> None:
    member = tokenizer()
    leases = leases_with(member, queue_limit=0)
    occupant = leases.at_once("POST", "/completion")
    assert occupant is not None
    assert occupant.holds_slot
    assert leases.is_full
    assert leases.answers_beside_slots("POST", "/tokenize")
    assert not leases.answers_beside_slots("GET", "/tokenize")
    assert beside(leases).upstream is member
    assert leases.at_once("GET", "/tokenize") is None
    assert leases.at_once("POST", "/tokenize", {member}) is None
    assert (leases.leased(member), leases.statistics.active, leases.statistics.requests) == (1, 1, 1)


@pytest.mark.parametrize("way", ["release", "abandon"])
def test_a_lease_without_a_slot_is_given_back_once_however_it_ends(way: str) -> None:
    member = tokenizer()
    leases = leases_with(member)
    leases.owner = owner = Owner()
    first, _ = beside(leases), beside(leases)
    for _ in range(3):
        getattr(first, way)()
        first.release()
        first.abandon()
    assert owner.lost == []  # no slot waits for its engine to be idle
    assert leases.withdraw(member) == 1


def test_beyond_what_there_may_be_beside_the_slots_a_request_takes_one_or_waits() -> None:
    leases = leases_with(tokenizer(), queue_limit=0)
    held = [beside(leases) for _ in range(EACH)]
    lease = leases.at_once("POST", "/tokenize")
    assert lease is not None
    assert lease.holds_slot
    assert leases.at_once("POST", "/tokenize") is None
    assert not leases.answers_beside_slots("POST", "/tokenize")
    held[0].release()
    assert leases.answers_beside_slots("POST", "/tokenize")
    assert not beside(leases).holds_slot


async def test_whoever_drains_an_upstream_waits_for_what_it_answers_beside_its_slots() -> None:
    member = tokenizer()
    leases = leases_with(member)
    slot, first, second = leases.take(), beside(leases), beside(leases)
    assert slot is not None
    assert leases.withdraw(member) == 3
    assert leases.at_once("POST", "/tokenize") is None
    drained = asyncio.ensure_future(leases.drained(member))
    for lease in (first, slot, second):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not drained.done()
        lease.release()
    await asyncio.wait_for(drained, SOON)


async def test_a_refusal_holds_for_what_needs_no_slot_too() -> None:
    leases = leases_with(tokenizer())
    leases.refuse(ShuttingDown)
    with pytest.raises(ShuttingDown):
        leases.at_once("POST", "/tokenize")


async def test_before_anybody_is_there_what_needs_no_slot_waits_like_others() -> None:
    leases = leases_with()
    assert leases.at_once("POST", "/tokenize") is None
    waiting = asyncio.ensure_future(leases.wait(SOON))
    await queued(leases)
    leases.add(tokenizer())
    assert (await waiting).holds_slot


# leases of which more is known


class Turn:
    """What a policy says of a conversation."""

    def __init__(self, restore: object = None) -> None:
        self.is_to_be_prepared = restore is not None
        self.grant = 0


HASTY = "hasty"
FOR_A = Claim(principal="alice", session="a")
IN_HASTE = Claim(principal=HASTY, session="a")


class Loyal:
    """Wants the instance that the claim names as its session, and holds out for it, though not for long if `HASTY`."""

    def __init__(self, restore: object = None) -> None:
        self.base: Policy = least_busy
        self.restore = restore
        self.failures: list[Turn] = []

    def __call__(self, seats: Sequence[Seat], claim: Claim, now: float) -> Seat | Wait:
        wanted = next((seat for seat in seats if seat.member.instance == claim.session), None)
        if wanted is None or wanted.free:
            return wanted or next(seat for seat in seats if seat.free)
        return Wait(wanted, now + (0.01 if claim.principal == HASTY else 600.0))

    def begun(self, seat: Seat, claim: Claim, now: float) -> Turn:
        return Turn(self.restore)

    def failed(self, turn: Turn) -> None:
        self.failures.append(turn)


ANSWERED = Answered(prompt=100, completion=10, cached=50, prefill=1.0, total=2.0)


def known(leases: Leases, one: Claim = FOR_A) -> KnownLease:
    lease = leases.at_once("POST", "/v1/chat/completions", claim=one)
    assert isinstance(lease, KnownLease)
    return lease


def loyal(*members: Upstream, **policy: Any) -> tuple[Leases, Loyal]:
    leases, loyal = leases_with(*members), Loyal(**policy)
    leases.decide_by(loyal)
    return leases, loyal


async def test_whoever_holds_out_gets_the_slot_it_waits_for() -> None:
    first, second = upstream("a"), upstream("b")
    leases, _ = loyal(first, second)
    lease = known(leases)
    waiting = asyncio.ensure_future(leases.wait(SOON, claim=FOR_A))
    await queued(leases)
    assert not waiting.done()
    assert leases.leased(second) == 0
    lease.release()
    assert (await waiting).upstream is first


async def test_whoever_held_out_for_long_enough_is_given_another_slot_without_anything_happening() -> None:
    second = upstream("b")
    leases, _ = loyal(upstream("a"), second)
    known(leases)
    async with asyncio.timeout(SOON):
        assert (await leases.wait(600.0, claim=IN_HASTE)).upstream is second


async def test_the_alarm_is_for_the_next_of_those_that_hold_out() -> None:
    second, third = upstream("b"), upstream("c")
    leases, _ = loyal(upstream("a"), second, third)
    known(leases)
    patient = asyncio.ensure_future(leases.wait(600.0, claim=FOR_A))
    await queued(leases)
    async with asyncio.timeout(SOON):
        assert (await leases.wait(600.0, claim=IN_HASTE)).upstream in (second, third)
    assert not patient.done()
    patient.cancel()
    await asyncio.gather(patient, return_exceptions=True)
    assert leases.queued == 0


async def test_whoever_held_out_for_an_upstream_that_is_withdrawn_takes_another() -> None:
    first, second = upstream("a"), upstream("b")
    leases, _ = loyal(first, second)
    known(leases)
    waiting = asyncio.ensure_future(leases.wait(SOON, claim=FOR_A))
    await queued(leases)
    leases.withdraw(first)
    assert (await waiting).upstream is second


async def test_a_turn_that_met_its_client_leaving_is_told_to_have_failed() -> None:
    member = upstream("a")
    leases, policy = loyal(member)
    lease = known(leases)
    waiting = asyncio.ensure_future(leases.wait(SOON, claim=FOR_A))
    await queued(leases)
    lease.release()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert len(policy.failures) == 2  # that of `lease`, which was given back without a word, and the one of the waiter
    assert leases.leased(member) == 0


async def test_a_lease_is_held_for_as_long_as_the_work_takes_whoever_releases_it() -> None:
    member = upstream("a")
    leases, policy = loyal(member)
    lease = known(leases)
    work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    lease.hold_for(work)
    for _ in range(3):
        lease.release()
    assert leases.leased(member) == 1
    assert policy.failures == []
    waiting = asyncio.ensure_future(leases.wait(SOON, claim=FOR_A))
    await queued(leases)
    work.set_result(None)
    second = await waiting
    lease.release()
    assert leases.leased(member) == 1
    assert policy.failures == [lease.turn]
    second.release()
    assert leases.leased(member) == 0


@pytest.mark.parametrize("end", ["cancel", "fail"])
async def test_a_lease_is_released_however_the_work_ends(end: str) -> None:
    member = upstream("a")
    leases, _ = loyal(member)
    lease = known(leases)
    work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    lease.hold_for(work)
    lease.release()
    if end == "cancel":
        work.cancel()
    else:
        work.set_exception(ValueError())
    await asyncio.gather(work, return_exceptions=True)
    await asyncio.sleep(0)
    assert leases.leased(member) == 0


async def test_work_that_is_over_holds_nothing() -> None:
    member = upstream("a")
    leases, _ = loyal(member)
    lease = known(leases)
    work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    lease.hold_for(work)
    work.set_result(None)
    lease.release()
    assert leases.leased(member) == 0


async def test_only_what_nobody_wants_is_set_aside() -> None:
    member, other = upstream("a"), upstream("b")
    leases, _ = loyal(member, other)
    before = leases.granted, leases.last_grant(member)
    aside = leases.set_aside(member)
    assert aside is not None
    assert aside.turn is None
    assert (leases.granted, leases.last_grant(member)) == before
    assert leases.leased(member) == 1
    assert leases.set_aside(member) is None
    waiting = asyncio.ensure_future(leases.wait(SOON, claim=FOR_A))
    await queued(leases)
    assert leases.set_aside(other) is None  # somebody waits, though not for this one
    aside.release()
    (await waiting).release()
    leases.refuse(ShuttingDown)
    assert leases.set_aside(member) is None
    leases.accept()
    leases.withdraw(member)
    assert leases.set_aside(member) is None


async def test_the_owner_prepares_what_is_to_be_prepared_and_hears_of_the_answer() -> None:
    leases, policy = loyal(upstream("a"), restore="a conversation")
    leases.owner = owner = Recorder()
    lease = known(leases)
    assert lease.is_of_interest
    assert lease.is_to_be_prepared
    await lease.prepare()
    lease.finish(ANSWERED)
    assert owner.heard == [("prepare", lease), ("answered", lease, ANSWERED)]
    lease.release()
    for _ in range(2):
        await lease.prepare()
        lease.finish(ANSWERED)
        lease.abandon()
    assert len(owner.heard) == 2
    assert policy.failures == [lease.turn]  # which does nothing where more was learned of it


async def test_nothing_is_to_be_prepared_where_nothing_is_to_be_restored() -> None:
    leases, _ = loyal(upstream("a"))
    assert not known(leases).is_to_be_prepared


async def test_an_answer_without_a_conversation_gives_the_slot_back_at_once() -> None:
    member = upstream("a")
    leases, _ = loyal(member)
    leases.owner = owner = Recorder()
    lease = known(leases, Claim(principal="alice"))
    assert lease.turn is None
    assert lease.is_of_interest  # what it cost counts
    lease.finish(ANSWERED)
    assert owner.heard == []
    assert leases.leased(member) == 0


async def test_what_answers_cost_decides_who_is_next() -> None:
    member = upstream("a")
    leases = leases_with(member)
    held = await leases.wait(SOON, claim=Claim(principal="first"))
    order: list[str] = []

    async def one(name: str, cost: Answered) -> None:
        lease = await leases.wait(SOON, claim=Claim(principal=name))
        order.append(name)
        lease.finish(cost)

    dear = Answered(prompt=100_000, completion=0, cached=0, prefill=None, total=1.0)
    async with asyncio.TaskGroup() as tasks:
        for number, name in enumerate(["alice", "alice", "bob", "bob"]):
            tasks.create_task(one(name, dear if name == "alice" else ANSWERED))
            await queued(leases, number + 1)
        held.release()
    assert order == ["alice", "bob", "bob", "alice"]


def test_there_is_a_choice_where_several_could_serve_or_what_was_computed_can_be_had_again() -> None:
    leases = leases_with(upstream("a"), other := upstream("b"))
    seen = [leases.has_choice]
    steps: list[Callable[[], object]] = [
        lambda: leases.decide_by(Loyal()),
        lambda: leases.withdraw(other),
        lambda: leases.keep_conversations(),
        lambda: leases.decide_by(None),
    ]
    for step in steps:
        step()
        seen.append(leases.has_choice)
    assert seen == [False, True, False, True, False]


class Recorder(Owner):
    """It never releases anything."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[object, ...]] = []

    async def prepare(self, lease: Lease) -> None:
        self.heard.append(("prepare", lease))

    def answered(self, lease: Lease, answered: Answered) -> None:
        self.heard.append(("answered", lease, answered))
