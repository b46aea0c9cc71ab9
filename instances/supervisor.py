"""Starts the planned instances one after another, keeps them running, stops them all."""

import asyncio
import logging
import os
from pathlib import Path

from slotproxy.instances import launch, model
from slotproxy.instances.aftercare import Aftercare
from slotproxy.instances.backoff import Backoff
from slotproxy.instances.errors import (
    ConfigurationError,
    InstanceError,
    ModelError,
    NoInstances,
    ShuttingDown,
    StartupError,
)
from slotproxy.instances.failures import Cause
from slotproxy.instances.growth import Growth
from slotproxy.instances.instance import Instance
from slotproxy.instances.launch import Launch
from slotproxy.instances.leases import Leases
from slotproxy.instances.lifecycle import State
from slotproxy.instances.planner import size
from slotproxy.instances.probe import Probe
from slotproxy.instances.remote import Remote, upstream_of
from slotproxy.instances.settings import SupplySettings
from slotproxy.instances.snapshot import OnTransition, Snapshot, Transition
from slotproxy.instances.statedir import StateDir
from slotproxy.instances.upstream import Upstream

logger = logging.getLogger(__name__)

MEASURE_EVERY = 2.0  # seconds between readings of the instances' memory
ANOTHER_MAY_WORK = frozenset({Cause.LOCK_HELD, Cause.PORT_TAKEN})  # reasons that concern one instance only


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
        self._told = on_transition
        self._backoff = backoff or Backoff()
        self._state_dir = StateDir(settings.state_dir)
        self._growth = Growth(settings)
        self._probe = Probe()
        self._aftercare: Aftercare | None = None
        self._launch: Launch | None = None
        self._upstreams: tuple[Upstream, ...] = ()
        self._instances: list[Instance] = []
        self._remotes: list[Remote] = []
        self._prepared = False
        self._settled = False  # every planned instance was started or given up
        self._ever_ready = False
        self._hopeless: str | None = None
        self._fatal: InstanceError | None = None
        self._stopping = asyncio.Event()
        self._finished = asyncio.Event()
        self._finished.set()

    async def prepare(self) -> None:
        """Check everything that can be checked without an engine, take the state directory, end leftovers.

        Raises ConfigurationError or ModelError (exit code 2), StartupError (exit code 1).
        """
        settings = self._settings
        self._upstreams = tuple(upstream_of(f"u{i}", spec, os.environ) for i, spec in enumerate(settings.upstreams))
        if settings.model is not None:
            self._launch = await self._plan_launch(settings.model)
        elif not self._upstreams:
            raise ConfigurationError("there is nothing to serve; give --model or --upstream")
        await self._state_dir.occupy()
        self._prepared = True
        if self._launch is not None:
            self._introduce(self._launch)

    async def run(self) -> None:
        """Start and keep instances until `stop`. Calls `prepare` if nobody did.

        Raises StartupError or ModelError when no instance could be started. Cancelling it kills every engine at once.
        """
        self._finished.clear()
        try:
            if not self._prepared:
                await self.prepare()
            if not self._stopping.is_set():
                await self._supply()
        finally:
            self._state_dir.leave()
            self._finished.set()
        if self._fatal is not None:
            raise self._fatal

    async def drain(self) -> bool:
        """Refuse new leases and wait for those that are out, at most `drain_timeout`; whether none is left."""
        self._leases.refuse(lambda: ShuttingDown("the proxy is shutting down"))
        for instance in self._instances:
            instance.drain()
        upstreams = [member.upstream for member in self._members() if member.upstream is not None]
        try:
            async with asyncio.timeout(self._settings.drain_timeout):
                for upstream in upstreams:
                    self._leases.withdraw(upstream)
                    await self._leases.drained(upstream)
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
            memory_used=self._growth.used(self._instances),
            memory_limit=self._growth.limit,
            memory_source=self._growth.total.source,
            decisions=tuple(self._growth.decisions),
            models=next((member.models for member in members if member.models), ()),
            settled=self._settled,
            hopeless=self._hopeless,
        )

    def _members(self) -> tuple[Instance | Remote, ...]:
        return (*self._instances, *self._remotes)

    # Running

    async def _supply(self) -> None:
        async with self._probe, asyncio.TaskGroup() as tasks:
            self._leases.owner = self._aftercare = Aftercare(self._leases, self._members, tasks)
            for upstream in self._upstreams:
                remote = Remote(upstream, self._leases, self._probe, self._on_transition)
                self._remotes.append(remote)
                tasks.create_task(remote.run())
            if self._launch is not None:
                tasks.create_task(self._populate(self._launch, tasks))
                tasks.create_task(self._measure())
            self._settled = self._launch is None
            await self._stopping.wait()

    async def _populate(self, plan: Launch, tasks: asyncio.TaskGroup) -> None:
        """One after another, so that memory can be judged between; the first serves while the next starts."""
        while not self._stopping.is_set() and self._growth.another(self._instances):
            number = len(self._instances)
            instance = Instance(
                str(number),
                plan,
                self._state_dir.instance(number),
                self._leases,
                self._probe,
                self._on_transition,
                self._backoff,
            )
            self._instances.append(instance)
            tasks.create_task(instance.run())
            if await instance.first_outcome() is State.FAILED and self._is_the_end(instance):
                self._give_up(instance)
        if not self._stopping.is_set():
            self._settle()

    async def _measure(self) -> None:
        """Keep the readings fresh, one after another: each takes the kernel a walk through an engine's page tables."""
        while not self._stopping.is_set():
            for instance in list(self._instances):
                await instance.measure()
            try:
                async with asyncio.timeout(MEASURE_EVERY):
                    await self._stopping.wait()
            except TimeoutError:
                pass

    def _end(self) -> None:
        self._stopping.set()
        if self._aftercare is not None:
            self._aftercare.close()
        for member in self._members():
            member.stop()

    # Judging

    def _settle(self) -> None:
        self._settled = True
        self._judge()
        ready = sum(instance.standing.state is State.READY for instance in self._instances)
        used = size(self._growth.used(self._instances))
        logger.info("%d of %d instances ready; %s of memory in use", ready, len(self._instances), used)

    def _is_the_end(self, instance: Instance) -> bool:
        """Nothing has ever served, nothing else is there to serve, and the next one would fail in the same way."""
        failure = instance.standing.failure
        wanted = self._settings.instances or 1
        another = failure is not None and failure.cause in ANOTHER_MAY_WORK and len(self._instances) < wanted
        return not (self._ever_ready or self._upstreams or another)

    def _give_up(self, instance: Instance) -> None:
        failure = instance.standing.failure
        kind = ModelError if failure is not None and failure.cause is Cause.MODEL else StartupError
        log = instance.directory / "engine.log"
        self._fatal = kind(f"no instance could be started: {instance.standing.reason} (the engine's log is {log})")
        self._hopeless = str(self._fatal)
        self._end()

    def _on_transition(self, transition: Transition) -> None:
        self._told(transition)
        self._ever_ready = self._ever_ready or transition.after is State.READY
        if transition.after in {State.FAILED, State.STARTING}:
            self._judge()

    def _judge(self) -> None:
        """Refuse requests for as long as nothing can ever serve them."""
        if self._stopping.is_set() or not self._settled or self._upstreams:
            return
        hopeless = all(instance.standing.state is State.FAILED for instance in self._instances)
        if hopeless and self._hopeless is None:
            sentence = self._hopeless = f"every instance has failed: {self._instances[-1].standing.reason}"
            logger.error("%s", sentence)
            self._leases.refuse(lambda: NoInstances(sentence))
        elif not hopeless and self._hopeless is not None:
            self._hopeless = None
            self._leases.accept()

    # Planning

    async def _plan_launch(self, path: Path) -> Launch:
        settings = self._settings
        facts = await asyncio.to_thread(model.check, path)
        profile = launch.choose(settings.engine, facts, settings.engine_bin)
        program = launch.program(profile, settings.engine_bin)
        return Launch(
            profile=profile,
            program=program,
            model=facts.path.absolute(),
            name=facts.name,
            ctx=settings.ctx_size or profile.ctx,
            threads=self._growth.threads,
            extra_args=settings.engine_args,
            help_text=await launch.help_text(profile, program),
        )

    def _introduce(self, plan: Launch) -> None:
        settings, growth = self._settings, self._growth
        text = "model %s, engine %s, %d tokens of context for each instance"
        logger.info(text, plan.name, plan.profile.name, plan.ctx)
        logger.info("memory limit %s of %s (%s)", size(growth.limit), size(growth.total.size), growth.total.source)
        if settings.instances is not None and settings.instances > settings.max_instances:
            text = "starting %d instances as asked, more than --max-instances %d"
            logger.warning(text, settings.instances, settings.max_instances)
