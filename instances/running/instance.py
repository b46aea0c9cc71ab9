"""One engine after another, by the lifecycle table, until the instance is stopped.

Only its own task, `run`, starts and ends processes; everybody else gives it orders.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from slotproxy.instances.failures import PERMANENT, Cause, Failure
from slotproxy.instances.lifecycle import Event, State
from slotproxy.instances.processes.guardian import Guardian
from slotproxy.instances.profiles.launch import HOST, Launch
from slotproxy.instances.readings import Reading
from slotproxy.instances.running.backoff import Backoff, History
from slotproxy.instances.running.engine import Engine, EngineFailed, spawned
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.running.status import Status
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.snapshot import Kind, Member, OnTransition
from slotproxy.instances.upstream import Upstream

logger = logging.getLogger(__name__)

OTHER_PORTS = 3  # tries on another port before a taken one is a failure
EXIT_GRACE = 0.3  # seconds for an engine that misbehaves to exit by itself, and so to say why


class Company(Protocol):
    """Who is told when engines begin to serve and when they no longer do. Nothing raises."""

    async def joining(self, upstream: Upstream, launch: Launch, directory: Path) -> None:
        """The engine is ready, and nobody uses it before this returns. `directory` is its instance's."""

    async def leaving(self, upstream: Upstream) -> None:
        """It gets no more requests, has none, and is to be ended once this returns."""

    def left(self, upstream: Upstream) -> None:
        """It has ended."""


class Unaccompanied:
    """Nobody wants to know."""

    async def joining(self, upstream: Upstream, launch: Launch, directory: Path) -> None:
        pass

    async def leaving(self, upstream: Upstream) -> None:
        pass

    def left(self, upstream: Upstream) -> None:
        pass


