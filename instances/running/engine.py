"""One running engine: its process, port, lock and directory, and how it comes up. `instance` decides what follows."""

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from slotproxy.instances.failures import Cause, Failure
from slotproxy.instances.memory import process_tree
from slotproxy.instances.processes import escaped, ports, records
from slotproxy.instances.processes.enginelog import EngineLog
from slotproxy.instances.processes.guardian import Guardian
from slotproxy.instances.processes.locks import FileLock, LockHeld
from slotproxy.instances.processes.process import Exit, Process
from slotproxy.instances.profiles import context
from slotproxy.instances.profiles.launch import HOST, Launch, Place
from slotproxy.instances.readings import Reading
from slotproxy.instances.running.log_patterns import LogPatterns
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.slotless import Slotless
from slotproxy.instances.upstream import Upstream

logger = logging.getLogger(__name__)

FIRST_LOOK, LONGEST_LOOK = 0.05, 0.5  # seconds between looks for readiness, growing
FATAL_GRACE = 2.0  # seconds an engine that said why it cannot go on has to end by itself
HUNG, HUNG_AGAIN = 2.0, 0.5  # seconds between the signals to one that hangs
TRANSIENT = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})  # the machine's, not the program's


class EngineFailed(Exception):
    """It could not be started or did not come up."""

    def __init__(self, cause: Cause, sentence: str) -> None:
        super().__init__(sentence)
        self.failure = Failure(cause=cause, sentence=sentence)


class Engine:
    """A spawned process and what is known of it."""

    def __init__(
        self, launch: Launch, place: Place, process: Process, log: EngineLog, patterns: LogPatterns, upstream: Upstream
    ) -> None:
        self.upstream = upstream
        self.process = process
        self.n_ctx: int | None = None
        self.models: tuple[Mapping[str, Any], ...] = ()
        self.memory: Reading | None = None  # the latest
        self._launch = launch
        self._place = place
        self._log = log
        self._patterns = patterns
        self._model = _identity(launch.model)

    @property
    def last_lines(self) -> tuple[str, ...]:
        """Of its output."""
        return tuple(self._log.lines)

    @property
    def output(self) -> int:
        """Bytes of it so far."""
        return self._log.received

    async def wait_until_ready(self, probe: Probe) -> None:
        """Raises EngineFailed: it took too long, said why it cannot go on, or another process answers on its port."""
        ready = self._launch.profile.ready
        try:
            async with asyncio.timeout(ready.timeout):
                await self._look_until_ready(probe)
        except TimeoutError:
            raise EngineFailed(Cause.TIMEOUT, self._with_last_line(f"not ready within {ready.timeout:g} s")) from None

    async def _look_until_ready(self, probe: Probe) -> None:
        pause, deadline = FIRST_LOOK, 0.0
        loop = asyncio.get_running_loop()
        while True:
            if self._patterns.announced and await probe.ready(self.upstream, self._launch.profile.ready):
                if ports.owns(self.process.pid, self.upstream.port):
                    return
                raise EngineFailed(Cause.PORT_TAKEN, f"another process answers on port {self.upstream.port}")
            if self._patterns.fatal is not None:
                deadline = deadline or loop.time() + FATAL_GRACE
                if loop.time() > deadline:
                    raise EngineFailed(self._patterns.fatal.cause, self._patterns.fatal.sentence)
            await asyncio.sleep(pause)
            pause = min(pause * 1.2, LONGEST_LOOK)

    async def warm_up(self, probe: Probe) -> None:
        """Generate once, read its memory, then ask for its context and models. Raises EngineFailed."""
        profile = self._launch.profile
        trouble = await probe.warm_up(self.upstream, profile.warm_up, self._launch.warm_up_body(self._place))
        if trouble is not None:
            self._patterns.read(trouble)
            cause = Cause.WARM_UP if self._patterns.fatal is None else self._patterns.fatal.cause
            raise EngineFailed(cause, f"the warm-up generation failed: {trouble}")
        self.memory = await asyncio.to_thread(process_tree.read_tree, self.process.pid)
        self.n_ctx = await probe.context(self.upstream, profile.context)
        own = {"id": self._launch.name, "object": "model", "owned_by": profile.name}
        self.models = await probe.models(self.upstream, profile.models_path) or (own,)
        wrong = context.discrepancy(profile, self._launch.ctx, self.n_ctx, self._launch.trained)
        if wrong is not None:
            raise EngineFailed(Cause.CONTEXT, wrong)

    async def answers(self, probe: Probe) -> bool:
        """Whether it answers its readiness request now."""
        return await probe.ready(self.upstream, self._launch.profile.ready)

    @property
    def stale(self) -> bool:
        """Whether the model file was replaced or removed: the engine goes on with the old one, which it has mapped."""
        return _identity(self._launch.model) != self._model

    async def stop(self, *, hung: bool = False) -> Exit:
        """End it as its profile says, or sooner if it is `hung`: then there is no KV cache that it is writing."""
        plan = self._launch.profile.stop
        if hung:
            return await self.process.stop(term=min(plan.term, HUNG), again=min(plan.again, HUNG_AGAIN))
        return await self.process.stop(term=plan.term, again=plan.again)

    async def idle(self, probe: Probe, *, streamed: bool) -> bool:
        """Return once it has let go of an abandoned request; False when it did not in time."""
        profile = self._launch.profile
        body = self._launch.warm_up_body(self._place)
        return await probe.idle(self.upstream, profile.idle, streamed=streamed, warm_up=profile.warm_up, body=body)

    async def why_it_ended(self, suspected: Failure | None) -> Failure:
        """Why it ended by itself: what its last lines say, else what was suspected, else how it exited."""
        ended: Exit = await self.process.wait()
        patterns = LogPatterns(self._launch.profile)
        for line in self._log.lines:
            patterns.read(line)
        if patterns.fatal is not None:
            return patterns.fatal
        if suspected is not None and suspected.cause is Cause.PORT_TAKEN:
            return suspected
        if ended.probably_out_of_memory:
            return Failure(cause=Cause.OUT_OF_MEMORY, sentence=ended.sentence)
        return Failure(cause=Cause.CRASH, sentence=self._with_last_line(ended.sentence))

    def _with_last_line(self, sentence: str) -> str:
        return f"{sentence}; its last words: {self._log.lines[-1][:300]}" if self._log.lines else sentence


