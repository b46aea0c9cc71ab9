"""The supply side as one: starts what is planned, changes it while it runs, stops it all."""

import asyncio
import logging
import os
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from slotproxy.instances.aftercare import Aftercare
from slotproxy.instances.conversations.affinity import Affinity
from slotproxy.instances.conversations.savings import Savings
from slotproxy.instances.conversations.turns import Turns
from slotproxy.instances.errors import (
    ConfigurationError,
    OperationRefused,
    ShuttingDown,
)
from slotproxy.instances.lifecycle import State
from slotproxy.instances.models import model
from slotproxy.instances.operator import Operator
from slotproxy.instances.processes.guardian import Guardian
from slotproxy.instances.processes.statedir import StateDir
from slotproxy.instances.profiles import launch, selection
from slotproxy.instances.profiles.launch import STORE, Launch
from slotproxy.instances.readiness import Readiness
from slotproxy.instances.remotes.remote import Planned, Remote, Remotes
from slotproxy.instances.running.backoff import Backoff
from slotproxy.instances.running.fleet import Fleet
from slotproxy.instances.running.instance import Instance
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.running.watchdog import Watchdog
from slotproxy.instances.scaling.governor import Governor
from slotproxy.instances.settings import SupplySettings
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.slots.routing import least_busy
from slotproxy.instances.snapshot import OnTransition, Snapshot, Transition
from slotproxy.instances.wording import size

logger = logging.getLogger(__name__)


