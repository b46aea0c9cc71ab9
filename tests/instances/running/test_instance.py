import asyncio
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from slotproxy.instances.failures import Cause, Failure
from slotproxy.instances.lifecycle import State
from slotproxy.instances.processes import ports
from slotproxy.instances.processes.locks import FileLock
from slotproxy.instances.profiles.profile import Stop
from slotproxy.instances.running.backoff import Backoff
from tests.instances.conftest import SOON, World, assert_gone, is_free, pid_of, stub_launch, upstream_of

HUNG = Failure(cause=Cause.HANG, sentence="it hung")
UP = [State.STARTING, State.WARMING, State.READY]
NEVER = Backoff(first=600, longest=600)


async def test_it_is_offered_only_once_it_is_warm_and_never_after_a_stop(world: World, gguf: Path) -> None:
    instance = await world.started(stub_launch(gguf))
    pid, upstream = pid_of(instance), upstream_of(instance)
    assert world.states() == UP
    assert list(world.leases.upstreams) == [upstream]
    instance.stop()
    await world.reached(State.STOPPED)
    assert list(world.leases.upstreams) == []
    assert world.states() == [*UP, State.STOPPING, State.STOPPED]
    await assert_gone(pid, upstream.port)
    assert is_free(instance.directory / "engine.lock")
    assert not (instance.directory / "instance.json").exists()


async def test_each_instance_has_a_lock_a_kv_directory_a_log_and_a_port_of_its_own(world: World, gguf: Path) -> None:
    first, second = await world.started(stub_launch(gguf)), await world.started(stub_launch(gguf))
    assert upstream_of(first).port != upstream_of(second).port
    for instance in (first, second):
        names = sorted(path.name for path in instance.directory.iterdir())
        assert names == ["engine.lock", "engine.log", "instance.json", "kv"]
        assert (instance.directory / "engine.lock").read_text().strip() == str(pid_of(instance))
        assert all(path.stat().st_mode & 0o077 == 0 for path in (instance.directory, *instance.directory.iterdir()))


async def test_a_crash_is_followed_by_a_restart_as_a_new_upstream(world: World, gguf: Path) -> None:
    instance = await world.started(stub_launch(gguf))
    pid, upstream = pid_of(instance), upstream_of(instance)
    os.kill(pid, signal.SIGKILL)
    await world.reached(State.READY, times=2)
    assert world.states() == [*UP, State.BACKOFF, *UP]
    assert world.leases.upstreams == (upstream_of(instance),)
    assert upstream_of(instance) is not upstream
    assert (instance.member().restarts, world.transitions[-1].cause) == (1, "out-of-memory")
    await assert_gone(pid, upstream.port)


async def test_one_that_exits_at_once_fails_after_the_allowed_tries_with_the_reason_from_its_log(
    world: World, gguf: Path
) -> None:
    instance = await world.started(stub_launch(gguf, "--bogus"))
    assert instance.status.state is State.FAILED
    assert world.states().count(State.STARTING) == 1 + Backoff().most
    assert "exited with status 2; its last words: ds4-server: error: unrecognized arguments: --bogus" in (
        instance.member().reason
    )


async def test_one_that_dies_soon_after_being_ready_fails_as_well(world: World, gguf: Path) -> None:
    instance = await world.started(stub_launch(gguf, "--crash-after", "0.3"))
    await world.reached(State.FAILED)
    assert world.states().count(State.STARTING) == 1 + Backoff().most
    assert State.READY in world.states()
    assert "exited with status 3" in instance.member().reason


async def test_a_lock_held_by_another_process_is_named_and_not_retried(world: World, gguf: Path) -> None:
    directory = world.state_dir / "instances" / "0"
    directory.mkdir(parents=True)
    lock = FileLock.take(directory / "engine.lock")
    instance = await world.started(stub_launch(gguf))
    lock.release()
    assert world.states() == [State.STARTING, State.BACKOFF, State.FAILED]
    assert f"already running (pid {os.getpid()})" in instance.member().reason


async def test_a_bad_model_is_named_and_not_retried(world: World, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"junk")
    instance = await world.started(stub_launch(tmp_path / "bad.gguf"))
    assert world.states() == [State.STARTING, State.BACKOFF, State.FAILED]
    assert instance.status.failure is not None
    assert instance.status.failure.cause is Cause.MODEL


async def test_an_engine_too_large_for_the_machine_is_not_started_again_and_again(world: World, gguf: Path) -> None:
    program = (sys.executable, "-c", "print('ds4: Insufficient Memory'); raise SystemExit(1)")
    await world.started(stub_launch(gguf, program=program))
    assert world.states() == [State.STARTING, State.BACKOFF, State.FAILED]


