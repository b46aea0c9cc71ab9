"""The embedded engine for real: how it answers, notices a cancel, ends, and what it says when it cannot start."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import xllamacpp

from slotproxy.instances.aftercare import Aftercare
from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.failures import Cause
from slotproxy.instances.lifecycle import State
from slotproxy.instances.memory.process_tree import read_tree
from slotproxy.instances.models import model as model_file
from slotproxy.instances.processes import ports
from slotproxy.instances.profiles import catalog, launch, selection
from slotproxy.instances.profiles.embedded import CHECK, main, parameters
from slotproxy.instances.profiles.launch import Launch
from slotproxy.instances.profiles.llama_arguments import KNOWN
from slotproxy.instances.profiles.llama_options import OPTIONS
from slotproxy.instances.running.instance import Instance
from slotproxy.instances.running.probe import Probe, resolve
from slotproxy.instances.settings import SupplySettings
from slotproxy.instances.slots.lease import Lease
from slotproxy.instances.upstream import Upstream
from tests.instances.conftest import SOON, World, assert_nobody_on, pid_of, upstream_of

WEIGHTS = 98_362_432  # bytes of the demo model
LONG = 4000  # tokens nobody waits for


def embedded(model: Path, *extra_args: str) -> Launch:
    profile = catalog.load("embedded")
    run = selection.program(profile, None)
    return Launch(profile=profile, program=run, model=model, name="demo", ctx=1024, threads=1, extra_args=extra_args)


@pytest.fixture
async def engine(world: World, demo_model: Path) -> Instance:
    instance = await world.started(embedded(demo_model))
    assert instance.status.state is State.READY, instance.status.reason
    world.leases.owner = Aftercare(world.leases, lambda: tuple(world.instances), world.tasks)
    return instance


async def asked(upstream: Upstream, *, stream: bool) -> asyncio.StreamWriter:
    """A long request, begun; of a stream the first bytes have come."""
    messages = [{"role": "user", "content": "Tell a story."}]
    body = json.dumps({"messages": messages, "max_tokens": LONG, "stream": stream})
    reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write((head + body).encode())
    if stream:
        await reader.readuntil(b"data: ")
    return writer


async def processing(probe: Probe, upstream: Upstream) -> None:
    """Return once the engine works on a request."""
    slots: Any = None
    while not slots or not slots[0]["is_processing"]:
        answer = await probe.ask(upstream, "/slots")
        slots = answer.document() if answer else None


async def abandoned(world: World, *, stream: bool) -> float:
    """Seconds until the slot of a request that lost its client is free again."""
    lease = world.leases.take()
    assert isinstance(lease, Lease)
    lease.streaming = stream
    writer = await asked(lease.upstream, stream=stream)
    await processing(world.probe, lease.upstream)
    writer.transport.abort()
    began = asyncio.get_running_loop().time()
    lease.abandon()
    again = await world.leases.wait(SOON)
    took = asyncio.get_running_loop().time() - began
    answer = await world.probe.ask(again.upstream, "/slots")
    assert answer is not None
    assert not answer.document()[0]["is_processing"]
    again.release()
    return took


async def test_it_tells_its_name_its_context_and_its_slots(world: World, engine: Instance) -> None:
    assert engine.models[0]["id"] == "demo"
    assert engine.member().n_ctx == 1024
    answer = await world.probe.ask(upstream_of(engine), "/slots")
    assert answer is not None
    assert len(answer.document()) == 1
    assert (await world.probe.ask(upstream_of(engine), "/metrics")).status == 200  # type: ignore[union-attr]


async def test_a_slot_is_saved_in_the_folder_of_all_instances_and_nobody_else_can_read_it(
    world: World, engine: Instance
) -> None:
    answer = await world.probe.ask(upstream_of(engine), "/slots/0?action=save", body={"filename": "tmp-a"})
    assert answer is not None
    assert answer.status == 200, answer.body
    (file,) = (world.state_dir / "kv-store").iterdir()
    assert file.name == "tmp-a"
    assert file.stat().st_size == answer.document()["n_written"] > 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


async def test_an_abandoned_stream_frees_its_slot_within_a_second(world: World, engine: Instance) -> None:
    assert await abandoned(world, stream=True) < 1.0


async def test_an_abandoned_request_without_a_stream_frees_its_slot_soon(world: World, engine: Instance) -> None:
    assert await abandoned(world, stream=False) < 5.0
    assert world.states().count(State.STARTING) == 1


async def test_weights_are_shared_between_instances(world: World, engine: Instance, demo_model: Path) -> None:
    second = await world.started(embedded(demo_model))
    await engine.measure(read_tree)
    await second.measure(read_tree)
    assert engine.memory is not None
    assert second.memory is not None
    for reading in (engine.memory, second.memory):
        assert reading.private < WEIGHTS / 1.2  # a copy of the weights would be private
    assert engine.memory.pss + second.memory.pss < engine.memory.private + second.memory.private + 1.5 * WEIGHTS


async def test_an_idle_one_ends_at_once_and_one_with_a_stream_as_soon_as_that_is_closed(
    world: World, engine: Instance
) -> None:
    upstream = upstream_of(engine)
    writer = await asked(upstream, stream=True)
    engine.stop()
    writer.transport.abort()
    async with asyncio.timeout(3):
        await world.reached(State.STOPPED)
    assert world.states()[-2:] == [State.STOPPING, State.STOPPED]
    await assert_nobody_on(upstream.port)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a parent-death signal")
def test_it_dies_with_the_process_that_started_it(demo_model: Path) -> None:
    command = [sys.executable, "-m", "slotproxy.instances.profiles.embedded", "-m", str(demo_model), "--port", "0"]
    parent_code = f"import subprocess; child = subprocess.Popen({command!r}, stderr=subprocess.STDOUT); child.wait()"
    parent = subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    for line in parent.stdout:
        if b"embedded: listening" in line:  # not always at its beginning: the engine writes beside us
            break
    parent.kill()
    assert parent.stdout.read() is not None  # the end of its output: nobody holds it open any more
    parent.wait(SOON)
    parent.stdout.close()


def _log(instance: Instance) -> str:
    return (instance.directory / "engine.log").read_text()


async def test_a_second_signal_ends_it_although_a_request_is_running(world: World, engine: Instance) -> None:
    pid, upstream = pid_of(engine), upstream_of(engine)
    writer = await asked(upstream, stream=False)
    await processing(world.probe, upstream)
    os.kill(pid, signal.SIGTERM)
    async with asyncio.timeout(SOON):
        while "waiting for main loop exit" not in _log(engine):
            await asyncio.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    async with asyncio.timeout(3):
        await engine.gone(upstream)
    writer.close()


@pytest.mark.parametrize(("content", "said"), [(b"junk", "invalid magic"), (None, "failed to open GGUF file")])
async def test_a_model_it_cannot_load_is_named(world: World, tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "m.gguf").write_bytes(content)
    instance = await world.started(embedded(tmp_path / "m.gguf"))
    assert world.states() == [State.STARTING, State.BACKOFF, State.FAILED]
    assert instance.status.failure is not None
    assert instance.status.failure.cause is Cause.MODEL
    assert said in instance.status.reason


async def test_a_taken_port_is_left_for_another(
    world: World, demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        offered = iter([taken.getsockname()[1], ports.free("127.0.0.1")])
        monkeypatch.setattr(ports, "free", lambda host: next(offered))
        instance = await world.started(embedded(demo_model))
    assert instance.status.state is State.READY
    assert instance.status.failure is not None
    assert instance.status.failure.cause is Cause.PORT_TAKEN


async def test_an_unknown_argument_is_the_reason_it_does_not_start(world: World, demo_model: Path) -> None:
    instance = await world.started(embedded(demo_model, "--bogus"))
    assert "unrecognized arguments: --bogus" in instance.status.reason


SAMPLES = (
    *("1", "0", "on", "x", "f16", "mean", "none", "mmap", "auto", "layer", "linear", "isolate", "greedy", "0x3", "0-3"),
    *("1+1", "draft-mtp", "{}", "CPU", "a=CPU", 'root ::= "a"'),
)


@pytest.mark.parametrize("flag", sorted(flag for option in OPTIONS for flag in option.flags))
def test_the_wheel_has_a_setting_for_every_option(flag: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("{}")
    values = (*SAMPLES, str(file), f"{file}:0.5") if KNOWN[flag].hint else ("",)
    arguments = [[CHECK, flag, value] if KNOWN[flag].hint else [CHECK, flag] for value in values]
    assert any(main(each) == 0 for each in arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--lora", "/nowhere"], "--lora /nowhere cannot be read: No such file or directory"),
        (["--override-tensor", "a=junk"], "--override-tensor is refused by llama.cpp: unknown buffer type"),
        (["--json-schema", "{"], "--json-schema is refused by llama.cpp"),
        (["--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_it_judges_its_arguments_without_a_model(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([CHECK, *arguments]) == 2
    assert f"embedded: error: {said}" in capsys.readouterr().err


def test_options_that_add_up_are_all_kept(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    given = ["--lora", str(tmp_path / "a"), "--lora-scaled", f"{tmp_path / 'b'}:0.5", "-c", "1", "-c", "2"]
    params = parameters(xllamacpp, given)
    assert [(Path(each.path).name, each.scale) for each in params.lora_adapters] == [("a", 1.0), ("b", 0.5)]
    assert params.n_ctx == 2


def test_what_an_instance_needs_holds_unless_it_is_said_otherwise() -> None:
    params = parameters(xllamacpp, ["--cache-ram", "9"])
    assert params.load_mode == xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_MMAP
    assert (params.no_extra_bufts, params.fit_params, params.cache_ram_mib, params.ui) == (True, False, 9, False)
    assert params.cors_origins == "*"
    assert parameters(xllamacpp, ["--tools", "all"]).cors_origins == "localhost"


async def prepared(model: Path, *own: str) -> Launch:
    """As slotproxy itself makes it of what follows `--`."""
    settings = SupplySettings(
        model=model, engine="embedded", engine_args=own, ctx_size=1024, state_dir=model.parent / "unused"
    )
    return await launch.prepare(settings, model_file.check(model))


@pytest.mark.parametrize(
    ("own", "path", "body", "pointer"),
    [
        (["--embeddings"], "/v1/embeddings", {"input": "the sea is cold " * 120}, "/data/0/embedding/0"),
        (["--reranking"], "/v1/rerank", {"query": "a", "documents": ["b"]}, "/results/0/relevance_score"),
        (
            ["--chat-template", "chatml", "--jinja", "-fa", "on", "-ctk", "q8_0"],
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4},
            "/choices/0/message/content",
        ),
    ],
)
async def test_what_follows_the_dashes_makes_it_another_server(
    world: World, demo_model: Path, own: list[str], path: str, body: dict[str, Any], pointer: str
) -> None:
    instance = await world.started(await prepared(demo_model, *own))
    assert instance.status.state is State.READY, instance.status.reason
    answer = await world.probe.ask(upstream_of(instance), path, body=body, timeout=SOON)
    assert answer is not None
    assert resolve(answer.document(), pointer) is not None, answer.body[:300]


async def test_the_users_alias_is_the_models_name(world: World, demo_model: Path) -> None:
    instance = await world.started(await prepared(demo_model, "--alias", "mine"))
    assert instance.models[0]["id"] == "mine"


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (["--cache-typ-k", "x"], "^embedded does not take what follows --: .*; did you mean --cache-type-k[?]$"),
        (["-ngl", "many"], "^embedded does not take what follows --: -ngl needs a whole number, not 'many'$"),
        (["--mmproj", "nowhere.gguf"], "^--mmproj nowhere.gguf after -- does not exist$"),
    ],
)
async def test_a_wrong_argument_is_said_before_anything_is_started(demo_model: Path, own: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        await prepared(demo_model, *own)


async def test_an_adapter_that_is_none_is_not_tried_again(world: World, demo_model: Path) -> None:
    instance = await world.started(await prepared(demo_model, "--lora", str(demo_model)))
    assert world.states() == [State.STARTING, State.BACKOFF, State.FAILED]
    assert instance.status.failure is not None
    assert instance.status.failure.cause is Cause.ARGUMENTS


def test_without_the_wheel_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    monkeypatch.setattr("slotproxy.instances.profiles.embedded._die_with_parent", lambda: None)
    assert main(["--model", "m"]) == 1
    assert "install slotproxy[embedded]" in capsys.readouterr().err
