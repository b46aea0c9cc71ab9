"""Every profile against the contract of its engine, one engine at a time and without a proxy."""

import asyncio
from pathlib import Path

import pytest

from slotproxy.instances.failures import Cause
from slotproxy.instances.models import model
from slotproxy.instances.processes.guardian import Guardian
from slotproxy.instances.profiles import launch, selection
from slotproxy.instances.profiles.launch import Launch
from slotproxy.instances.running.engine import Engine, EngineFailed, spawned
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.settings import SupplySettings
from tests.contract_engines import Played
from tests.stubs.contracts import CONTRACTS

SOON = 20.0


async def plan(played: Played, monkeypatch: pytest.MonkeyPatch, **script: float) -> Launch:
    for variable, value in played.environment(**script).items():
        monkeypatch.setenv(variable, value)
    settings = SupplySettings(
        model=Path(played.model), engine=played.name, ctx_size=2048, state_dir=played.folder / "state"
    )
    facts = model.check(Path(played.model), names=selection.takes_names(played.name))
    return await launch.prepare(settings, facts)


async def come_up(engine: Engine, probe: Probe) -> None:
    async with asyncio.timeout(SOON):
        await engine.wait_until_ready(probe)
        await engine.warm_up(probe)


@pytest.mark.parametrize("name", CONTRACTS)
async def test_it_understands_its_command_line_becomes_ready_and_tells_its_context(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played.prepare(name, tmp_path)
    prepared = await plan(played, monkeypatch, load=0.1, pace=0)
    async with Probe() as probe, spawned("0", prepared, tmp_path / "0", Guardian()) as engine:
        await come_up(engine, probe)
        assert played.events("loaded")  # and not before: the warm-up was answered by a model
        assert engine.n_ctx == (2048 if prepared.profile.context.path else None)
        assert engine.models[0]["id"] in {prepared.name, "ds4"}
        assert await engine.idle(probe, streamed=True)


@pytest.mark.parametrize("name", ["ds4-server", "llama-server", "ollama", "vllm"])
async def test_less_context_than_it_was_told_is_an_error_with_both_numbers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played.prepare(name, tmp_path)
    prepared = await plan(played, monkeypatch, ctx=512, pace=0)
    async with Probe() as probe, spawned("0", prepared, tmp_path / "0", Guardian()) as engine:
        with pytest.raises(EngineFailed, match="512 tokens of context, not the 2048 it was told") as caught:
            await come_up(engine, probe)
        assert caught.value.failure.cause is Cause.CONTEXT
