"""One engine process: spawned in a session of its own, its output taken in, always ended and reaped as a group."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slotproxy.instances.enginelog import EngineLog
from slotproxy.instances.profiles import Stop

LAST_WORDS = 0.5  # seconds to wait for the end of the output once the process is gone: a descendant may keep it open


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a process ended."""

    code: int  # negative: the number of the signal that killed it
    wished: bool  # we had sent it a signal

    @property
    def sentence(self) -> str:
        if self.code >= 0:
            return f"the engine exited with status {self.code}"
        guess = ", probably out of memory" if self.probably_out_of_memory else ""
        return f"the engine was killed by signal {-self.code} ({_signal_name(-self.code)}){guess}"

    @property
    def probably_out_of_memory(self) -> bool:
        """The kernel's out-of-memory killer sends KILL; hardly anyone else does."""
        return self.code == -signal.SIGKILL and not self.wished


class Process:
    """Owns the process from spawn to reaping. `exited` is done once it is gone."""

    def __init__(self, transport: asyncio.SubprocessTransport, output: "_Output") -> None:
        self._transport = transport
        self._output = output
        self._signalled = False
        self._closed = False
        self.pid = transport.get_pid()
        self.exited = output.exited

    @classmethod
    async def spawn(cls, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: EngineLog) -> "Process":
        """Raises OSError when the executable cannot be run."""
        loop = asyncio.get_running_loop()
        transport, output = await loop.subprocess_exec(
            lambda: _Output(log, loop),
            *command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=str(cwd),
            start_new_session=True,
        )
        return cls(transport, output)

    async def wait(self) -> Exit:
        """How it ended, after its last output was taken in."""
        await asyncio.shield(self.exited)
        await asyncio.wait({self._output.ended}, timeout=LAST_WORDS)
        return Exit(code=self._transport.get_returncode() or 0, wished=self._signalled)

    async def stop(self, plan: Stop) -> Exit:
        """End the whole group by `plan`. If this is cancelled the group is killed at once."""
        try:
            for patience in (plan.term, plan.again):
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
        self._transport.close()
        self._output.close()

    async def _gone_within(self, seconds: float) -> bool:
        await asyncio.wait({self.exited}, timeout=seconds)
        return self.exited.done()

    def _signal(self, number: signal.Signals) -> None:
        self._signalled = self._signalled or not self.exited.done()
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM when only zombies are left
            os.killpg(self.pid, number)


class _Output(asyncio.SubprocessProtocol):
    """Where the event loop reports to. No task: each piece of output is taken in as it comes."""

    def __init__(self, log: EngineLog, loop: asyncio.AbstractEventLoop) -> None:
        self._log = log
        self.exited: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._log.feed(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self.close()

    def process_exited(self) -> None:
        if not self.exited.done():
            self.exited.set_result(None)

    def close(self) -> None:
        self._log.close()
        if not self.ended.done():
            self.ended.set_result(None)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
