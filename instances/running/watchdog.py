"""Looks after engines that neither crash nor fail a request: one that hangs with nobody asking, or with a prompt for
which --prefill-timeout allows half an hour.
"""

import asyncio
import logging

from slotproxy.instances.failures import Cause, Failure
from slotproxy.instances.lifecycle import State
from slotproxy.instances.running.fleet import Fleet
from slotproxy.instances.running.instance import Instance
from slotproxy.instances.running.liveness import Vigil, Vital
from slotproxy.instances.upstream import Upstream

logger = logging.getLogger(__name__)

PERIOD = 5.0  # seconds between looks
SERVING = frozenset({State.READY, State.DRAINING})


class Watchdog:
    """Restarts an instance whose engine stands still in every respect for as long as its profile allows."""

    def __init__(self, fleet: Fleet, period: float = PERIOD) -> None:
        self._fleet = fleet
        self._period = period
        self._vigils: dict[Upstream, Vigil] = {}

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(self._period)
            async with asyncio.TaskGroup() as looks:
                for instance in self._fleet.instances:
                    looks.create_task(self._look(instance))
            here = {instance.upstream for instance in self._fleet.instances}
            self._vigils = {upstream: vigil for upstream, vigil in self._vigils.items() if upstream in here}

    async def _look(self, instance: Instance) -> None:
        upstream, limit = instance.upstream, instance.silence_limit
        if upstream is None or not limit or instance.standing.state not in SERVING:
            return
        vigil = self._vigils.get(upstream) or Vigil(limit=limit, period=self._period)
        vital = Vital(output=instance.output)
        alive = vigil.moved(vital) or await instance.answers(upstream)
        if not alive:  # it may be at work: to find out costs more
            vital = Vital(output=instance.output, cpu=await asyncio.to_thread(instance.cpu_time))
            alive = vigil.moved(vital)
        if instance.upstream is not upstream:
            return
        vigil = self._vigils[upstream] = vigil.looked(asyncio.get_running_loop().time(), vital, alive=alive)
        if vigil.hopeless:
            sentence = f"the engine answered nothing, wrote nothing and took no CPU time for {vigil.silence:.0f} s"
            logger.warning("instance %s: %s", instance.id, sentence)
            instance.restart(Failure(cause=Cause.HANG, sentence=sentence))
