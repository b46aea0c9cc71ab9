"""A proxy from outside: its descriptors, threads, tasks and memory; its engines; what is nobody's."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import psutil

from tests.chaos.tally import Reading
from tests.running import Running

MARK = "CHAOS_RUN"  # in the environment of everything a run starts
OBSERVER = Path(__file__).parent / "observer"
ASK = signal.SIGUSR2  # as in observer/sitecustomize.py
ANSWERS = 5.0  # seconds a proxy may take to tell its tasks
SETBACK = re.compile(r"(\d\d):(\d\d):(\d\d) \w+: instance (\d+): \w+ -> (backoff|failed)\b")
ENGINES = ("tests.fake_engine", "slotproxy.instances.profiles.embedded")


def environment(mark: str, tasks: Path) -> dict[str, str]:
    """What an observed proxy needs in its environment."""
    path = os.pathsep.join([str(OBSERVER), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {MARK: mark, "CHAOS_TASKS": str(tasks), "PYTHONPATH": path}


async def read(proxy: Running, tasks: Path) -> Reading:
    process = psutil.Process(proxy.pid)
    names = await _tasks(proxy, tasks)
    with process.oneshot():
        memory, threads = process.memory_info().rss, process.num_threads()
    return Reading(fds=process.num_fds(), threads=threads, tasks=names, memory=memory)


async def _tasks(proxy: Running, path: Path) -> tuple[str, ...]:
    path.unlink(missing_ok=True)  # noqa: ASYNC240  a small local file
    os.kill(proxy.pid, ASK)
    for _ in range(int(ANSWERS / 0.02)):
        if (told := _told(path)) is not None:
            return told
        await asyncio.sleep(0.02)
    raise AssertionError("the proxy did not tell its tasks")


def _told(path: Path) -> tuple[str, ...] | None:
    return tuple(json.loads(path.read_text())) if path.exists() else None


def marked(mark: str) -> list[psutil.Process]:
    """Every living process that carries the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def strays(proxy: Running, mark: str) -> list[psutil.Process]:
    """Engines, and what they started, that the running proxy does not know."""
    family = {proxy.pid}
    known = set(proxy.pids())
    for pid in known:
        family |= {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    return [one for one in marked(mark) if one.pid not in family and _is_engines(one)]


def _is_engines(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()
        return command[:1] == ["sleep"] or any(name in word for word in command for name in ENGINES)
    except psutil.Error:
        return False


def setbacks(log: str) -> list[tuple[float, str, bool]]:
    """Failures of instances by the proxy's own log: second of the day, instance, whether it was given up with it.

    A restart that somebody asked for is none.
    """
    found = []
    for line in log.splitlines():
        match = SETBACK.match(line)
        if match is not None and "(restarted on request)" not in line:
            hours, minutes, seconds, instance, after = match.groups()
            at = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
            found.append((float(at), instance, after == "failed"))
    return found


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether the process catches the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(caught, 16) >> (number - 1) & 1)