class Supervisor:
    """Feeds `leases` with upstreams.

    Order of calls: `await prepare()` once (raises before anything is spawned), `run()` as a task that ends when `stop`
    has finished or nothing could be started, `drain()` and `stop()` from the signal handling.
    """

    def __init__(
        self,
        settings: SupplySettings,
        leases: Leases,
        *,
        on_transition: OnTransition = lambda transition: None,
        backoff: Backoff | None = None,
    ) -> None:
        self._settings = settings
        self._leases = leases
        self._report = on_transition
        self._state_dir = StateDir(settings.state_dir)
        self._probe = Probe()
        self._guardian = Guardian()
        self._affinity = Affinity(least_busy, shares=settings.kv_share)
        folder = settings.state_dir / STORE
        self._savings = Savings(self._probe, folder, settings.state_dir, self._affinity.holdings.discard)
        self._turns = Turns(self._affinity, leases, self._savings)
        self._fleet = Fleet(
            leases,
            self._probe,
            self._guardian,
            self._state_dir.instance,
            self._on_transition,
            backoff or Backoff(),
            self._turns,
        )
        self._decide_by_affinity(settings)
        self._governor = Governor(settings, self._fleet, leases, self._probe, lambda: self._savings.memory)
        self.operator = Operator(self, self._fleet, self._governor)
        self._tasks: asyncio.TaskGroup | None = None  # while it runs
        self._aftercare: Aftercare | None = None
        self._launch: Launch | None = None
        self._remotes = Remotes(leases, self._probe, self._on_transition)
        self._planned: Planned = {}  # of the first start
        self._readiness = Readiness(self._fleet, leases, lambda: bool(self._remotes))
        self._prepared = False
        self._stopping = asyncio.Event()
        self._finished = asyncio.Event()
        self._finished.set()

    async def prepare(self) -> None:
        """Check everything that can be checked without an engine, take the state directory, end leftovers.

        Raises ConfigurationError or ModelError (exit code 2), StartupError (exit code 1).
        """
        self._launch, self._planned = await self._plan(self._settings)
        await self._state_dir.occupy()
        self._prepared = True
        if self._launch is not None:
            self._log_what_runs(self._launch)

    async def run(self) -> None:
        """Start and keep instances until `stop`. Calls `prepare` if nobody did.

        Raises StartupError or ModelError when no instance could be started. Cancelling it kills every engine at once.
        """
        self._finished.clear()
        try:
            if not self._prepared:
                await self.prepare()
            if not self._stopping.is_set():
                await self._open_savings()
                await self._supply()
        finally:
            await self._savings.close(keep=self._settings.kv_keep)
            self._state_dir.leave()
            self._finished.set()
        if self._readiness.fatal is not None:
            raise self._readiness.fatal

    async def drain(self) -> bool:
        """Refuse new leases and wait for those that are out, at most `drain_timeout`; whether none is left."""
        self._leases.refuse(lambda: ShuttingDown("the proxy is shutting down"))
        for instance in self._fleet.instances:
            instance.drain()
        upstreams = [member.upstream for member in self._members() if member.upstream is not None]
        try:
            async with asyncio.timeout(self._settings.drain_timeout):
                for upstream in upstreams:
                    self._leases.withdraw(upstream)
                    await self._leases.drained(upstream)
                    if self._settings.kv_keep:
                        await self._turns.leaving(upstream)
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """End every engine by its stop plan, in parallel; afterwards no process, lock or instance.json is left."""
        self._leases.refuse(lambda: ShuttingDown("the proxy is shutting down"))
        self._end()
        await self._finished.wait()
        self._state_dir.leave()

    def snapshot(self) -> Snapshot:
        """As of now; memory as of the last reading."""
        members = self._members()
        return Snapshot(
            members=tuple(member.member() for member in members),
            memory_used=self._governor.monitor.used,
            memory_limit=self._governor.monitor.limit,
            memory_source=self._governor.monitor.total.source,
            memory_pressure=self._governor.monitor.pressure.stalled,
            memory_metric=self._governor.monitor.machine.metric,
            decisions=tuple(self._governor.growth.decisions),
            decision_counts=self._governor.growth.counts,
            models=next((member.models for member in members if member.models), ()),
            settled=self._readiness.settled,
            hopeless=self._readiness.hopeless,
            pool=self._leases.statistics,
        )

    def _decide_by_affinity(self, settings: SupplySettings) -> None:
        self._affinity.index.shares = settings.kv_share
        self._leases.decide_by(self._affinity if settings.affinity else None)

    def _members(self) -> tuple[Instance | Remote, ...]:
        return (*self._fleet.instances, *self._remotes)

    # What operator.Supply asks for

    @property
    def patience(self) -> float:
        return self._settings.drain_timeout

    @property
    def starts_engines(self) -> bool:
        return self._launch is not None

    @property
    def has_upstreams(self) -> bool:
        return bool(self._remotes)

    def start(self) -> Instance:
        """Start one more instance. Only while it runs, and where engines are started at all."""
        assert self._tasks is not None
        assert self._launch is not None
        return self._fleet.add(self._launch, self._tasks)

    def begin(self, operation: Coroutine[Any, Any, object]) -> None:
        """Let it run beside everything else; the end of the proxy ends it. Raises OperationRefused at that end."""
        if self._tasks is None or self._stopping.is_set():
            operation.close()
            raise OperationRefused("the proxy is stopping")
        self._tasks.create_task(self._until_stopped(operation))

    # A configuration that was read again

    async def reconfigure(self, settings: SupplySettings) -> None:
        """From now on by these settings; what they do not concern goes on undisturbed.

        The state directory stays. Returns when the change has begun. Raises ConfigurationError; then nothing changed.
        """
        if self._tasks is None:
            raise OperationRefused("it is not running")
        planned, servers = await self._plan(settings)
        wanted, before = self._with_store(planned), self._launch
        if wanted is not None and before is not None and replace(wanted, threads=before.threads) == before:
            wanted = before  # how many threads an engine gets is no reason to restart it
        self._launch = wanted
        self._settings = settings
        self._decide_by_affinity(settings)
        self._governor.reconfigure(settings, self._launch)
        self._remotes.adopt(servers, self._tasks)
        self.begin(self._adapt(changed=wanted != before))

    async def _until_stopped(self, operation: Coroutine[Any, Any, object]) -> None:
        async with asyncio.TaskGroup() as race:
            task, stopped = race.create_task(operation), race.create_task(self._stopping.wait())
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            task.cancel()
            stopped.cancel()

    async def _adapt(self, *, changed: bool) -> None:
        """The number of instances, and then each of them, to what is wanted now."""
        patience, wanted = self._settings.drain_timeout, self._launch
        most = self._settings.max_instances if self._settings.instances is None else self._settings.instances
        self._fleet.ceiling = None
        surplus = self._fleet.staying[0 if wanted is None else most :]
        async with asyncio.TaskGroup() as leaving:
            for instance in surplus:
                leaving.create_task(self._fleet.remove(instance, patience))
            if wanted is not None and (not changed or await self._restart_all(wanted)):
                await self._populate()

    async def _restart_all(self, wanted: Launch) -> bool:
        """Whether each became ready again."""
        return await self._fleet.restart_in_turn(self._fleet.staying, self._settings.drain_timeout, wanted)

    # Running

    async def _supply(self) -> None:
        async with self._probe, self._guardian, asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._turns.run_in(tasks)
            self._leases.owner = self._aftercare = Aftercare(self._leases, self._members, tasks, self._turns)
            self._governor.govern(self._launch, tasks, self._start_failed)
            self._remotes.adopt(self._planned, tasks)
            work = [self._governor.watch(), Watchdog(self._fleet).run()]
            for coroutine in work if self._launch is None else [*work, self._populate()]:
                tasks.create_task(self._until_stopped(coroutine))
            self._readiness.settled = self._launch is None
            await self._stopping.wait()

    async def _open_savings(self) -> None:
        """What an earlier proxy kept is known from the start."""
        settings, launch = self._settings, self._launch
        if settings.affinity and launch is not None and launch.profile.kv.how == "slots":
            for saved in await self._savings.open(settings.kv_store_limit, keep=settings.kv_keep):
                self._turns.recall(saved)
        self._launch = self._with_store(launch)

    def _with_store(self, launch: Launch | None) -> Launch | None:
        """Engines are not told of a folder in which nothing is saved: it may not even be there."""
        return None if launch is None else replace(launch, has_store=self._savings.is_open)

    async def _populate(self) -> None:
        """One after another, so that memory can be judged between; the first serves while the next starts."""
        async with self._fleet.changing:
            if self._settings.instances is None:
                await self._governor.climb()
            else:
                await self._start(self._settings.instances)
        if not self._stopping.is_set():
            self._settle()

    async def _start(self, wanted: int) -> None:
        """So many as the user said, whatever they cost."""
        while len(self._fleet.staying) < wanted and self._launch is not None and not self._stopping.is_set():
            instance = self.start()
            if await instance.outcome() is State.FAILED:
                self._start_failed(instance)

    def _start_failed(self, instance: Instance) -> None:
        if self._readiness.start_failed(instance, self._settings.instances or 1):
            self._end()

    def _end(self) -> None:
        self._stopping.set()
        self._readiness.close()
        if self._aftercare is not None:
            self._aftercare.close()
        for member in self._members():
            member.stop()

    def _settle(self) -> None:
        self._readiness.settle()
        instances = self._fleet.instances
        ready = sum(instance.status.state is State.READY for instance in instances)
        used = size(self._governor.monitor.used)
        logger.info("%d of %d instances ready; %s of memory in use", ready, len(instances), used)

    def _on_transition(self, transition: Transition) -> None:
        self._report(transition)
        self._readiness.stepped(transition)

    # Planning

    async def _plan(self, settings: SupplySettings) -> tuple[Launch | None, Planned]:
        """What `settings` ask for. Raises ConfigurationError or ModelError."""
        if settings.model is None and not settings.upstreams:
            raise ConfigurationError("there is nothing to serve; give --model or --upstream")
        servers = self._remotes.plan(settings.upstreams, os.environ)
        return None if settings.model is None else await self._plan_launch(settings, settings.model), servers

    async def _plan_launch(self, settings: SupplySettings, path: Path) -> Launch:
        facts = await asyncio.to_thread(model.check, path, names=selection.takes_names(settings.engine))
        return await launch.prepare(settings, facts)

    def _log_what_runs(self, chosen: Launch) -> None:
        profile, settings = chosen.profile, self._settings
        context = f"{chosen.ctx} tokens of context for each instance" if profile.takes_ctx else "context without limit"
        logger.info("model %s, engine %s, %s", chosen.name, profile.name, context)
        self._governor.log_limit()
        for sentence in selection.cautions(profile, instances=settings.instances, ctx_size=settings.ctx_size):
            logger.warning("%s", sentence)
