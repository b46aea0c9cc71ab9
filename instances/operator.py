"""What an operator may ask of the instances while they serve: each request is checked at once, then carried out as a
task of its own.
"""

from collections.abc import Coroutine
from typing import Any, Protocol

from slotproxy.instances.errors import NoSuchInstance, OperationRefused
from slotproxy.instances.running.fleet import Fleet
from slotproxy.instances.running.instance import Instance
from slotproxy.instances.scaling.governor import Governor


class Supply(Protocol):
    """What the instances are part of."""

    @property
    def patience(self) -> float:
        """Seconds that requests in flight may take to end."""

    @property
    def starts_engines(self) -> bool:
        """Whether there is anything to start instances of."""

    @property
    def has_upstreams(self) -> bool:
        """Whether requests can be served elsewhere."""

    def start(self) -> Instance:
        """Start one more instance."""

    def begin(self, operation: Coroutine[Any, Any, object]) -> None:
        """Run it as a task. Raises OperationRefused when everything is being stopped."""


class Operator:
    """Carries out what is asked, if it can be done."""

    def __init__(self, supply: Supply, fleet: Fleet, governor: Governor) -> None:
        self._supply = supply
        self._fleet = fleet
        self._governor = governor

    def add(self) -> None:
        """Start one more instance. Raises OperationRefused, when it is predicted not to fit for example."""
        if not self._supply.starts_engines:
            raise OperationRefused("no engine is started here: there are only upstreams")
        if self._fleet.changing.locked():
            raise OperationRefused("instances are being started already; try again when they are ready")
        decision = self._governor.room()
        if not decision.start:
            raise OperationRefused(decision.sentence)
        self._supply.begin(self._add())

    def remove(self, name: str | None = None) -> str:
        """Remove an instance once its requests have ended, the newest one if none is named; its id.

        Raises NoSuchInstance, OperationRefused.
        """
        staying = self._fleet.staying
        instance = self._named(name) if name is not None else staying[-1] if staying else None
        if instance is None or instance not in staying:
            raise OperationRefused("it is being removed already" if name else "there is no instance to remove")
        if len(staying) == 1 and not self._supply.has_upstreams:
            raise OperationRefused("it is the last one; stop slotproxy instead")
        self._supply.begin(self._fleet.remove(instance, self._supply.patience))
        self._fleet.ceiling = len(staying) - 1
        return instance.id

    def restart(self, name: str | None = None) -> None:
        """Restart one instance once its requests have ended, or all of them in turn.

        Raises NoSuchInstance, OperationRefused.
        """
        some = self._fleet.staying if name is None else (self._named(name),)
        if not some:
            raise OperationRefused("there is no instance to restart")
        self._supply.begin(self._fleet.restart_in_turn(some, self._supply.patience))

    def log(self, name: str) -> tuple[str, ...]:
        """The last lines an engine wrote. Raises NoSuchInstance."""
        return self._named(name).last_lines

    def _named(self, name: str) -> Instance:
        instance = self._fleet.find(name)
        if instance is None:
            here = ", ".join(instance.id for instance in self._fleet.instances) or "none"
            raise NoSuchInstance(f"there is no instance {name!r}; there are {here}")
        return instance

    async def _add(self) -> None:
        async with self._fleet.changing:
            instance = self._supply.start()
            self._fleet.ceiling = len(self._fleet.staying)
            await instance.outcome()
