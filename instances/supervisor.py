"""Starts the planned instances one after another, keeps them running, stops them all.

It also owns what requests leave behind: slots whose engine may still be working, upstreams a request found wanting.
"""

import asyncio
import itertools
import logging
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from slotproxy.instances import launch, memory, model, planner, records
from slotproxy.instances.backoff import Backoff
from slotproxy.instances.errors import (
    ConfigurationError,
    InstanceError,
    ModelError,
    NoInstances,
    ShuttingDown,
    StartupError,
)
from slotproxy.instances.failures import Cause, Failure
from slotproxy.instances.instance import Instance
from slotproxy.instances.launch import Launch
from slotproxy.instances.leases import Lease, Leases
from slotproxy.instances.lifecycle import State
from slotproxy.instances.locks import FileLock, LockHeld
from slotproxy.instances.planner import Decision
from slotproxy.instances.probe import Probe
from slotproxy.instances.remote import Remote, upstream_of
from slotproxy.instances.settings import SupplySettings
from slotproxy.instances.snapshot import OnTransition, Snapshot, Transition
from slotproxy.instances.upstream import Upstream

logger = logging.getLogger(__name__)

MEASURE_EVERY = 2.0  # seconds between readings of the instances' memory
DOUBT = 5.0  # seconds a living engine may fail to answer its readiness request after a request failed
ANOTHER_MAY_WORK = frozenset({Cause.LOCK_HELD, Cause.PORT_TAKEN})  # reasons that concern one instance only


