"""Real llama-server, of both generations of flags, and real mlx_lm.server, where the cache has them."""

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

import psutil
import pytest

from scripts import llama_server, mlx_lm_server
from slotproxy.instances.profiles import catalog, detection
from tests.clients import Unframed, ask, chat, connected, eventually, post, request, streaming
from tests.running import ROOT, Running, StartProxy, is_locked, wait_for
from tests.tiny_model import make

pytestmark = pytest.mark.slow
ONE_THREAD = ("--", "--threads", "1")  # several spin while they wait for each other, and starve where all is busy
NEW, OLD = llama_server.BUILDS
POISON = {
    "LLAMA_ARG_CTX_SIZE": "512",
    "LLAMA_ARG_N_PARALLEL": "4",
    "LLAMA_ARG_LOAD_MODE": "none",
    "LLAMA_ARG_NO_MMAP": "1",
    "LLAMA_ARG_PORT": "1",
    "LLAMA_ARG_HOST": "0.0.0.0",
    "LLAMA_ARG_CACHE_RAM": "8192",
    "LLAMA_API_KEY": "secret",
}


def command_of(proxy: Running, number: int) -> list[str]:
    record = json.loads((proxy.state_dir / "instances" / str(number) / "instance.json").read_text())
    command: list[str] = record["command"]
    return command


def maps(pid: int, model: Path) -> bool:
    """Whether the process has most of the file mapped."""
    resident = 0
    if sys.platform == "linux":
        resident = sum(part.rss for part in psutil.Process(pid).memory_maps() if part.path == str(model))
    return resident > model.stat().st_size / 2


async def ready(start_proxy: StartProxy, *options: str, instances: int, env: dict[str, str] | None = None) -> Running:
    starting = start_proxy("--instances", str(instances), *options, env=env)
    return await asyncio.to_thread(starting.wait_ready, instances)


async def rests(proxy: Running) -> bool:
    return proxy.busy() == 0


async def works(proxy: Running) -> bool:
    return proxy.busy() > 0


@pytest.fixture(params=[NEW, OLD], ids=["load-mode", "no-mmap"])
def llama_build(request: pytest.FixtureRequest) -> int:
    build: int = request.param
    if not llama_server.binary(build).exists():
        pytest.skip(f"llama-server {build} is not in the cache; make engines-llama-server builds it")
    return build


async def test_llama_server_of_each_generation(llama_build: int, demo_model: Path, start_proxy: StartProxy) -> None:
    binary = str(llama_server.binary(llama_build))
    options = ("--model", str(demo_model), "--engine", "llama-server", "--engine-bin", binary, "--ctx-size", "1000")
    proxy = await ready(start_proxy, *options, *ONE_THREAD, instances=2, env=POISON)

    help_text = await detection.help_text(catalog.load("llama-server"), (binary,))
    assert ("--load-mode" in help_text) == (llama_build == NEW)
    for number in range(2):
        command = command_of(proxy, number)
        assert ("--load-mode" in command) == (llama_build == NEW)
        assert command.count("--no-repack") == 1
        assert [slot["n_ctx"] for slot in proxy.slots()] == [1024, 1024]  # rounded up, and all of it in one slot
    for pid in proxy.pids():
        assert not [name for name in psutil.Process(pid).environ() if name in POISON]
        assert maps(pid, demo_model)
    assert (await asyncio.to_thread(proxy.get, "/props"))[1]["total_slots"] == 1

    assert (await post(proxy.port, chat(max_tokens=4))).json()["usage"]["completion_tokens"] == 4
    async with streaming(proxy.port, chat(max_tokens=4)) as client:
        assert (await client.answer()).body.endswith(b"data: [DONE]\n\n")

    async with streaming(proxy.port, chat("Count to 500.", max_tokens=900)) as client:
        await client.head()
        await client.next_event()
        client.abort()
    await eventually(lambda: rests(proxy))
    async with connected(proxy.port) as client:
        client.send(request("POST", "/v1/chat/completions", chat("Count to 500.", max_tokens=900)))
        await eventually(lambda: works(proxy))
        client.abort()
    await eventually(lambda: rests(proxy))
    assert all(psutil.Process(pid).cpu_percent(0.5) < 50 for pid in proxy.pids())


def options_of(engine: str, demo_model: Path, folder: Path) -> tuple[str, ...]:
    """How to start it; skips where it is not in the cache."""
    if engine == "embedded":
        return "--model", str(demo_model), "--engine", engine, *ONE_THREAD
    binary = mlx_lm_server.binary() if engine == "mlx_lm.server" else llama_server.binary(NEW)
    if not binary.exists():
        pytest.skip(f"{binary} is not there; make engines-llama-server engines-mlx-lm")
    model = make(folder / "nonsense", hidden=512) if engine == "mlx_lm.server" else demo_model
    more = () if engine == "mlx_lm.server" else ONE_THREAD
    return "--model", str(model), "--engine", engine, "--engine-bin", str(binary), *more


