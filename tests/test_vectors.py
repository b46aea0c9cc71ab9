"""238 raw requests, sound and malformed, at the installed command: what may reach an engine, and what the client gets.

Which case failed, and why, is in the assertion; `python -m tests.vector_runner` plays single ones.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.clients import Unframed, connected
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


async def test_what_is_served_is_served_alike_again_on_the_same_connection(
    engine: StrictEngine, start_proxy: StartProxy
) -> None:
    proxy = start_proxy("--upstream", f"http://127.0.0.1:{engine.port}", "--max-body", "4MiB")
    await asyncio.to_thread(proxy.wait_ready)
    faults, outcomes = {}, Counter[str]()
    for vector in load():
        if vector["expect"] == "forward" and isinstance(vector.get("raw"), str):
            outcome = await twice(vector["raw"].encode("latin-1"), vector["n"], proxy.port, engine)
            outcomes[outcome] += 1
            if outcome not in ("alike", "the client asked for the end"):
                faults[vector["id"]] = outcome
    assert faults == {}
    assert outcomes["alike"] >= 20


async def twice(raw: bytes, number: int, port: int, engine: StrictEngine) -> str:
    """What became of a message of so many requests that is sent twice on one connection."""
    engine.seen.clear()
    head_only = raw.lstrip().startswith(b"HEAD ")
    async with connected(port) as client:
        for _ in range(2):
            client.send(raw)
            try:
                answers = [await client.answer(to_head=head_only) for _ in range(number)]
            except Unframed:
                return "no answer"
            if any(answer.status != 200 for answer in answers):
                return f"status {[answer.status for answer in answers]}"
            if answers[-1].head.get("connection") == "close":
                return "the client asked for the end"
    sent = [(one.target, one.body, one.faults) for one in engine.seen]
    return "alike" if sent[:number] == sent[number:] and len(sent) == 2 * number else f"the engine saw {sent}"