class Supervisor:
    """Owner of every upstream in `leases`. Sets `leases.owner` to itself.

    Order of calls: `await prepare()` once (raises before anything is spawned), `run()` as a task that ends when `stop` has
    finished or nothing could be started, `drain()` and `stop()` from the signal handling.
    """

    def __init__(
        self,
        settings: SupplySettings,
        leases: Leases,
        *,
        on_transition: OnTransition | None = None,
        backoff: Backoff = Backoff(),  # noqa: B008  a frozen value
    ) -> None:
        self._settings = settings
        self._leases = leases
        self._told = on_transition
        self._backoff = backoff
        self._probe = Probe()
        self._launch: Launch | None = None
        self._lock: FileLock | None = None
        self._upstreams: tuple[Upstream, ...] = ()
        self._total = memory.effective_total()
        self._instances: list[Instance] = []
        self._remotes: list[Remote] = []
        self._decisions: list[Decision] = []
        self._doubted: set[Upstream] = set()
        self._tasks: asyncio.TaskGroup | None = None
        self._prepared = False
        self._settled = False
        self._hopeless: str | None = None
        self._ever_ready = False
        self._fatal: InstanceError | None = None
        self._stopping = asyncio.Event()
        self._finished = asyncio.Event()
        self._finished.set()

    # Start

    async def prepare(self) -> None:
        """Check everything that can be checked without an engine, take the state directory's lock, end leftovers.

        Raises ConfigurationError or ModelError (exit code 2), StartupError (exit code 1).
        """
        settings = self._settings
        self._upstreams = tuple(
            upstream_of(f"u{number}", spec, os.environ) for number, spec in enumerate(settings.upstreams)
        )
        if settings.model is not None:
            self._launch = await self._plan_launch(settings.model)
        elif not self._upstreams:
            raise ConfigurationError("there is nothing to serve: give --model or --upstream")
        self._lock = _occupy(settings.state_dir)
        await records.end_leftovers(self._instances_dir)
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
            self._leases.owner = self
            async with self._probe, asyncio.TaskGroup() as self._tasks:
                self._begin(self._tasks)
                await self._stopping.wait()
        finally:
            self._tasks = None
            self._release()
            self._finished.set()
        if self._fatal is not None:
            raise self._fatal

    async def drain(self) -> bool:
        """Refuse new leases and wait for those that are out, at most `drain_timeout`; whether none is left."""
        self._leases.refuse(lambda: ShuttingDown("the proxy is shutting down"))
        upstreams = [instance.upstream for instance in self._instances] + [remote.upstream for remote in self._remotes]
        for instance in self._instances:
            instance.drain()
        try:
            async with asyncio.timeout(self._settings.drain_timeout):
                for upstream in upstreams:
                    if upstream is not None:
                        self._leases.withdraw(upstream)
                        await self._leases.drained(upstream)
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """End every engine by its stop plan, in parallel; afterwards no process, lock or instance.json of ours is left."""
        self._leases.refuse(lambda: ShuttingDown("the proxy is shutting down"))
        self._end()
        await self._finished.wait()
        self._release()

    def _begin(self, tasks: asyncio.TaskGroup) -> None:
        for upstream in self._upstreams:
            remote = Remote(upstream, self._leases, self._probe, self._on_transition)
            self._remotes.append(remote)
            tasks.create_task(remote.run())
        if self._launch is None:
            self._settled = True
        else:
            tasks.create_task(self._populate(self._launch, tasks))
            tasks.create_task(self._measure())

    def _end(self) -> None:
        self._stopping.set()
        for member in (*self._instances, *self._remotes):
            member.stop()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # What it shows

    def snapshot(self) -> Snapshot:
        """As of now; memory as of the last reading."""
        members = (*self._instances, *self._remotes)
        return Snapshot(
            members=tuple(member.member() for member in members),
            memory_used=self._used(),
            memory_limit=self._limit(),
            memory_source=self._total.source,
            decisions=tuple(self._decisions),
            models=next((member.models for member in members if member.models), ()),
            settled=self._settled,
            hopeless=self._hopeless,
        )

    # What requests tell

    def abandoned(self, lease: Lease) -> None:
        """The slot comes back once the engine is idle. Of an upstream's requests nothing is known: at once."""
        instance = self._instance_of(lease.upstream)
        if instance is None or not self._own(self._give_back(instance, lease)):
            lease.release()

    def failed(self, upstream: Upstream, reason: str) -> None:
        """`hang` restarts the instance; anything else withdraws it until it is known to be alive."""
        instance = self._instance_of(upstream)
        if instance is None:
            for remote in self._remotes:
                if remote.upstream is upstream:
                    remote.doubt()
        elif reason == "hang":
            instance.restart(Failure(cause=Cause.HANG, sentence="the engine gave no answer in time"))
        elif upstream not in self._doubted:
            self._leases.withdraw(upstream)
            self._doubted.add(upstream)
            self._own(self._reconsider(instance, upstream))

    async def _give_back(self, instance: Instance, lease: Lease) -> None:
        try:
            if not await self._unless_gone(instance, lease.upstream, instance.idle(lease.upstream, streamed=lease.streaming)):
                sentence = "the engine went on with an abandoned request for too long"
                instance.restart(Failure(cause=Cause.BUSY, sentence=sentence))
        finally:
            lease.release()

    async def _reconsider(self, instance: Instance, upstream: Upstream) -> None:
        """Offer it again as soon as it answers; its end is the business of its own task."""
        try:
            if not await self._unless_gone(instance, upstream, self._answers(instance, upstream)):
                instance.restart(Failure(cause=Cause.HANG, sentence="the engine lives but does not answer"))
            elif instance.upstream is upstream and instance.standing.state is State.READY:
                self._leases.add(upstream)
        finally:
            self._doubted.discard(upstream)

    async def _answers(self, instance: Instance, upstream: Upstream) -> bool:
        await asyncio.sleep(0.1)  # a process that just died is not reaped yet: its listener may linger
        for _ in range(int(DOUBT / 0.5)):
            if await instance.answers(upstream):
                return True
            await asyncio.sleep(0.5)
        return False

    async def _unless_gone(self, instance: Instance, upstream: Upstream, question: Coroutine[Any, Any, bool]) -> bool:
        """The answer to `question`, or True as soon as the engine is gone: then nothing needs to be done to it."""
        async with asyncio.TaskGroup() as race:
            asked = race.create_task(question)
            gone = race.create_task(instance.gone(upstream))
            await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
            answer = asked.result() if asked.done() else True
            asked.cancel()
            gone.cancel()
        return answer

    def _own(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do `work` in the background; False when we are not running."""
        if self._tasks is None:
            work.close()
            return False
        self._tasks.create_task(work)
        return True

    def _instance_of(self, upstream: Upstream) -> Instance | None:
        return next((instance for instance in self._instances if instance.upstream is upstream), None)

    # Planning

    async def _plan_launch(self, path: Path) -> Launch:
        settings = self._settings
        facts = model.check(path)
        profile = launch.choose(settings.engine, facts, settings.engine_bin)
        program = launch.program(profile, settings.engine_bin)
        return Launch(
            profile=profile,
            program=program,
            model=facts.path.absolute(),
            name=facts.name,
            ctx=settings.ctx_size or profile.ctx,
            threads=self._threads(),
            extra_args=settings.engine_args,
            help_text=await launch.help_text(profile, program),
        )

    def _threads(self) -> int:
        """Of each engine, so that all of them together have no more than there are cores."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        expected = self._settings.instances or min(self._settings.max_instances, max(2, cores // 2))
        return max(1, cores // expected)

    async def _populate(self, plan: Launch, tasks: asyncio.TaskGroup) -> None:
        """One after another, so that memory can be judged between; the first serves while the next starts."""
        for number in itertools.count():
            if self._stopping.is_set() or not self._wants(number):
                break
            instance = self._new_instance(number, plan)
            tasks.create_task(instance.run())
            state = await instance.first_outcome()
            if state is State.FAILED and self._is_the_end(instance, number):
                self._give_up(instance)
                return
        self._settled = True
        self._judge()
        ready = sum(instance.standing.state is State.READY for instance in self._instances)
        logger.info("%d of %d instances ready; %s of memory in use", ready, len(self._instances), _size(self._used()))

    def _wants(self, number: int) -> bool:
        """Whether an instance of this number is to be started after those before it."""
        if self._settings.instances is not None:
            return number < self._settings.instances
        if number == 0:
            return True
        if self._instances[-1].standing.state is not State.READY:
            return False
        decision = self._decide()
        self._decisions.append(decision)
        logger.info("%s", decision.sentence)
        return decision.start

    def _decide(self) -> Decision:
        """What the instances cost at their warm-up generation tells what one more will."""
        readings = [reading for instance in self._instances if (reading := instance.at_warm_up) is not None]
        return planner.admit(
            running=len(self._instances),
            max_instances=self._settings.max_instances,
            used=self._used(),
            next_cost=max((reading.private for reading in readings), default=0),
            limit=self._limit(),
            available=memory.available(),
        )

    def _new_instance(self, number: int, plan: Launch) -> Instance:
        directory = self._instances_dir / str(number)
        instance = Instance(str(number), plan, directory, self._leases, self._probe, self._on_transition, self._backoff)
        self._instances.append(instance)
        return instance

    def _is_the_end(self, instance: Instance, number: int) -> bool:
        """Nothing has ever served, nothing else is there to serve, and the next one would fail in the same way."""
        failure = instance.standing.failure
        wanted = self._settings.instances or 1
        another = failure is not None and failure.cause in ANOTHER_MAY_WORK and number + 1 < wanted
        return not (self._ever_ready or self._upstreams or another)

    def _give_up(self, instance: Instance) -> None:
        failure = instance.standing.failure
        kind = ModelError if failure is not None and failure.cause is Cause.MODEL else StartupError
        log = instance.directory / "engine.log"
        self._fatal = kind(f"no instance could be started: {instance.standing.reason} (the engine's log is {log})")
        self._hopeless = str(self._fatal)
        self._end()

    def _on_transition(self, transition: Transition) -> None:
        self._ever_ready = self._ever_ready or transition.after is State.READY
        if self._told is not None:
            self._told(transition)
        if transition.after in {State.FAILED, State.STARTING, State.READY}:
            self._judge()

    def _judge(self) -> None:
        """Refuse requests for as long as nothing can ever serve them."""
        if self._stopping.is_set():
            return
        hopeless = self._settled and not self._upstreams
        hopeless = hopeless and all(instance.standing.state is State.FAILED for instance in self._instances)
        if hopeless and self._hopeless is None:
            sentence = self._hopeless = f"every instance has failed: {self._instances[-1].standing.reason}"
            logger.error("%s", sentence)
            self._leases.refuse(lambda: NoInstances(sentence))
        elif not hopeless and self._hopeless is not None:
            self._hopeless = None
            self._leases.accept()

    # Memory

    async def _measure(self) -> None:
        """Keep the readings fresh, one after another: each takes the kernel a walk through the engine's page tables."""
        while not self._stopping.is_set():
            for instance in list(self._instances):
                await instance.measure()
            try:
                async with asyncio.timeout(MEASURE_EVERY):
                    await self._stopping.wait()
            except TimeoutError:
                pass

    def _used(self) -> int:
        return sum(reading.pss for instance in self._instances if (reading := instance.member().memory) is not None)

    def _limit(self) -> int:
        return self._settings.memory_limit.within(self._total.size)

    @property
    def _instances_dir(self) -> Path:
        return self._settings.state_dir / "instances"

    def _introduce(self, plan: Launch) -> None:
        settings = self._settings
        logger.info("model %s, engine %s, %d tokens of context and %d threads for each instance",
                    plan.name, plan.profile.name, plan.ctx, plan.threads)  # fmt: skip
        logger.info("memory limit %s of %s (%s)", _size(self._limit()), _size(self._total.size), self._total.source)
        if settings.instances is not None and settings.instances > settings.max_instances:
            logger.warning("%d instances are asked for, more than --max-instances %d", settings.instances, settings.max_instances)


def _occupy(state_dir: Path) -> FileLock:
    """One proxy per state directory. Raises StartupError, ConfigurationError."""
    try:
        (state_dir / "instances").mkdir(mode=0o700, parents=True, exist_ok=True)
        for private in (state_dir, state_dir / "instances"):
            private.chmod(0o700)
        return FileLock.take(state_dir / "slotproxy.lock")
    except LockHeld as error:
        raise StartupError(
            f"the state directory {state_dir} is already used by {error.holder}; stop it or choose another --state-dir"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"the state directory {state_dir} cannot be used ({error.strerror}); choose another --state-dir"
        ) from None


def _size(amount: int) -> str:
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:.0f} MiB"
