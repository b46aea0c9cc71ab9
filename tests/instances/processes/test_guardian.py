"""The guardian as a process: a proxy that dies is played by closing the pipe's only writing end."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from slotproxy.instances.processes.guardian import Guardian

SOON = 10.0
SLEEP = "import time; time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); {SLEEP}"
WITH_A_CHILD = (
    f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', '{SLEEP}']).pid, flush=True); {SLEEP}"
)


class Shop:
    """Starts process groups and ends what is left of them."""

    def __init__(self) -> None:
        self.children: list[subprocess.Popen[bytes]] = []

    def start(self, code: str = SLEEP) -> "subprocess.Popen[bytes]":
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
        self.children.append(child)
        return child


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    for child in shop.children:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


async def ended(child: "subprocess.Popen[bytes]") -> int:
    async with asyncio.timeout(SOON):
        while child.poll() is None:
            await asyncio.sleep(0.005)
    assert child.returncode is not None
    return child.returncode


IGNORED = sum(1 << number - 1 for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM))


def hears_signals(pid: int) -> bool:
    """Whether one of them has still an effect: a shell ignores them one after the other."""
    status = Path(f"/proc/{pid}/status")
    found = re.search(r"SigIgn:\s*([0-9a-f]+)", status.read_text()) if status.exists() else None
    return found is not None and int(found[1], 16) & IGNORED != IGNORED


async def deaf_by_now(pid: int) -> None:
    """Until the shell has come to its first line."""
    async with asyncio.timeout(SOON):
        while hears_signals(pid):
            await asyncio.sleep(0.005)


async def test_what_is_watched_ends_with_the_proxy_and_nothing_else_does(shop: Shop) -> None:
    watched, forgotten, never = shop.start(), shop.start(), shop.start()
    async with Guardian() as guardian:
        for child in (watched, forgotten):
            guardian.watch(child.pid)
        guardian.forget(forgotten.pid)
    assert await ended(watched) == -signal.SIGTERM
    assert [forgotten.poll(), never.poll()] == [None, None]


async def test_the_whole_group_ends(shop: Shop) -> None:
    parent = shop.start(WITH_A_CHILD)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    async with Guardian() as guardian:
        guardian.watch(parent.pid)
    await ended(parent)
    async with asyncio.timeout(SOON):
        while child.is_running():
            await asyncio.sleep(0.005)


async def test_an_engine_that_ignores_term_is_killed(shop: Shop) -> None:
    deaf = shop.start(DEAF)
    assert deaf.stdout is not None
    deaf.stdout.readline()
    async with Guardian() as guardian:
        guardian.watch(deaf.pid)
    assert await ended(deaf) == -signal.SIGKILL


async def test_the_guardian_is_deaf_to_what_ends_the_proxy_and_has_a_session_of_its_own(shop: Shop) -> None:
    watched = shop.start()
    async with Guardian() as guardian:
        guardian.watch(watched.pid)
        await deaf_by_now(guardian.pid)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(guardian.pid, number)
        assert os.getsid(guardian.pid) == guardian.pid
        assert psutil.Process(guardian.pid).is_running()
    assert await ended(watched) == -signal.SIGTERM


async def test_a_killed_guardian_is_replaced_by_one_that_knows_as_much(shop: Shop) -> None:
    watched = shop.start()
    async with Guardian() as guardian:
        guardian.watch(watched.pid)
        first = guardian.pid
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(SOON):
            while guardian.pid == first:
                await asyncio.sleep(0.005)
    assert await ended(watched) == -signal.SIGTERM


async def test_it_ends_when_there_is_nothing_left_to_do() -> None:
    async with Guardian() as guardian:
        pid = guardian.pid
        guardian.watch(999_999_999)
        guardian.forget(999_999_999)
    assert not psutil.pid_exists(pid)


async def test_without_a_shell_the_proxy_runs_all_the_same(monkeypatch: pytest.MonkeyPatch, shop: Shop) -> None:
    monkeypatch.setattr("slotproxy.instances.processes.guardian.SHELL", "/nowhere/sh")
    async with Guardian() as guardian:
        guardian.watch(shop.start().pid)
        assert guardian.pid == 0
