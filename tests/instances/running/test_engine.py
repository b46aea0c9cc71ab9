"""One engine, here always the ds4 stub: how it comes up, what it leaves, and why it failed."""

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from slotproxy.instances.failures import Cause, Failure
from slotproxy.instances.processes import ports
from slotproxy.instances.processes.guardian import Guardian
from slotproxy.instances.processes.locks import FileLock
from slotproxy.instances.profiles.launch import Launch
from slotproxy.instances.profiles.profile import Lock, Ready, WarmUp
from slotproxy.instances.running.engine import EngineFailed, spawned
from slotproxy.instances.running.probe import Probe
from tests.instances.conftest import SOON, assert_gone, is_free, stub_launch

SILENT = (sys.executable, "-c", "import time; time.sleep(60)")
BANNER_ONLY = (
    sys.executable,
    "-c",
    "import time; print('ds4-server: listening on http://x', flush=True); time.sleep(60)",
)


@contextmanager
def failing(cause: Cause, sentence: str) -> Iterator[None]:
    with pytest.raises(EngineFailed, match=sentence) as caught:
        yield
    assert caught.value.failure.cause is cause


async def come_up(launch: Launch, directory: Path) -> None:
    async with Probe() as probe, asyncio.timeout(SOON), spawned("0", launch, directory, Guardian()) as engine:
        await engine.wait_until_ready(probe)
        await engine.warm_up(probe)


async def test_while_it_runs_it_has_its_own_lock_directory_and_record_and_afterwards_only_files(
    tmp_path: Path, gguf: Path
) -> None:
    async with Probe() as probe, spawned("0", stub_launch(gguf), tmp_path / "0", Guardian()) as engine:
        await engine.wait_until_ready(probe)
        await engine.warm_up(probe)
        assert (engine.n_ctx, engine.models[0]["id"]) == (4096, "ds4")
        assert engine.memory is not None
        assert engine.memory.pss > 0
        assert not is_free(tmp_path / "0" / "engine.lock")
        record = json.loads((tmp_path / "0" / "instance.json").read_text())
        assert (record["pid"], record["port"]) == (engine.process.pid, engine.upstream.port)
    await engine.process.exited
    await assert_gone(engine.process.pid, engine.upstream.port)
    assert is_free(tmp_path / "0" / "engine.lock")
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == ["engine.lock", "engine.log", "kv"]


async def test_what_the_relay_must_know_comes_from_the_profile(tmp_path: Path, gguf: Path) -> None:
    async with spawned("7", stub_launch(gguf), tmp_path / "7", Guardian()) as engine:
        assert engine.upstream.instance == "7"
        assert (engine.upstream.keepalive, engine.upstream.write_stall) == (0.0, 2.0)


async def test_an_engine_that_locks_for_itself_names_a_foreign_holder(tmp_path: Path, gguf: Path) -> None:
    (tmp_path / "0").mkdir()
    lock = FileLock.take(tmp_path / "0" / "engine.lock")
    async with spawned("0", stub_launch(gguf), tmp_path / "0", Guardian()) as engine:
        await engine.process.exited
        failure = await engine.why_it_ended(None)
        assert failure.cause is Cause.LOCK_HELD
        assert "another ds4 process is already running (pid " in failure.sentence
    lock.release()


async def test_where_the_supervisor_locks_nothing_is_spawned_beside_a_foreign_holder(
    tmp_path: Path, gguf: Path
) -> None:
    (tmp_path / "0").mkdir()
    lock = FileLock.take(tmp_path / "0" / "engine.lock")
    with failing(Cause.LOCK_HELD, r"engine.lock is already used by process \d+"):
        await come_up(stub_launch(gguf, lock=Lock(holder="supervisor"), env={}), tmp_path / "0")
    assert not (tmp_path / "0" / "engine.log").exists()
    lock.release()


async def test_one_that_is_never_ready_is_too_late(tmp_path: Path, gguf: Path) -> None:
    with failing(Cause.TIMEOUT, "not ready within 0.2 s"):
        await come_up(stub_launch(gguf, program=SILENT, ready=Ready(timeout=0.2)), tmp_path / "0")


async def test_one_that_says_why_it_cannot_go_on_but_does_not_end_is_believed(
    tmp_path: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slotproxy.instances.running.engine.FATAL_GRACE", 0.05)
    program = (SILENT[0], "-c", "print('ds4: model is not a GGUF file', flush=True);" + SILENT[2])
    with failing(Cause.MODEL, "the engine cannot load the model: ds4: model is not"):
        await come_up(stub_launch(gguf, program=program), tmp_path / "0")


async def test_a_stranger_that_answers_on_the_port_is_not_taken_for_the_engine(
    tmp_path: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"data": []})

    app = web.Application()
    app.router.add_get("/v1/models", answer)
    async with TestServer(app) as stranger:
        monkeypatch.setattr(ports, "free", lambda host: stranger.port)
        with failing(Cause.PORT_TAKEN, f"another process answers on port {stranger.port}"):
            await come_up(stub_launch(gguf, program=BANNER_ONLY), tmp_path / "0")


async def test_a_warm_up_that_fails_is_a_failure(tmp_path: Path, gguf: Path) -> None:
    with failing(Cause.WARM_UP, "the warm-up generation failed: status 404"):
        await come_up(stub_launch(gguf, warm_up=WarmUp(path="/nowhere", body={})), tmp_path / "0")


async def test_what_cannot_be_run_or_used_says_so(tmp_path: Path, gguf: Path) -> None:
    with failing(Cause.EXECUTABLE, "/nowhere/engine cannot be run: No such file or directory"):
        await come_up(stub_launch(gguf, program=("/nowhere/engine",)), tmp_path / "0")
    with failing(Cause.DIRECTORY, "model.gguf/0 cannot be used: Not a directory"):
        await come_up(stub_launch(gguf), gguf / "0")


@pytest.mark.parametrize(
    ("code", "suspected", "cause"),
    [
        ("print('boom'); raise SystemExit(3)", None, Cause.CRASH),
        ("print('Insufficient Memory'); raise SystemExit(3)", None, Cause.OUT_OF_MEMORY),
        ("import os; os.kill(os.getpid(), 9)", None, Cause.OUT_OF_MEMORY),
        ("raise SystemExit(3)", Failure(cause=Cause.PORT_TAKEN, sentence="x"), Cause.PORT_TAKEN),
        ("raise SystemExit(3)", Failure(cause=Cause.WARM_UP, sentence="x"), Cause.CRASH),
    ],
)
async def test_the_post_mortem_believes_the_log_then_the_suspicion_then_the_exit(
    tmp_path: Path, gguf: Path, code: str, suspected: Failure | None, cause: Cause
) -> None:
    launch = stub_launch(gguf, program=(sys.executable, "-c", code))
    async with spawned("0", launch, tmp_path / "0", Guardian()) as engine:
        assert (await engine.why_it_ended(suspected)).cause is cause


async def test_a_crash_is_told_with_its_last_words(tmp_path: Path, gguf: Path) -> None:
    launch = stub_launch(gguf, program=(sys.executable, "-c", "print('boom'); raise SystemExit(3)"))
    async with spawned("0", launch, tmp_path / "0", Guardian()) as engine:
        sentence = (await engine.why_it_ended(None)).sentence
    assert sentence == "the engine exited with status 3; its last words: boom"
