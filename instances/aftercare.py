"""What requests leave behind: slots whose engine may still be working, upstreams on which a request failed."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from slotproxy.instances.conversations.turns import Turns
from slotproxy.instances.errors import HeldBack, InstanceError
from slotproxy.instances.failures import Cause, Failure
from slotproxy.instances.lifecycle import State
from slotproxy.instances.remotes.remote import Remote
from slotproxy.instances.running.instance import Instance
from slotproxy.instances.slots.lease import Answered, KnownLease, Lease, unobserved
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.upstream import Observer, Upstream

LISTENER_GRACE = 0.1  # seconds that the port of a process which just died may still be open
LOOKS = 10  # at an engine that lives but did not answer
BETWEEN_LOOKS = 0.5  # seconds

RESET_TRAVEL = 0.05  # seconds until a server that runs elsewhere has read that its client is gone

Members = Callable[[], tuple[Instance | Remote, ...]]


class Aftercare:
    """The `UpstreamOwner` of all leases. Its tasks belong to the task group it is given."""

    def __init__(self, leases: Leases, members: Members, tasks: asyncio.TaskGroup, turns: Turns | None = None) -> None:
        """`turns`: None where conversations do not matter."""
        self._leases = leases
        self._turns = turns
        self._members = members
        self._tasks = tasks
        self._checking: set[Upstream] = set()
        self._closed = False

    def close(self) -> None:
        """The engines are being ended: slots are released without waiting for them."""
        self._closed = True
        if self._turns is not None:
            self._turns.close()

    async def prepare(self, lease: KnownLease) -> None:
        """Let the engine have what was saved of the request's conversation."""
        if self._turns is not None:
            await self._turns.prepare(lease)

    def answered(self, lease: KnownLease, answered: Answered) -> None:
        """Learn from the answer where the conversation is, and release the slot."""
        if self._turns is None or self._closed:
            lease.release()
        else:
            self._turns.answered(lease, answered)

    def abandoned(self, lease: Lease) -> None:
        """Release the slot once the engine is idle. An upstream does not tell when it is: its slot is released after
        the moment that a reset takes to reach it.
        """
        member = None if self._closed else self._behind(lease.upstream)
        if isinstance(member, Instance):
            self._tasks.create_task(self._give_back(member, lease))
        elif member is not None:
            asyncio.get_running_loop().call_later(RESET_TRAVEL, lease.release)
        else:
            lease.release()

    def failed(self, upstream: Upstream, reason: str) -> None:
        """After `hang` the instance is restarted; after anything else it is withdrawn until it answers again."""
        member = None if self._closed else self._behind(upstream)
        if isinstance(member, Remote):
            member.failed(reason)
        elif member is not None and reason == "hang":
            member.restart(Failure(cause=Cause.HANG, sentence="the engine gave no answer in time"))
        elif member is not None and upstream not in self._checking:
            self._leases.withdraw(upstream)
            self._checking.add(upstream)
            self._tasks.create_task(self._check(member, upstream))

    def observer(self, upstream: Upstream) -> Observer:
        """An upstream is asked as much as its answers say that it allows."""
        member = self._behind(upstream)
        return member.answered if isinstance(member, Remote) else unobserved

    def why_no_slot_within(self, seconds: float) -> InstanceError | None:
        """Where there are instances never: one may be starting, or come back."""
        remotes = [member for member in self._members() if isinstance(member, Remote)]
        if not remotes or len(remotes) < len(self._members()):
            return None
        soonest = min(remotes, key=lambda remote: remote.pause)
        if soonest.pause <= seconds:
            return None
        return HeldBack(f"{soonest.upstream.authority} takes no request: {soonest.why_held_back}", soonest.pause)

    def _behind(self, upstream: Upstream) -> Instance | Remote | None:
        for member in self._members():
            if member.upstream is upstream:
                return member
        return None

    async def _give_back(self, instance: Instance, lease: Lease) -> None:
        idle = instance.idle(lease.upstream, streamed=lease.streaming)
        try:
            if not await _unless_gone(instance, lease.upstream, idle):
                sentence = "the engine went on with an abandoned request for too long"
                instance.restart(Failure(cause=Cause.BUSY, sentence=sentence))
        finally:
            lease.release()
            if self._turns is not None and not self._closed:
                self._turns.broken_off(lease.upstream)

    async def _check(self, instance: Instance, upstream: Upstream) -> None:
        """Offer it again as soon as it answers; nothing is left to do when it ends."""
        try:
            if not await _unless_gone(instance, upstream, _answers(instance, upstream)):
                instance.restart(Failure(cause=Cause.HANG, sentence="the engine lives but does not answer"))
            elif instance.upstream is upstream and instance.status.state is State.READY:
                self._leases.add(upstream)
        finally:
            self._checking.discard(upstream)


async def _answers(instance: Instance, upstream: Upstream) -> bool:
    await asyncio.sleep(LISTENER_GRACE)
    for _ in range(LOOKS):
        if await instance.answers(upstream):
            return True
        await asyncio.sleep(BETWEEN_LOOKS)
    return False


async def _unless_gone(instance: Instance, upstream: Upstream, question: Coroutine[Any, Any, bool]) -> bool:
    """The answer to `question`; True as soon as the engine is gone, since nothing is left to be done to it then."""
    async with asyncio.TaskGroup() as race:
        asked = race.create_task(question)
        gone = race.create_task(instance.gone(upstream))
        await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
        answer = not asked.done() or asked.result()
        asked.cancel()
        gone.cancel()
    return answer
