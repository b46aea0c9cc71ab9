import asyncio
import os
import signal
import stat
import sys
from pathlib import Path

import psutil
import pytest

from slotproxy.instances.processes.enginelog import EngineLog
from slotproxy.instances.processes.guardian import Guardian
from slotproxy.instances.processes.process import Exit, Process
from tests.instances.conftest import SOON

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
POLITE = "import time; print('up', flush=True); time.sleep(60)"
SECOND_TIME = """
import signal, sys, time
def on_term(*_): signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
signal.signal(signal.SIGTERM, on_term)
print("up", flush=True)
time.sleep(60)
"""
FAMILY = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {DEAF!r}])
print(child.pid, flush=True)
time.sleep(60)
"""


class Shell:
    """Spawns Python programs and knows their output."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lines: list[str] = []
        self._more = asyncio.Event()

    def _on_line(self, line: str) -> None:
        self.lines.append(line)
        self._more.set()

    async def spawn(self, code: str) -> Process:
        log = EngineLog(self.directory / "log", self._on_line)
        return await Process.spawn(
            [sys.executable, "-c", code], env={"A": "b"}, cwd=self.directory, log=log, guardian=Guardian()
        )

    async def line(self, number: int = 0) -> str:
        async with asyncio.timeout(SOON):
            while len(self.lines) <= number:
                self._more.clear()
                await self._more.wait()
        return self.lines[number]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


async def test_what_it_writes_nobody_else_can_read(shell: Shell) -> None:
    process = await shell.spawn("import os; os.close(os.open('kv', os.O_CREAT | os.O_WRONLY, 0o666)); os.mkdir('d')")
    await process.wait()
    await process.end()
    modes = [stat.S_IMODE((shell.directory / name).stat().st_mode) for name in ("kv", "d")]
    assert modes == [0o600, 0o700]


async def test_the_last_words_are_taken_in_before_the_exit_is_told(shell: Shell) -> None:
    process = await shell.spawn("import sys; print('out'); sys.stdout.flush(); sys.exit('x' * 100_000)")
    ended = await process.wait()
    process.kill()
    assert (ended.code, shell.lines[0], sum(map(len, shell.lines[1:]))) == (1, "out", 100_000)


async def test_it_runs_in_a_session_of_its_own_with_the_given_environment_and_directory(shell: Shell) -> None:
    process = await shell.spawn("import os; print(os.getsid(0) == os.getpid(), os.environ.get('A'), os.getcwd())")
    await process.wait()
    process.kill()
    assert shell.lines == [f"True b {shell.directory}"]


async def test_it_inherits_nothing_but_its_output(shell: Shell) -> None:
    descriptor = os.open(shell.directory, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    process = await shell.spawn("import os; print(sorted(map(int, os.listdir('/dev/fd')))[:-1], os.read(0, 1))")
    await process.wait()
    process.kill()
    os.close(descriptor)
    assert shell.lines == ["[0, 1, 2] b''"]


async def test_a_program_that_cannot_be_run_raises(shell: Shell) -> None:
    log = EngineLog(shell.directory / "log", lambda line: None)
    with pytest.raises(FileNotFoundError):
        await Process.spawn(["/nowhere/engine"], env={}, cwd=shell.directory, log=log, guardian=Guardian())


async def test_term_ends_a_polite_one(shell: Shell) -> None:
    process = await shell.spawn(POLITE)
    await shell.line()
    ended = await process.stop(term=SOON, again=SOON)
    assert ended == Exit(code=-signal.SIGTERM, by_us=True)


async def test_a_second_term_is_tried_before_kill(shell: Shell) -> None:
    process = await shell.spawn(SECOND_TIME)
    await shell.line()
    assert (await process.stop(term=0.3, again=SOON)).code == 7


async def test_one_that_does_not_listen_is_killed(shell: Shell) -> None:
    process = await shell.spawn(DEAF)
    await shell.line()
    ended = await process.stop(term=0.05, again=0.05)
    assert ended == Exit(code=-signal.SIGKILL, by_us=True)
    assert not ended.probably_out_of_memory


async def test_no_member_of_the_group_survives(shell: Shell) -> None:
    process = await shell.spawn(FAMILY)
    child = psutil.Process(int(await shell.line()))
    await shell.line(1)
    await process.stop(term=SOON, again=SOON)
    child.wait(SOON)


async def test_a_cancelled_stop_still_kills(shell: Shell) -> None:
    process = await shell.spawn(DEAF)
    await shell.line()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await process.stop(term=60, again=60)
    async with asyncio.timeout(SOON):
        await process.exited


async def test_an_exit_does_not_wait_for_a_descendant_that_keeps_the_output_open(shell: Shell) -> None:
    process = await shell.spawn(FAMILY.replace("time.sleep(60)", ""))
    await shell.line()
    async with asyncio.timeout(SOON):
        assert (await process.wait()).code == 0
    process.kill()


@pytest.mark.parametrize(
    ("ended", "sentence"),
    [
        (Exit(code=2, by_us=False), "the engine exited with status 2"),
        (Exit(code=-9, by_us=False), "the engine was killed by signal 9 (SIGKILL), probably out of memory"),
        (Exit(code=-9, by_us=True), "the engine was killed by signal 9 (SIGKILL)"),
        (Exit(code=-11, by_us=False), "the engine was killed by signal 11 (SIGSEGV)"),
        (Exit(code=-200, by_us=False), "the engine was killed by signal 200 (unknown)"),
    ],
)
def test_an_exit_is_a_plain_sentence(ended: Exit, sentence: str) -> None:
    assert ended.sentence == sentence