@pytest.mark.parametrize("engine", ["embedded", "llama-server", "mlx_lm.server"])
async def test_a_killed_engine_is_replaced_and_a_stop_lets_a_stream_end(
    engine: str, demo_model: Path, start_proxy: StartProxy, tmp_path: Path
) -> None:
    proxy = await ready(start_proxy, *options_of(engine, demo_model, tmp_path), instances=1)
    place = proxy.state_dir / "instances" / "0"
    (pid,) = proxy.pids()
    assert is_locked(place / "engine.lock")
    async with streaming(proxy.port, chat("Count to 500.", max_tokens=900)) as client:
        await client.head()
        await client.next_event()
        psutil.Process(pid).kill()
        with pytest.raises(Unframed, match="the stream was cut"):
            await client.rest()
    await eventually(lambda: replaced(proxy, pid), 60.0)
    assert (await post(proxy.port, chat(max_tokens=2))).head.status == 200

    family = [psutil.Process(proxy.pid), *psutil.Process(proxy.pid).children(recursive=True)]
    async with streaming(proxy.port, chat("Count to 500.", max_tokens=60)) as client:
        await client.head()
        await client.next_event()
        proxy.process.send_signal(signal.SIGTERM)
        assert (b"\n\n".join([event async for event in client.events()])).endswith(b"data: [DONE]")
    assert await asyncio.to_thread(proxy.wait) == 0, proxy.log
    proxy.assert_nothing_left(family, set())


async def replaced(proxy: Running, pid: int) -> bool:
    return proxy.ready_count() == 1 and pid not in proxy.pids()


@pytest.fixture
def embedder(tmp_path: Path) -> Path:
    """The profile in the documentation."""
    page = (ROOT / "docs" / "engines.md").read_text("utf-8")
    path = tmp_path / "embedder.toml"
    path.write_text(re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0])
    return path


async def test_the_worked_example_of_a_profile_of_ones_own(
    demo_model: Path, start_proxy: StartProxy, embedder: Path
) -> None:
    binary = llama_server.binary(NEW)
    if not binary.exists():
        pytest.skip(f"llama-server {NEW} is not in the cache; make engines-llama-server builds it")
    options = ("--model", str(demo_model), "--engine", str(embedder), *ONE_THREAD)
    proxy = await ready(start_proxy, *options, instances=2, env={"PATH": f"{binary.parent}:{os.environ['PATH']}"})
    answer = await ask(proxy.port, "POST", "/v1/embeddings", {"input": "slotproxy"})
    assert len(answer.json()["data"][0]["embedding"]) == 576


@pytest.fixture
def mlx() -> str:
    if not mlx_lm_server.binary().exists():
        pytest.skip("mlx_lm.server is not in the cache; make engines-mlx-lm installs it")
    return str(mlx_lm_server.binary())


async def test_mlx_lm_server(mlx: str, start_proxy: StartProxy, tmp_path: Path) -> None:
    model = make(tmp_path / "nonsense", hidden=512, layers=8)  # 65 MiB
    options = ("--model", str(model), "--engine", "mlx_lm.server", "--engine-bin", mlx)
    proxy = await ready(start_proxy, *options, instances=2)
    await asyncio.to_thread(wait_for, lambda: "2 of 2 instances ready" in proxy.log, "settling")

    # Its /health is well before the model is there: what made it ready was an answer.
    for number in range(2):
        lines = (proxy.state_dir / "instances" / str(number) / "engine.log").read_text().splitlines()
        assert [line for line in lines if '"POST /v1/chat/completions HTTP/1.1" 200' in line]
        warming = proxy.log.index(f"instance {number}: starting -> warming")
        assert warming < proxy.log.index(f"instance {number}: warming -> ready")

    # A client's name for the model would make it look for that one.
    answer = (await post(proxy.port, chat(max_tokens=3, model="gpt-4"))).json()
    assert (answer["model"], answer["usage"]["completion_tokens"]) == ("default_model", 3)
    async with streaming(proxy.port, chat(max_tokens=3, model="gpt-4")) as client:
        assert (await client.answer()).body.endswith(b"data: [DONE]\n\n")
    assert [model["id"] for model in (await asyncio.to_thread(proxy.get, "/v1/models"))[1]["data"]] == ["nonsense"]

    assert "rather than several instances, start one yourself with --decode-concurrency K" in proxy.log
    assert "the instances do not share the model: each holds" in proxy.log


async def test_a_request_that_mlx_lm_server_cannot_cancel_keeps_its_slot_until_it_ends(
    mlx: str, start_proxy: StartProxy, tmp_path: Path
) -> None:
    model = make(tmp_path / "nonsense", hidden=512, layers=8)
    options = ("--model", str(model), "--engine", "mlx_lm.server", "--engine-bin", mlx)
    proxy = await ready(start_proxy, *options, instances=1)
    (pid,) = proxy.pids()
    async with connected(proxy.port) as client:
        client.send(request("POST", "/v1/chat/completions", chat(max_tokens=600)))
        await eventually(lambda: works(proxy))
        client.abort()
    seen = 0
    while proxy.busy():
        seen += 1
        await asyncio.sleep(0.05)
    assert seen > 10  # the slot stayed busy after its client had left
    assert psutil.Process(pid).cpu_percent(0.5) < 50  # and came back to an engine that had ended its work
    assert (await post(proxy.port, chat(max_tokens=2))).head.status == 200
    assert proxy.pids() == [pid]