class Instance:
    """Runs one engine. Others ask it to `stop`, `restart` or `drain`."""

    def __init__(
        self,
        name: str,
        launch: Launch,
        directory: Path,
        leases: Leases,
        probe: Probe,
        guardian: Guardian,
        on_transition: OnTransition,
        backoff: Backoff,
        company: Company | None = None,
    ) -> None:
        self.id = name
        self._company: Company = company or Unaccompanied()
        self.directory = directory
        self.status = Status(Kind.INSTANCE, name, on_transition)
        self._launch = launch
        self._leases = leases
        self._probe = probe
        self._guardian = guardian
        self._history = History(policy=backoff)
        self._loop = asyncio.get_running_loop()
        self._ready_at = 0.0  # when the engine became ready; 0: it did not yet
        self._engine: Engine | None = None
        self._last_engine: Engine | None = None  # also when it has ended
        self._port_tries = 0
        self._stopping = False
        self._ended = asyncio.Event()
        self._order: asyncio.Future[Failure | None] = self._loop.create_future()
        self._outcome: asyncio.Future[None] = self._loop.create_future()
        self._ever_decided = False  # it was ready once, or given up

    # What others see

    @property
    def upstream(self) -> Upstream | None:
        return None if self._engine is None else self._engine.upstream

    @property
    def last_lines(self) -> tuple[str, ...]:
        """What its engine, or the last one it had, wrote last."""
        return () if self._last_engine is None else self._last_engine.last_lines

    @property
    def output(self) -> int:
        """Bytes its engine has written to its log."""
        return 0 if self._engine is None else self._engine.output

    @property
    def silence_limit(self) -> float:
        """Seconds its engine may stand still in every respect; 0: any."""
        return self._launch.profile.watch.silence

    def cpu_time(self) -> float | None:
        """Seconds of CPU time that the engine's process tree has taken. Not for the event loop's thread."""
        engine = self._engine
        return None if engine is None else engine.process.cpu_time()

    @property
    def models(self) -> tuple[Mapping[str, Any], ...]:
        return () if self._engine is None else self._engine.models

    def member(self) -> Member:
        engine = self._engine
        return Member(
            id=self.id,
            kind=Kind.INSTANCE,
            state=self.status.state,
            pid=None if engine is None else engine.process.pid,
            host=HOST,
            port=0 if engine is None else engine.upstream.port,
            n_ctx=None if engine is None else engine.n_ctx,
            slots=1,
            leased=0 if engine is None else self._leases.leased(engine.upstream),
            memory=self.memory,
            restarts=self.status.restarts,
            reason=self.status.reason,
            since=self.status.since,
            offered=0 if engine is None else self._leases.offered(engine.upstream),
            stale=engine is not None and engine.stale,
        )

    @property
    def memory(self) -> Reading | None:
        """Memory as of the last reading."""
        return None if self._engine is None else self._engine.memory

    async def outcome(self) -> State:
        """What its start came to, or the restart that was asked for last: READY, FAILED or STOPPED."""
        await asyncio.shield(self._outcome)
        return self.status.state

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    async def ended(self) -> None:
        """Return once `run` has."""
        await self._ended.wait()

    async def gone(self, upstream: Upstream) -> None:
        """Return once the engine behind `upstream` is no more."""
        engine = self._engine
        if engine is not None and engine.upstream is upstream:
            await asyncio.shield(engine.process.exited)

    async def idle(self, upstream: Upstream, *, streamed: bool) -> bool:
        """Return once the engine has let go of an abandoned request; False when it did not in time."""
        engine = self._engine
        if engine is None or engine.upstream is not upstream:
            return True
        return await engine.idle(self._probe, streamed=streamed)

    async def answers(self, upstream: Upstream) -> bool:
        """Whether the engine answers its readiness request now."""
        engine = self._engine
        return engine is not None and engine.upstream is upstream and await engine.answers(self._probe)

    async def measure(self, read: Callable[[int], Reading | None]) -> None:
        """Read the memory of the engine's process tree again, by `read`, which may take long."""
        engine = self._engine
        if engine is not None and engine.memory is not None:
            engine.memory = await asyncio.to_thread(read, engine.process.pid) or engine.memory

    # What others ask

    def stop(self) -> None:
        """End the engine by its stop plan and stay stopped; `run` returns then."""
        self._stopping = True
        self._withdraw()
        self._order_end(None)

    def restart(self, failure: Failure, launch: Launch | None = None) -> None:
        """End the engine because of `failure` and start it again, by another `launch` if one is given.

        Brings back a failed instance, too, and one whose engine ended while it was draining.
        """
        self._launch = launch or self._launch
        self._withdraw()
        if self._outcome.done():
            self._outcome = self._loop.create_future()
        self._order_end(failure)

    def drain(self) -> None:
        """Take no new leases; an engine that ends from now on stays down until `restart`."""
        if self.status.state is State.READY:
            out = self._withdraw()
            self.status.step(Event.DRAIN, f"{out} in flight")

    # Its own task

    async def run(self) -> None:
        """One engine after another until `stop`. Cancelled, it kills the engine at once."""
        try:
            while not self._stopping:
                failure = await self._run_engine()
                if not self._stopping:
                    await (self._wait_for_order() if failure is None else self._wait_before_restart(failure))
            if self.status.state is not State.STOPPED:
                self.status.step(Event.STOP)
        finally:
            self._settle()
            self._ended.set()

    async def _run_engine(self) -> Failure | None:
        """One process from spawn to exit: the failure that ended it; None: it was ended on purpose."""
        self._order = self._loop.create_future()
        self._ready_at = 0.0
        self.status.step(Event.START)
        try:
            async with spawned(self.id, self._launch, self.directory, self._guardian) as engine:
                self._engine = self._last_engine = engine
                try:
                    return await self._bring_up_and_watch(engine)
                finally:
                    self._withdraw()  # also when this was cancelled: before the engine is gone
                    self._company.left(engine.upstream)
        except EngineFailed as failed:
            self.status.step(Event.EXITED, failed.failure.sentence)
            return failed.failure
        finally:
            self._engine = None

    async def _bring_up_and_watch(self, engine: Engine) -> Failure | None:
        """Bring the engine up and stay with it until it ends by itself, fails or somebody wants it ended."""
        failure = await self._until_ready(engine)
        if failure is None:
            await _first_of(engine.process.exited, self._order)
        elif not self._order.done():
            await asyncio.wait({engine.process.exited}, timeout=EXIT_GRACE)
        self._withdraw()
        if engine.process.exited.done():
            return await self._after_exit(engine, failure)
        if self._order.done():
            failure = self._order.result()
        self.status.step(Event.STOP, "" if failure is None else failure.sentence)
        ended = await engine.stop(hung=failure is not None and failure.cause is Cause.HANG)
        self.status.step(Event.EXITED, ended.sentence)
        return failure

    async def _until_ready(self, engine: Engine) -> Failure | None:
        """Return when it is ready, has failed to come up, has exited or is to be ended; the failure, if it failed."""
        async with asyncio.TaskGroup() as tasks:
            coming_up = tasks.create_task(self._bring_up(engine))
            await _first_of(coming_up, engine.process.exited, self._order)
            failure = coming_up.result() if coming_up.done() else None
            coming_up.cancel()
        return failure

    async def _bring_up(self, engine: Engine) -> Failure | None:
        """Wait until it is ready, warm it up, offer it; a failure if one of these went wrong."""
        began = self._loop.time()
        try:
            await engine.wait_until_ready(self._probe)
            where = f"pid {engine.process.pid}, port {engine.upstream.port}"
            self.status.step(Event.ANSWERED, f"{where}, {self._loop.time() - began:.2f} s")
            await engine.warm_up(self._probe)
            await self._company.joining(engine.upstream, self._launch, self.directory)
        except EngineFailed as failed:
            return failed.failure
        self._port_tries = 0
        self._ready_at = self._loop.time()
        self.status.step(Event.WARMED, f"{self._ready_at - began:.2f} s, context {engine.n_ctx or 'unknown'}")
        self._leases.add(engine.upstream)
        self._settle()
        return None

    async def _after_exit(self, engine: Engine, suspected: Failure | None) -> Failure | None:
        """The engine ended by itself: why, or None if it was to end anyhow."""
        failure = await engine.why_it_ended(suspected)
        wanted = self._stopping or self.status.state is State.DRAINING
        self.status.step(Event.EXITED, failure.sentence)
        return None if wanted else failure

    async def _wait_for_order(self) -> None:
        """The engine ended while it was draining: whoever drained it orders what comes next, or already has."""
        if not self._order.done():
            self._settle()
            await asyncio.wait({self._order})

    async def _wait_before_restart(self, failure: Failure) -> None:
        """Wait as long as is due before the next start."""
        self.status.failure = failure
        if self.status.state is State.STOPPED:
            self.status.step(Event.DELAYED, failure.sentence)
        self._order = self._loop.create_future()
        if self._is_final(failure):
            self.status.step(Event.GAVE_UP, failure.sentence)
            self._settle()
            await asyncio.wait({self._order})
            self._history = History(policy=self._history.policy)
        elif failure.cause not in {Cause.PORT_TAKEN, Cause.OPERATOR}:
            delay = self._history.delay(random.random())
            logger.info("instance %s: starts again in %.1f s", self.id, delay)
            await asyncio.wait({self._order}, timeout=delay)

    def _is_final(self, failure: Failure) -> bool:
        if failure.cause is Cause.OPERATOR:
            return False
        if failure.cause is Cause.PORT_TAKEN:
            self._port_tries += 1
            return self._port_tries > OTHER_PORTS
        now = self._loop.time()
        self._history = self._history.failed(now, now - self._ready_at if self._ready_at else 0.0)
        never_fitted = failure.cause is Cause.OUT_OF_MEMORY and not self._ever_decided
        return failure.cause in PERMANENT or never_fitted or self._history.exhausted

    # Details

    def _withdraw(self) -> int:
        return 0 if self._engine is None else self._leases.withdraw(self._engine.upstream)

    def _order_end(self, failure: Failure | None) -> None:
        if not self._order.done():
            self._order.set_result(failure)

    def _settle(self) -> None:
        self._ever_decided = True
        if not self._outcome.done():
            self._outcome.set_result(None)


async def _first_of(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
