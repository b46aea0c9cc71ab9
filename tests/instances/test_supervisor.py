import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from slotproxy.instances.conversations.turns import Turns
from slotproxy.instances.errors import ConfigurationError, ModelError, NoInstances, ShuttingDown, StartupError
from slotproxy.instances.lifecycle import State
from slotproxy.instances.models import model
from slotproxy.instances.processes import records
from slotproxy.instances.processes.locks import FileLock
from slotproxy.instances.settings import MemoryLimit, SupplySettings, UpstreamSpec
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.slots.pool import Pool
from slotproxy.instances.snapshot import Kind, Member, Transition
from slotproxy.instances.supervisor import Supervisor
from slotproxy.instances.upstream import Upstream
from tests.instances.conftest import QUICK, SOON, STUB, assert_nobody_on, is_free

STUBBED: dict[str, Any] = {"engine": "ds4-server", "engine_bin": str(STUB)}


@dataclass
class Supply:
    """A running supervisor."""

    supervisor: Supervisor
    leases: Leases
    state_dir: Path
    moved: asyncio.Event
    run: asyncio.Task[None]
    steps: list[tuple[str, State]]

    async def until(self, **states: int) -> None:
        """Return once it has settled and so many members are in each of these states."""
        async with asyncio.timeout(SOON):
            while not self._is(states):
                await asyncio.sleep(0.005)

    def _is(self, states: dict[str, int]) -> bool:
        snapshot = self.supervisor.snapshot()
        found = [member.state.value for member in snapshot.members]
        return snapshot.settled and all(found.count(state) == number for state, number in states.items())

    @property
    def members(self) -> tuple[Member, ...]:
        return self.supervisor.snapshot().members


@asynccontextmanager
async def supplying(state_dir: Path, model: Path | None, **changes: Any) -> AsyncIterator[Supply]:
    """With the ds4 stub unless `changes` say otherwise. Its end must leave nothing behind."""
    changes = {**STUBBED, "drain_timeout": SOON, **changes}
    leases = Leases(Pool(8))
    moved = asyncio.Event()
    steps: list[tuple[str, State]] = []
    pids: set[int] = set()

    def on_transition(transition: Transition) -> None:
        moved.set()
        steps.append((transition.instance, transition.after))
        pids.update(member.pid for member in supervisor.snapshot().members if member.pid)

    settings = SupplySettings(model=model, state_dir=state_dir, **changes)
    supervisor = Supervisor(settings, leases, on_transition=on_transition, backoff=QUICK)
    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(supervisor.run())
        yield Supply(supervisor, leases, state_dir, moved, run, steps)
        ports = [member.port for member in supervisor.snapshot().members if member.kind is Kind.INSTANCE]
        await supervisor.stop()
    for port in ports:
        await assert_nobody_on(port)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert_unused(state_dir)


def assert_unused(state_dir: Path) -> None:
    assert all(is_free(lock) for lock in state_dir.rglob("*.lock"))
    assert not list(state_dir.rglob(records.FILE))


async def run_to_end(settings: SupplySettings) -> Supervisor:
    supervisor = Supervisor(settings, Leases(Pool(8)), backoff=QUICK)
    async with asyncio.timeout(SOON):
        await supervisor.run()
    return supervisor


def stub_settings(tmp_path: Path, model: Path | None, **changes: Any) -> SupplySettings:
    changes = {**STUBBED, "instances": 1, **changes}
    return SupplySettings(model=model, state_dir=tmp_path / "state", **changes)


async def test_explicit_instances_start_one_after_another(tmp_path: Path, demo_model: Path) -> None:
    async with supplying(tmp_path, demo_model, instances=3) as supply:
        await supply.until(ready=3)
        up = (State.STARTING, State.WARMING, State.READY)
        assert supply.steps == [(name, state) for name in ("0", "1", "2") for state in up]
        assert len(supply.leases.upstreams) == 3


async def test_auto_stops_before_the_limit_and_says_why(tmp_path: Path, demo_model: Path) -> None:
    limit = MemoryLimit(size=1)
    async with supplying(tmp_path, demo_model, memory_limit=limit) as supply:
        await supply.until(ready=1)
        snapshot = supply.supervisor.snapshot()
        assert [decision.reason for decision in snapshot.decisions] == ["memory"]
        assert snapshot.memory_used > snapshot.memory_limit == 1


