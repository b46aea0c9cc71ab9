"""What of an engine is found on this machine: its program, its version, which of the options that depend on it."""

import asyncio
import importlib.metadata
import itertools
import logging
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.profiles import selection
from slotproxy.instances.profiles.profile import Profile

logger = logging.getLogger(__name__)

VERSION_TIMEOUT = 20.0  # seconds; some engines load half a framework to say it
HELP_TIMEOUT = 20.0  # seconds
LONGEST = 200  # characters of a version
LONGEST_OBJECTION = 500  # characters
WRONG_ARGUMENTS = 2  # exit status


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """Without a program the options are those of the newest engine."""

    program: tuple[str, ...]  # as it would be run; where it is not installed as it is looked for
    missing: str | None  # why it cannot be run, and what to do; None: it can
    version: str | None  # None: it does not say
    help_text: str


async def detect(profile: Profile, engine_bin: str | None) -> Detection:
    """Runs the engine with --version, and with --help if its profile asks for that.

    Raises ConfigurationError for a wrong `engine_bin`.
    """
    missing = selection.missing(profile, engine_bin)
    if missing is not None:
        newest = " ".join(options.flag for options in profile.options)
        return Detection(program=_wanted(profile), missing=missing, version=None, help_text=newest)
    program = selection.program(profile, engine_bin)
    shown = await help_text(profile, program)
    version = _of_package(profile) if profile.module is not None else await _of_program(profile, program)
    return Detection(program=program, missing=None, version=version, help_text=shown)


async def help_text(profile: Profile, program: tuple[str, ...], *, wanted: bool = False) -> str:
    """What the engine prints for --help when it is `wanted` or the profile asks for it, else nothing."""
    if not profile.options and not wanted:
        return ""
    subcommand = itertools.takewhile(lambda argument: argument.isalnum(), profile.args)  # has a --help of its own
    try:
        process = await asyncio.create_subprocess_exec(
            *program,
            *subcommand,
            "--help",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=profile.visible(os.environ),
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigurationError(f"{program[0]} cannot be run: {error.strerror}; check --engine-bin") from None
    try:
        async with asyncio.timeout(HELP_TIMEOUT):
            output, _ = await process.communicate()
    except TimeoutError:
        logger.warning("%s --help does not end: it is assumed to have the newest options", program[0])
        return " ".join(options.flag for options in profile.options)
    finally:
        await _ended(process)
    return output.decode(errors="replace")


async def objection(profile: Profile, program: tuple[str, ...], arguments: Sequence[str]) -> str | None:
    """What the engine itself says against `arguments`, in a line; None: nothing, or it cannot be asked beforehand."""
    if profile.check is None or not arguments:
        return None
    process = await asyncio.create_subprocess_exec(
        *program,
        profile.check,
        *arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=profile.visible(os.environ),
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(HELP_TIMEOUT):
            _, said = await process.communicate()
    except TimeoutError:
        return None
    finally:
        await _ended(process)
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1][:LONGEST_OBJECTION] if process.returncode == WRONG_ARGUMENTS and lines else None


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Its whole group: what it has started would keep our pipe open."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _wanted(profile: Profile) -> tuple[str, ...]:
    if profile.module is not None:
        return selection.run_module(profile.module)
    return (profile.executable or "",)


def _of_package(profile: Profile) -> str | None:
    package = profile.requires or (profile.module or "").partition(".")[0]
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return None


async def _of_program(profile: Profile, program: tuple[str, ...]) -> str | None:
    try:
        process = await asyncio.create_subprocess_exec(
            *program,
            "--version",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=profile.visible(os.environ),
            start_new_session=True,
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(VERSION_TIMEOUT):
            output, _ = await process.communicate()
    except TimeoutError:
        return None
    finally:
        await _ended(process)
    return find_version(output.decode(errors="replace")) if process.returncode == 0 else None


def find_version(said: str) -> str | None:
    """The line of what an engine prints for --version that holds the version: the one that says so, or the first with
    a digit. Device messages may stand before it.
    """
    lines = [line.strip()[:LONGEST] for line in said.splitlines()]
    named = (line for line in lines if re.search(r"version\W+\S*\d", line, re.IGNORECASE))
    return next(named, None) or next((line for line in lines if re.search(r"\d", line)), None)
