"""The upstreams of one proxy, by what the user said of them: a configuration that is read again changes only some."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence

from slotproxy.instances.remotes.endpoint import upstream_of
from slotproxy.instances.remotes.remote import Remote
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.settings import UpstreamSpec
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.snapshot import OnTransition

Plan = Mapping[UpstreamSpec, Remote]


class Remotes:
    """Iterates over those that are here."""

    def __init__(self, leases: Leases, probe: Probe, on_transition: OnTransition) -> None:
        self._leases = leases
        self._probe = probe
        self._on_transition = on_transition
        self._here: dict[UpstreamSpec, Remote] = {}

    def __iter__(self) -> Iterator[Remote]:
        return iter(tuple(self._here.values()))

    def __bool__(self) -> bool:
        return bool(self._here)

    def plan(self, specs: Sequence[UpstreamSpec], environ: Mapping[str, str]) -> Plan:
        """Those that `specs` name: the ones that are here already, and new ones. Raises ConfigurationError."""
        used = {remote.id for remote in self}
        free = (name for number in range(len(used) + len(specs)) if (name := f"u{number}") not in used)
        return {
            spec: self._here.get(spec)
            or Remote(upstream_of(next(free), spec, environ), self._leases, self._probe, self._on_transition)
            for spec in specs
        }

    def adopt(self, plan: Plan, tasks: asyncio.TaskGroup) -> None:
        """From now on those of `plan`: new ones are polled in `tasks`, what is not among them gets no more requests."""
        for spec in self._here.keys() - plan.keys():
            self._here.pop(spec).stop()
        for spec, remote in plan.items():
            if spec not in self._here:
                self._here[spec] = remote
                tasks.create_task(remote.run())
