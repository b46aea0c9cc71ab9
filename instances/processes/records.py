"""`instance.json`: which process an instance is, so that a later proxy can end what an earlier one left behind."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil

from slotproxy.instances.processes import escaped

logger = logging.getLogger(__name__)

FILE = "instance.json"
SAME_START = 1.0  # seconds; the system tells start times in ticks
PATIENCE = 3.0  # seconds between TERM and KILL for a leftover


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One running engine."""

    pid: int
    port: int
    started: float  # start time of the process, seconds since the epoch, as the system tells it
    command: tuple[str, ...]


def write(directory: Path, *, pid: int, port: int, command: Sequence[str]) -> None:
    """Never raises: a full disk must not stop an engine. Then a leftover would not be found."""
    try:
        record = Record(pid=pid, port=port, started=psutil.Process(pid).create_time(), command=tuple(command))
        fresh = directory / f"{FILE}.new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(record))
        fresh.replace(directory / FILE)
    except psutil.Error:
        pass  # it is gone already
    except OSError as error:
        logger.warning("cannot write %s (%s)", directory / FILE, error.strerror)


def remove(directory: Path) -> None:
    with contextlib.suppress(OSError):
        (directory / FILE).unlink()


async def end_leftovers(instances: Path) -> None:
    """End the engines recorded under `instances` that are still alive and still ours, and what they started.

    Afterwards there is no record.
    """
    async with asyncio.TaskGroup() as tasks:
        for directory in _recorded(instances):
            tasks.create_task(_end_leftover(directory))
    for pid in await asyncio.to_thread(escaped.end, instances):
        logger.warning("killed process %d, left over from an earlier run", pid)


def _recorded(instances: Path) -> list[Path]:
    return [file.parent for file in sorted(instances.glob(f"*/{FILE}"))]


async def _end_leftover(directory: Path) -> None:
    record = _read(directory / FILE)
    process = None if record is None else _alive(record)
    if record is not None and process is not None:
        logger.warning("ending process %d, left over from an earlier run (%s)", record.pid, record.command[0])
        await _end(process)
    remove(directory)


def _read(file: Path) -> Record | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None


def _alive(record: Record) -> psutil.Process | None:
    """The recorded process: same pid, start time and arguments. An interpreter may stand before them (`#!` scripts)."""
    try:
        process = psutil.Process(record.pid)
        arguments = list(record.command[1:])
        same = abs(process.create_time() - record.started) <= SAME_START
        same = same and process.cmdline()[-len(arguments) :] == arguments
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


async def _end(process: psutil.Process) -> None:
    """TERM, wait, KILL. psutil checks that the pid is still the same process."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(psutil.Error, OSError):
            if process.is_running() and os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, number)
            elif process.is_running():
                process.send_signal(number)
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while _running(process) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  not our child
            await asyncio.sleep(0.02)
        if not _running(process):
            return


def _running(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
