"""238 raw requests, sound and malformed, at the installed command: what may reach an engine, and what the client gets.

Which case failed, and why, is in the assertion; `python -m tests.vector_runner` plays single ones.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.running import StartProxy
from tests.strict_engine import StrictEngine
from tests.vector_runner import load, play, strict_engine

GROWTH_LIMIT = 32 << 20  # bytes of resident memory over all the cases


@pytest.fixture
async def engine() -> AsyncIterator[StrictEngine]:
    async with strict_engine() as running:
        yield running


@pytest.mark.parametrize(("bytewise", "times"), [(False, 2), (True, 1)], ids=["in one write, twice", "byte by byte"])
async def test_every_vector(
    engine: StrictEngine, start_proxy: StartProxy, tmp_path: Path, *, bytewise: bool, times: int
) -> None:
    proxy = start_proxy("--upstream", f"http://127.0.0.1:{engine.port}", "--max-body", "4MiB")
    await asyncio.to_thread(proxy.wait_ready)
    process = psutil.Process(proxy.pid)
    before = process.memory_info().rss
    faults = {}
    for vector in (vector for vector in load() for _ in range(times)):  # the second time its head may be known
        found = await play(vector, proxy.port, engine, bytewise=bytewise)
        if found:
            faults[vector["id"]] = found
    assert not faults, "\n".join(f"{name}: {'; '.join(found)}" for name, found in faults.items())
    assert process.memory_info().rss - before < GROWTH_LIMIT
    assert "Traceback" not in proxy.log
