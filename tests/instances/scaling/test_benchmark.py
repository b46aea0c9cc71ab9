"""What is measured and how often, with generations and readings that a test makes up."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from slotproxy.instances.scaling import benchmark
from slotproxy.instances.scaling.benchmark import Benchmark
from slotproxy.instances.scaling.generations import NotMeasured, Obstacle, Run
from slotproxy.instances.scaling.watermarks import Level
from slotproxy.instances.upstream import Upstream
from tests.instances.conftest import stub_launch

GIB = 1 << 30
SECONDS = 1.0
ONE, TWO = (Upstream(instance=str(number), host="127.0.0.1", port=1) for number in range(2))
CALM = Level(running=2, used=0, peak=0, next_cost=0, limit=GIB, total=GIB, available=GIB)
SHORT = Level(running=2, used=2 * GIB, peak=0, next_cost=0, limit=GIB, total=2 * GIB, available=GIB)


@dataclass
class Scripted:
    """Generates, reads memory and tells the level as a test says."""

    rates: tuple[float, float] = (10.0, 20.0)  # of one, of two
    slow: bool = True  # generations take long enough to be compared
    level: Level = CALM
    prevented_at: int = 0  # number of the run that does not come about; 0: all do
    obstacle: Obstacle = Obstacle.CLIENTS
    sizes: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    learnt: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=lambda: [1000, 1100])
    reading_took: float = 0.0
    generates: bool = True

    async def run(self, upstreams: Sequence[Upstream], path: str, body: Any, patience: float) -> Run | NotMeasured:
        self.sizes.append(len(upstreams))
        self.tokens.append(body.get("max_tokens", body.get("n_predict")))
        if not self.generates:
            await asyncio.Event().wait()
        if len(self.sizes) == self.prevented_at:
            return NotMeasured(obstacle=self.obstacle, sentence="instance 0 did not generate")
        seconds = SECONDS if self.slow else SECONDS / self.tokens[-1]
        return Run(tokens=int(self.rates[len(upstreams) - 1] * seconds * 100), seconds=seconds * 100)

    async def read(self) -> None:
        await asyncio.sleep(0)

    def held_by(self, upstream: Upstream) -> int:
        return self.held.pop(0)

    def expect(self, cost: int) -> None:
        self.learnt.append(cost)


def of(script: Scripted, gguf: Path) -> Benchmark:
    return Benchmark(script, script, lambda: stub_launch(gguf), lambda: script.level)  # type: ignore[arg-type]


async def test_a_clear_gain_is_settled_by_two_pairs_in_turns(gguf: Path) -> None:
    script = Scripted()
    assert await of(script, gguf).compare([ONE, TWO], 0.05, patience=0) == [(10.0, 20.0)] * 2
    assert script.sizes == [2, 1, 1, 2], "what changes over time hits both alike"


async def test_a_close_gain_takes_more_pairs(gguf: Path) -> None:
    found = await of(Scripted(rates=(10.0, 10.6)), gguf).compare([ONE, TWO], 0.05, patience=0)
    assert isinstance(found, list)
    assert len(found) == 4


async def test_what_was_too_quick_to_be_compared_is_repeated_with_more_tokens(
    gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "WINDOW", 200.0)
    script = Scripted()
    found = await of(script, gguf).compare([ONE, TWO], 0.05, patience=0)
    assert found == [(10.0, 20.0)] * 2
    assert script.tokens[:4] == [24, 24, 97, 97]
    assert set(script.tokens[4:]) == {256}


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("obstacle", [Obstacle.CLIENTS, Obstacle.ENGINE])
async def test_a_run_that_does_not_come_about_ends_the_comparison(gguf: Path, at: int, obstacle: Obstacle) -> None:
    found = await of(Scripted(prevented_at=at, obstacle=obstacle), gguf).compare([ONE, TWO], 0.05, patience=0)
    assert isinstance(found, NotMeasured)
    assert found.obstacle is obstacle


async def test_a_machine_that_stalls_is_not_compared_on(gguf: Path) -> None:
    stalls = Level(running=2, used=0, peak=0, next_cost=0, limit=GIB, total=GIB, available=GIB, stall="it stalls")
    found = await of(Scripted(level=stalls), gguf).compare([ONE, TWO], 0.05, patience=0)
    assert found == NotMeasured(obstacle=Obstacle.MEMORY)


async def test_a_generation_ends_when_memory_gets_short(gguf: Path) -> None:
    script = Scripted(level=SHORT, generates=False)
    async with asyncio.timeout(5):
        found = await of(script, gguf).compare([ONE, TWO], 0.05, patience=0)
    assert found == NotMeasured(obstacle=Obstacle.MEMORY)
    assert script.sizes == [2]


async def test_what_a_full_context_will_hold_is_learnt_from_two_prompts(gguf: Path) -> None:
    script = Scripted(held=[1000, 2000])
    await of(script, gguf).fill(ONE, 128, 1000.0)
    assert len(script.sizes) == 3, "one that shows the pace, and two of equal length"
    assert len(script.learnt) == 1
    assert script.learnt[0] > 2000


async def test_a_client_that_comes_leaves_what_was_read_until_then(gguf: Path) -> None:
    script = Scripted(held=[1000], prevented_at=3)
    await of(script, gguf).fill(ONE, 128, 1000.0)
    assert script.learnt == [1000]


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_nothing_is_learnt_from_an_engine_that_does_not_generate(
    gguf: Path, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    script = Scripted(prevented_at=at, obstacle=Obstacle.ENGINE)
    await of(script, gguf).fill(ONE, 128, 1000.0)
    assert script.learnt == []
    assert "what instances hold at work cannot be measured: instance 0 did not generate" in caplog.text
