"""Finds engines that neither crash nor fail a request: one that hangs with nobody asking, or with a prompt for which
--prefill-timeout allows half an hour.
"""

import asyncio
import logging
from dataclasses import dataclass

from slotproxy.instances.failures import Cause, Failure
from slotproxy.instances.lifecycle import State
from slotproxy.instances.running.fleet import Fleet
from slotproxy.instances.running.instance import Instance
from slotproxy.instances.upstream import Upstream

logger = logging.getLogger(__name__)

PERIOD = 5.0  # seconds between looks
SERVING = frozenset({State.READY, State.DRAINING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What an engine had done at one look."""

    output: int  # bytes of log so far
    cpu: float | None = None  # seconds of CPU time its processes have taken so far; None: nobody looked


@dataclass(frozen=True, slots=True, kw_only=True)
class Liveness:
    """One engine over time; time enters as a number. It is silent from one look to the next when it neither worked nor
    wrote nor answered.

    An engine that reads a long prompt answers no health check for minutes and is well: a refusal to answer alone proves
    nothing. One that stands still in every respect for `limit` seconds is hung.
    """

    limit: float  # seconds of silence that are too many; 0: any are allowed
    period: float  # seconds between looks
    last: Activity | None = None
    at: float = 0.0
    silence: float = 0.0  # seconds so far

    def moved(self, activity: Activity) -> bool:
        """Whether it worked or wrote since the last look; the first look has nothing to compare with."""
        if self.last is None or activity.output > self.last.output:
            return True
        return activity.cpu is not None and self.last.cpu is not None and activity.cpu > self.last.cpu

    def looked(self, now: float, activity: Activity, *, alive: bool) -> "Liveness":
        """After a look at `now`; `alive`: it had moved, or it answered.

        Of the time between two looks at most two periods count: more means that this process slept.
        """
        passed = min(now - self.at, 2 * self.period)
        silence = 0.0 if alive or self.last is None else self.silence + passed
        return Liveness(limit=self.limit, period=self.period, last=activity, at=now, silence=silence)

    @property
    def hung(self) -> bool:
        return 0 < self.limit <= self.silence


class Watchdog:
    """Restarts an instance whose engine stands still in every respect for as long as its profile allows."""

    def __init__(self, fleet: Fleet, period: float = PERIOD) -> None:
        self._fleet = fleet
        self._period = period
        self._watched: dict[Upstream, Liveness] = {}

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(self._period)
            async with asyncio.TaskGroup() as looks:
                for instance in self._fleet.instances:
                    looks.create_task(self._look(instance))
            here = {instance.upstream for instance in self._fleet.instances}
            self._watched = {upstream: seen for upstream, seen in self._watched.items() if upstream in here}

    async def _look(self, instance: Instance) -> None:
        upstream, limit = instance.upstream, instance.silence_limit
        if upstream is None or not limit or instance.status.state not in SERVING:
            return
        seen = self._watched.get(upstream) or Liveness(limit=limit, period=self._period)
        activity = Activity(output=instance.output)
        alive = seen.moved(activity) or await instance.answers(upstream)
        if not alive:  # it may be at work: to find out costs more
            activity = Activity(output=instance.output, cpu=await asyncio.to_thread(instance.cpu_time))
            alive = seen.moved(activity)
        if instance.upstream is not upstream:
            return
        seen = self._watched[upstream] = seen.looked(asyncio.get_running_loop().time(), activity, alive=alive)
        if seen.hung:
            sentence = f"the engine answered nothing, wrote nothing and took no CPU time for {seen.silence:.0f} s"
            logger.warning("instance %s: %s", instance.id, sentence)
            instance.restart(Failure(cause=Cause.HANG, sentence=sentence))