def _identity(model: Path) -> tuple[int, int, int, int] | None:
    """What changes when a file is replaced or written to; None: it is not there."""
    try:
        found = model.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@asynccontextmanager
async def spawned(name: str, launch: Launch, directory: Path, guardian: Guardian) -> AsyncIterator[Engine]:
    """A process in its own directory, under its own lock; nothing of either is left afterwards. Raises EngineFailed."""
    with _occupied(launch, directory):
        engine = await _spawn(name, launch, directory, guardian)
        try:
            yield engine
        finally:
            await engine.process.end()
            records.remove(directory)
            left = await asyncio.to_thread(escaped.end, directory)
            if left:
                logger.warning("instance %s: killed %s, which had left its process group", name, _processes(left))


@contextmanager
def _occupied(launch: Launch, directory: Path) -> Iterator[None]:
    lock: FileLock | None = None
    place = Place(directory=directory, port=0)
    try:
        private = (directory, place.kv, *([place.store] if launch.uses_store else []))
        for path in private:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in private:
            path.chmod(0o700)
        if launch.profile.lock.holder == "supervisor":
            lock = FileLock.take(directory / "engine.lock")
    except LockHeld as error:
        raise EngineFailed(Cause.LOCK_HELD, str(error)) from None
    except OSError as error:
        raise EngineFailed(Cause.DIRECTORY, f"{directory} cannot be used: {error.strerror}") from None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _processes(pids: list[int]) -> str:
    return f"process{'es' * (len(pids) > 1)} {', '.join(map(str, pids))}"


async def _spawn(name: str, launch: Launch, directory: Path, guardian: Guardian) -> Engine:
    patterns = LogPatterns(launch.profile)
    log = EngineLog(directory / "engine.log", patterns.read)
    try:
        place = Place.find(launch.profile, directory)
        command = launch.command(place)
        environment = launch.environment(place, os.environ)
        process = await Process.spawn(command, env=environment, cwd=launch.cwd(place), log=log, guardian=guardian)
    except OSError as error:
        cause = Cause.CRASH if error.errno in TRANSIENT else Cause.EXECUTABLE
        raise EngineFailed(cause, f"{launch.program[0]} cannot be run: {error.strerror}") from None
    records.write(directory, pid=process.pid, port=place.port, command=command)
    http = launch.profile.http
    upstream = Upstream(
        instance=name,
        host=HOST,
        port=place.port,
        keepalive=http.keepalive,
        drop_headers=frozenset(name.lower().encode() for name in http.drop_headers),
        write_stall=http.write_stall,
        slotless=Slotless(http.slotless),
        model=launch.model_for_requests(),
    )
    return Engine(launch, place, process, log, patterns, upstream)