async def test_a_snapshot_tells_what_clients_and_scrapers_ask(tmp_path: Path, demo_model: Path) -> None:
    async with supplying(tmp_path, demo_model, instances=1, ctx_size=2048) as supply:
        await supply.until(ready=1)
        snapshot = supply.supervisor.snapshot()
        (member,) = snapshot.members
        assert (member.kind, member.slots, member.leased, member.n_ctx) == (Kind.INSTANCE, 1, 0, 2048)
        assert member.memory is not None
        assert snapshot.memory_used == member.memory.pss > 0
        assert snapshot.models[0]["id"] == "ds4"
        assert (snapshot.settled, snapshot.hopeless, snapshot.n_ctx) == (True, None, 2048)


async def test_a_killed_engine_comes_back(tmp_path: Path, demo_model: Path) -> None:
    async with supplying(tmp_path, demo_model, instances=1) as supply:
        await supply.until(ready=1)
        pid = supply.members[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await supply.until(backoff=1)
        await supply.until(ready=1)
        assert supply.members[0].pid != pid


async def test_a_drain_refuses_new_leases_and_waits_for_those_that_are_out(tmp_path: Path, demo_model: Path) -> None:
    async with supplying(tmp_path, demo_model, instances=1) as supply, asyncio.TaskGroup() as tasks:
        await supply.until(ready=1)
        lease = supply.leases.take()
        assert lease is not None
        drained = tasks.create_task(supply.supervisor.drain())
        await supply.until(draining=1)
        with pytest.raises(ShuttingDown):
            supply.leases.take()
        assert not drained.done()
        lease.release()
        assert await drained


@pytest.mark.parametrize("keep", [True, False])
async def test_where_conversations_are_kept_a_drain_saves_what_engines_hold(
    tmp_path: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    asked: list[tuple[str, int]] = []

    async def leaving(turns: Turns, upstream: Upstream) -> None:
        asked.append((upstream.instance, supply.leases.offered(upstream)))

    monkeypatch.setattr(Turns, "leaving", leaving)
    async with supplying(tmp_path, demo_model, instances=2, kv_keep=keep) as supply:
        await supply.until(ready=2)
        assert await supply.supervisor.drain()
    assert asked == ([("0", 0), ("1", 0)] if keep else [])


async def test_a_drain_is_bounded(tmp_path: Path, demo_model: Path) -> None:
    async with supplying(tmp_path, demo_model, instances=1, drain_timeout=0.05) as supply:
        await supply.until(ready=1)
        lease = supply.leases.take()
        assert not await supply.supervisor.drain()
        assert lease is not None
        lease.release()


async def test_a_stop_while_the_first_engine_is_starting_leaves_nothing(tmp_path: Path, demo_model: Path) -> None:
    async with supplying(tmp_path, demo_model, instances=2) as supply:
        await supply.moved.wait()


async def test_a_cancelled_run_leaves_no_engine(tmp_path: Path, demo_model: Path) -> None:
    async with supplying(tmp_path, demo_model, instances=2) as supply:
        await supply.until(ready=2)
        supply.run.cancel()
        async with asyncio.timeout(SOON):
            await asyncio.wait({supply.run})
    assert supply.run.cancelled()


async def test_a_stop_before_the_run_is_no_run(tmp_path: Path, demo_model: Path) -> None:
    supervisor = Supervisor(stub_settings(tmp_path, demo_model), Leases(Pool(8)))
    await supervisor.prepare()
    await supervisor.stop()
    await supervisor.run()
    assert supervisor.snapshot().members == ()
    assert is_free(tmp_path / "state" / "slotproxy.lock")


async def test_when_all_have_failed_requests_are_refused_until_one_recovers(tmp_path: Path, demo_model: Path) -> None:
    async with supplying(tmp_path, demo_model, instances=1) as supply:
        await supply.until(ready=1)
        lock = supply.state_dir / "instances" / "0" / "engine.lock"
        await _take_over(supply, lock)
        await supply.until(failed=1)
        with pytest.raises(NoInstances, match="every instance has failed: its lock file is held by another process"):
            supply.leases.take()
        assert supply.supervisor.snapshot().hopeless is not None


async def _take_over(supply: Supply, lock: Path) -> None:
    """Kill the engine and hold its lock before the next one takes it: another file, of the same name."""
    os.unlink(lock)
    held = FileLock.take(lock)
    pid = supply.members[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await supply.until(failed=1)
    held.release()


async def test_no_instance_at_all_ends_the_run_with_the_reason(tmp_path: Path, demo_model: Path) -> None:
    with pytest.raises(
        StartupError, match=r"no instance could be started: .*unrecognized arguments: --bogus .*engine.log"
    ):
        await run_to_end(stub_settings(tmp_path, demo_model, engine_args=("--bogus",)))
    assert is_free(tmp_path / "state" / "slotproxy.lock")


async def test_a_model_the_engine_refuses_ends_the_run_as_a_model_error(
    tmp_path: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = replace(model.check(demo_model), path=tmp_path / "other")  # its header is sound, says our own check
    facts.path.write_bytes(b"junk")
    monkeypatch.setattr(model, "check", lambda path, **_: facts)
    with pytest.raises(ModelError, match="the engine cannot load the model"):
        await run_to_end(stub_settings(tmp_path, demo_model))


async def test_a_lock_of_one_instance_does_not_keep_the_others_from_serving(tmp_path: Path, demo_model: Path) -> None:
    directory = tmp_path / "instances" / "0"
    directory.mkdir(parents=True)
    lock = FileLock.take(directory / "engine.lock")
    async with supplying(tmp_path, demo_model, instances=2) as supply:
        await supply.until(failed=1, ready=1)
        lock.release()


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"model": None}, ConfigurationError, "there is nothing to serve; give --model or --upstream"),
        ({"model": Path("/nowhere.gguf")}, ModelError, "/nowhere.gguf"),
        ({"engine": "lama"}, ConfigurationError, "there is no engine profile 'lama'"),
        ({"engine_bin": "/nowhere"}, ConfigurationError, "check --engine-bin"),
        ({"upstreams": (UpstreamSpec(url="x"),)}, ConfigurationError, "--upstream x is no URL"),
    ],
)
async def test_what_is_wrong_with_the_configuration_is_told_before_anything_is_touched(
    tmp_path: Path, demo_model: Path, changes: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    settings = stub_settings(tmp_path, **({"model": demo_model} | changes))
    with pytest.raises(error, match=sentence):
        await Supervisor(settings, Leases(Pool(8))).prepare()
    assert not (tmp_path / "state").exists()


async def test_a_second_supervisor_on_the_same_state_directory_is_refused(tmp_path: Path, demo_model: Path) -> None:
    async with supplying(tmp_path / "state", demo_model, instances=1) as supply:
        await supply.until(ready=1)
        with pytest.raises(StartupError, match=f"already used by process {os.getpid()}"):
            await run_to_end(stub_settings(tmp_path, demo_model))
        assert supply.members[0].state is State.READY


async def test_an_engine_left_over_from_a_killed_proxy_is_ended_first(tmp_path: Path, demo_model: Path) -> None:
    command = (sys.executable, "-c", "import time; time.sleep(60)")
    leftover = left_over(command)
    (tmp_path / "instances" / "5").mkdir(parents=True)
    records.write(tmp_path / "instances" / "5", pid=leftover.pid, port=1, command=command)
    async with supplying(tmp_path, demo_model, instances=1) as supply:
        await supply.until(ready=1)
        assert leftover.wait(SOON) == -signal.SIGTERM


def left_over(command: tuple[str, ...]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, start_new_session=True)


async def test_upstreams_serve_without_any_instance(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "far"}]})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        spec = UpstreamSpec(url=f"http://127.0.0.1:{server.port}", slots=2)
        async with supplying(tmp_path, None, upstreams=(spec,)) as supply:
            await supply.until(ready=1)
            (member,) = supply.members
            assert (member.id, member.kind, member.slots) == ("u0", Kind.UPSTREAM, 2)
            lease = supply.leases.take()
            assert lease is not None
            lease.abandon()
            async with asyncio.timeout(SOON):
                while supply.leases.leased(lease.upstream):
                    await asyncio.sleep(0.005)
            supply.leases.owner.failed(lease.upstream, "reset")
            assert (await supply.leases.wait(SOON)).upstream is lease.upstream
