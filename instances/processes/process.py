"""One engine process: spawned in a session of its own, its output taken in, always ended and reaped as a group."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from slotproxy.instances.processes import child as children
from slotproxy.instances.processes.enginelog import EngineLog
from slotproxy.instances.processes.guardian import Guardian

REAP_TIMEOUT = 5.0  # seconds a killed process may take to be gone: the kernel may have to free much memory
OUTPUT_GRACE = 0.5  # seconds to wait for the end of the output once the process is gone: a descendant may keep it open


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a process ended."""

    code: int  # negative: the number of the signal that killed it
    by_us: bool  # we had sent it a signal

    @property
    def sentence(self) -> str:
        if self.code >= 0:
            return f"the engine exited with status {self.code}"
        guess = ", probably out of memory" if self.probably_out_of_memory else ""
        return f"the engine was killed by signal {-self.code} ({_signal_name(-self.code)}){guess}"

    @property
    def probably_out_of_memory(self) -> bool:
        """The kernel's out-of-memory killer sends KILL; hardly anyone else does."""
        return self.code == -signal.SIGKILL and not self.by_us


class Process:
    """Owns the process from spawn to reaping. `exited` is done once it is reaped."""

    def __init__(self, child: "subprocess.Popen[bytes]", log: EngineLog, guardian: Guardian) -> None:
        self.pid = child.pid
        self._guardian = guardian
        guardian.watch(self.pid)
        self.exited = children.exit_of(child)
        self._output = _Output(log, asyncio.get_running_loop())
        self._transport: asyncio.ReadTransport | None = None
        self._signalled = False
        self._closed = False

    @classmethod
    async def spawn(
        cls, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: EngineLog, guardian: Guardian
    ) -> "Process":
        """Raises OSError when the executable cannot be run."""
        reader, writer = os.pipe()
        try:
            child = children.start(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, output=writer)
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        process = cls(child, log, guardian)
        try:
            await process._listen(reader)
        except BaseException:
            process.kill()
            raise
        return process

    async def _listen(self, reader: int) -> None:
        pipe = os.fdopen(reader, "rb", buffering=0)  # closed by its transport
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: self._output, pipe)

    def cpu_time(self) -> float | None:
        """Seconds that it and its descendants have computed; None when it is gone."""
        try:
            process = psutil.Process(self.pid)
            times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
        except psutil.Error:
            return None
        return sum(time.user + time.system for time in times)

    async def wait(self) -> Exit:
        """How it ended, after its last output was taken in."""
        await asyncio.shield(self.exited)
        await asyncio.wait({self._output.ended}, timeout=OUTPUT_GRACE)
        return Exit(code=self.exited.result(), by_us=self._signalled)

    async def stop(self, *, term: float, again: float) -> Exit:
        """TERM, wait `term` seconds, TERM again, wait `again`, KILL; each to the whole group.

        If this is cancelled the group is killed at once.
        """
        try:
            for patience in (term, again):
                self._signal(signal.SIGTERM)
                if await self._gone_within(patience):
                    break
            else:
                self._signal(signal.SIGKILL)
            return await self.wait()
        finally:
            self.kill()

    def kill(self) -> None:
        """End what is left of the group, at once, and let go of its output."""
        if self._closed:  # the number may be another group's by now
            return
        self._closed = True
        self._signal(signal.SIGKILL)
        self._guardian.forget(self.pid)
        if self._transport is not None:
            self._transport.close()
        self._output.close()

    async def end(self) -> None:
        """`kill`, and stay until it is reaped."""
        self.kill()
        await self._gone_within(REAP_TIMEOUT)

    async def _gone_within(self, seconds: float) -> bool:
        await asyncio.wait({self.exited}, timeout=seconds)
        return self.exited.done()

    def _signal(self, number: signal.Signals) -> None:
        self._signalled = self._signalled or not self.exited.done()
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM when only zombies are left
            os.killpg(self.pid, number)


class _Output(asyncio.Protocol):
    """Where the event loop reports to. No task: each piece of output is taken in as it comes."""

    def __init__(self, log: EngineLog, loop: asyncio.AbstractEventLoop) -> None:
        self._log = log
        self.ended: asyncio.Future[None] = loop.create_future()

    def data_received(self, data: bytes) -> None:
        self._log.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()

    def close(self) -> None:
        self._log.close()
        if not self.ended.done():
            self.ended.set_result(None)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
