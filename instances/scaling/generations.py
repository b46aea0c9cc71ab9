"""Generations of our own, on slots that no client needs: a client that comes is served first."""

import asyncio
import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from slotproxy.instances.errors import InstanceError
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.scaling.workload import Count
from slotproxy.instances.slots.lease import Lease
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.upstream import Upstream

LOOK_EVERY = 0.02  # seconds between looks for clients
LONGEST = 300.0  # seconds for one generation


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Generations that were asked for at the same moment."""

    tokens: int  # of all of them
    seconds: float  # until the last one had ended

    @property
    def rate(self) -> float:
        """Tokens per second of all together."""
        return self.tokens / self.seconds


class Obstacle(enum.Enum):
    """What kept something from being measured."""

    CLIENTS = "clients"  # they have the engines, or came
    TOO_FEW = "too-few"  # there is nothing to compare with
    MEMORY = "memory"  # it got short meanwhile
    ENGINE = "engine"  # it does not do what it is asked


@dataclass(frozen=True, slots=True, kw_only=True)
class NotMeasured:
    """The other outcome of a measurement."""

    obstacle: Obstacle
    sentence: str = ""  # what an engine did instead of generating


class Generations:
    """Takes slots, generates, gives them back."""

    def __init__(self, leases: Leases, probe: Probe) -> None:
        self._leases = leases
        self._probe = probe

    async def run(self, upstreams: Sequence[Upstream], path: str, body: Any, patience: float) -> Run | NotMeasured:
        """Let all of `upstreams` generate at once, each its only request.

        Waits up to `patience` seconds until none of them has a client.
        """
        leases = await self._take(upstreams, patience)
        return await self._generate(leases, path, body) if leases else NotMeasured(obstacle=Obstacle.CLIENTS)

    async def _take(self, upstreams: Sequence[Upstream], patience: float) -> list[Lease]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while not (leases := self._take_all(upstreams)):
            if loop.time() >= deadline:
                return []
            await asyncio.sleep(LOOK_EVERY)
        return leases

    def _take_all(self, upstreams: Sequence[Upstream]) -> list[Lease]:
        """One slot of each, or none at all: all of them are idle now, and nobody waits.

        None either where a client that comes meanwhile could not wait, but would be refused or sent elsewhere at a
        cost.
        """
        offered = set(self._leases.upstreams)
        if not self._leases.queue_limit or any(upstream.overflow for upstream in offered):
            return []
        if self._leases.queued or any(one not in offered or self._leases.leased(one) for one in upstreams):
            return []
        try:
            taken = [self._leases.take(offered - {upstream}) for upstream in upstreams]
        except InstanceError:  # nothing is leased now, so the first was refused already
            return []
        return [lease for lease in taken if lease is not None]

    async def _generate(self, leases: Iterable[Lease], path: str, body: Any) -> Run | NotMeasured:
        loop = asyncio.get_running_loop()
        began = loop.time()
        streams: dict[asyncio.Task[int], Lease] = {}
        try:
            async with asyncio.TaskGroup() as tasks:
                for lease in leases:
                    lease.streaming = True
                    streams[tasks.create_task(self._stream(lease.upstream, path, body))] = lease
                undisturbed = await self._undisturbed(streams)
        finally:
            for stream, lease in streams.items():
                if stream.cancelled() or not stream.result():
                    lease.abandon()
                else:
                    lease.release()
        if not undisturbed:
            return NotMeasured(obstacle=Obstacle.CLIENTS)
        silent = [lease.upstream.instance for stream, lease in streams.items() if not stream.result()]
        if silent:
            return NotMeasured(obstacle=Obstacle.ENGINE, sentence=f"instance {silent[0]} did not generate")
        return Run(tokens=sum(stream.result() for stream in streams), seconds=loop.time() - began)

    async def _undisturbed(self, streams: Iterable[asyncio.Task[int]]) -> bool:
        """True once all have ended; False, with all of them cancelled, as soon as a client waits, or everything is to
        stop.
        """
        while running := [stream for stream in streams if not stream.done()]:
            await asyncio.wait(running, timeout=LOOK_EVERY)
            wanted = self._leases.queued or self._leases.refusing
            if wanted and not all(stream.done() for stream in running):
                for stream in running:
                    stream.cancel()
                return False
        return True

    async def _stream(self, upstream: Upstream, path: str, body: Any) -> int:
        """Tokens; 0: it did not generate."""
        count = Count()
        async for line in self._probe.lines(upstream, path, body, LONGEST):
            count.read(line)
        return count.tokens
