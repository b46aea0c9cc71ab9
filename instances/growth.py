"""How many instances: as many as the user said, or one more for as long as it is predicted to fit."""

import logging
from collections.abc import Sequence

from slotproxy.instances import memory, planner
from slotproxy.instances.instance import Instance
from slotproxy.instances.lifecycle import State
from slotproxy.instances.planner import Decision
from slotproxy.instances.settings import SupplySettings

logger = logging.getLogger(__name__)


class Growth:
    """Decides before each instance whether it is to be started; keeps its decisions."""

    def __init__(self, settings: SupplySettings) -> None:
        self.total = memory.effective_total()
        self.decisions: list[Decision] = []
        self.reconfigure(settings)

    def reconfigure(self, settings: SupplySettings) -> None:
        """From now on by these settings."""
        self._settings = settings
        self.limit = settings.memory_limit.within(self.total.size)  # bytes

    def another(self, instances: Sequence[Instance]) -> bool:
        """Whether one more is to be started after `instances`."""
        if self._settings.instances is not None:
            return len(instances) < self._settings.instances
        if not instances:
            return True
        if instances[-1].standing.state is not State.READY:
            return False
        decision = self._decide(instances, most=self._settings.max_instances)
        self.decisions.append(decision)
        logger.info("%s", decision.sentence)
        return decision.start

    def room(self, instances: Sequence[Instance]) -> Decision:
        """Whether one more than was planned would fit into memory: somebody asked for it."""
        return self._decide(instances, most=len(instances) + 1)

    def used(self, instances: Sequence[Instance]) -> int:
        """Bytes they cost together."""
        return sum(reading.pss for instance in instances if (reading := instance.memory) is not None)

    def _decide(self, instances: Sequence[Instance], *, most: int) -> Decision:
        """What the instances cost at their warm-up generation tells what one more will."""
        readings = [reading for instance in instances if (reading := instance.at_warm_up) is not None]
        return planner.admit(
            running=len(instances),
            max_instances=most,
            used=self.used(instances),
            next_cost=max((reading.private for reading in readings), default=0),
            limit=self.limit,
            available=memory.available(),
        )