async def test_a_taken_port_is_left_for_another_without_a_delay(
    world: World, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        offered = iter([taken.getsockname()[1], ports.free("127.0.0.1")])
        monkeypatch.setattr(ports, "free", lambda host: next(offered))
        instance = await world.started(stub_launch(gguf), backoff=NEVER)
    assert world.states() == [State.STARTING, State.BACKOFF, *UP]
    assert instance.status.reason.startswith("its port is taken: ds4-server: failed to listen on 127.0.0.1:")


async def test_three_other_ports_are_tried(world: World, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(ports, "free", lambda host: taken.getsockname()[1])
        await world.started(stub_launch(gguf), backoff=NEVER)
    assert world.states().count(State.STARTING) == 4
    assert world.states()[-1] is State.FAILED


async def test_a_restart_ends_the_engine_first_and_waits_like_after_a_crash(world: World, gguf: Path) -> None:
    instance = await world.started(stub_launch(gguf))
    pid, upstream = pid_of(instance), upstream_of(instance)
    instance.restart(HUNG)
    assert world.leases.upstreams == ()
    await world.reached(State.READY, times=2)
    assert world.states() == [*UP, State.STOPPING, State.STOPPED, State.BACKOFF, *UP]
    assert instance.member().reason == "it hung"
    await assert_gone(pid, upstream.port)


async def test_one_that_ignores_term_is_killed(world: World, gguf: Path) -> None:
    instance = await world.started(stub_launch(gguf, "--stuck", stop=Stop(term=0.1, again=0.1)))
    pid, upstream = pid_of(instance), upstream_of(instance)
    instance.stop()
    await world.reached(State.STOPPED)
    await assert_gone(pid, upstream.port)


async def test_a_failed_instance_comes_back_when_it_is_asked_to(world: World, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    instance = await world.started(stub_launch(model))
    assert instance.status.state is State.FAILED
    model.write_bytes(b"GGUF")
    instance.restart(Failure(cause=Cause.OPERATOR, sentence="asked to"))
    await world.reached(State.READY)


@pytest.mark.parametrize(("extra", "state"), [(("--bogus",), State.BACKOFF), (("-m", "/nowhere"), State.FAILED)])
async def test_a_stop_ends_the_wait_for_a_restart_and_the_failed_state(
    world: World, gguf: Path, extra: tuple[str, ...], state: State
) -> None:
    instance = world.instance(stub_launch(gguf, *extra), backoff=NEVER)
    run = world.tasks.create_task(instance.run())
    await world.reached(state)
    instance.stop()
    async with asyncio.timeout(SOON):
        await run
    assert world.states()[-1] is State.STOPPED


async def test_a_drained_instance_takes_no_lease_finishes_and_stays_down(world: World, gguf: Path) -> None:
    instance = await world.started(stub_launch(gguf))
    lease = world.leases.take()
    assert lease is not None
    instance.drain()
    assert world.leases.take() is None
    assert (instance.status.state, instance.member().leased) == (State.DRAINING, 1)
    lease.release()
    os.kill(pid_of(instance), signal.SIGTERM)
    await world.reached(State.STOPPED)
    assert world.states() == [*UP, State.DRAINING, State.STOPPED]


async def test_a_cancelled_run_kills_the_engine_at_once(world: World, gguf: Path) -> None:
    instance = world.instance(stub_launch(gguf, "--stuck", stop=Stop(term=60, again=60)))
    run = world.tasks.create_task(instance.run())
    await world.reached(State.READY)
    upstream = upstream_of(instance)
    over = asyncio.shield(instance.gone(upstream))
    await asyncio.sleep(0)
    run.cancel()
    async with asyncio.timeout(SOON):
        await over
    assert world.leases.upstreams == ()
    assert not (instance.directory / "instance.json").exists()


async def test_a_stop_while_starting_is_obeyed_at_once(world: World, gguf: Path) -> None:
    instance = world.instance(stub_launch(gguf, program=(sys.executable, "-c", "import time; time.sleep(60)")))
    run = world.tasks.create_task(instance.run())
    await world.reached(State.STARTING)
    await asyncio.sleep(0)
    instance.stop()
    async with asyncio.timeout(SOON):
        await run
    assert world.states() == [State.STARTING, State.STOPPING, State.STOPPED]


async def test_the_log_has_one_line_per_transition(world: World, gguf: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "slotproxy.instances.running.status")
    await world.started(stub_launch(gguf))
    lines = [record.getMessage() for record in caplog.records if " -> " in record.getMessage()]
    assert len(lines) == len(world.transitions)
    assert lines[1].startswith("instance 0: starting -> warming (pid ")


async def test_an_engine_whose_model_file_was_replaced_serves_on_and_is_called_stale(world: World, gguf: Path) -> None:
    instance = await world.started(stub_launch(gguf))
    assert not instance.member().stale
    other = gguf.with_name("other.gguf")
    other.write_bytes(b"GGUF, and more")
    other.rename(gguf)
    assert instance.member().stale
    assert instance.status.state is State.READY
    instance.restart(Failure(cause=Cause.OPERATOR, sentence="restarted on request"))
    assert await instance.outcome() is State.READY
    assert not instance.member().stale


async def test_an_engine_that_hangs_is_not_given_the_time_of_one_that_stops(
    world: World, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slotproxy.instances.running.engine.HUNG", 0.01)
    instance = await world.started(stub_launch(gguf, stop=Stop(term=600, again=600)))
    os.kill(pid_of(instance), signal.SIGSTOP)
    instance.restart(Failure(cause=Cause.HANG, sentence="it hangs"))
    await world.reached(State.READY, times=2)
