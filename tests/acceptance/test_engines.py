"""Every profile against its engine's contract, from the installed command to the last exit."""

import asyncio
import fcntl
import json
import os
import re
import signal
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from slotproxy.instances.profiles import catalog
from tests.clients import Unframed, chat, connected, eventually, post, request, streaming
from tests.contract_engines import Played
from tests.running import Running, StartProxy, is_locked, wait_for
from tests.stubs.contracts import CONTRACTS

QUICK = "ds4-server"  # the others take their turn in the slow tests
LIVES = [pytest.param(name, marks=() if name == QUICK else pytest.mark.slow, id=name) for name in CONTRACTS]


@pytest.fixture
def played(request: pytest.FixtureRequest, tmp_path: Path) -> Played:
    """An engine, by the name the test gives."""
    return Played.prepare(request.param, tmp_path)


def of_engine(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("played", [name], indirect=True, ids=[name])


def check_surroundings(played: Played, proxy: Running, number: int) -> None:
    """Lock, KV directory, port, environment and command line of one instance against its profile."""
    profile, place = catalog.load(played.name), proxy.state_dir / "instances" / str(number)
    record = json.loads((place / "instance.json").read_text())
    (start,) = [event for event in played.events("start") if event["pid"] == record["pid"]]
    facts, environment = start["facts"], start["env"]
    assert facts["port"] == record["port"]
    assert {c.laddr.port for c in psutil.Process(record["pid"]).net_connections() if c.status == "LISTEN"} >= {
        facts["port"],
        *(int(facts[which]) for which in ("port2", "port3") if which in facts),
    }
    assert facts["host"] == "127.0.0.1"
    if profile.takes_ctx:
        assert facts["ctx"] == 2048
    if "kv" in facts:
        assert Path(facts["kv"]) == place / "kv"
    if "store" in facts:
        assert Path(facts["store"]) == proxy.state_dir / "kv-store"
        assert stat.S_IMODE((proxy.state_dir / "kv-store").stat().st_mode) == 0o700
    if "slots" in facts:
        assert facts["slots"] == "1"
    assert stat.S_IMODE((place / "kv").stat().st_mode) == stat.S_IMODE(place.stat().st_mode) == 0o700
    assert is_locked(place / "engine.lock")
    assert Path(start["cwd"]) == place
    words = {"model": played.model, "parent": str(Path(played.model).parent), "host": "127.0.0.1", "ctx": "2048"}
    words |= {"name": facts["name"], "port": str(facts["port"]), "kv": str(place / "kv"), "dir": str(place)}
    words |= {"store": str(proxy.state_dir / "kv-store")}
    words |= {"port2": str(facts.get("port2")), "port3": str(facts.get("port3")), "threads": facts.get("threads", "")}
    assert start["argv"][: len(profile.args)] == [filled(argument, words) for argument in profile.args]
    for variable, value in profile.env.items():
        assert environment[variable] == filled(value, words)
    poison = ("LLAMA_ARG_CTX_SIZE", "LLAMA_ARG_N_PARALLEL", "OLLAMA_HOST", "OLLAMA_NUM_PARALLEL", "DS4_LOCK_FILE")
    assert not [name for name in poison if name in environment and name not in profile.env]


def filled(text: str, words: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: words[match[1]], text)


async def check_answers(played: Played, proxy: Running) -> None:
    answer = await post(proxy.port, chat(max_tokens=3, model="gpt-4" if rewrites(played) else "m"))
    assert answer.head.status == 200, answer.body
    assert answer.json()["choices"][0]["message"]["content"] == "word word word "
    async with streaming(proxy.port, chat(max_tokens=3, model="gpt-4" if rewrites(played) else "m")) as client:
        events = (await client.answer()).events()
    assert [event["choices"][0]["delta"]["content"] for event in events] == ["word "] * 3


def rewrites(played: Played) -> bool:
    return catalog.load(played.name).http.model is not None


async def check_cancel(played: Played, proxy: Running) -> None:
    """A client that leaves: the engine hears of it or works on, and the slot comes back when it is idle."""
    before = len(played.events("cancelled"))
    async with streaming(proxy.port, chat(max_tokens=2000, model="m")) as client:
        await client.head()
        await client.next_event()
        client.abort()
    await eventually(lambda: heard(played, before))
    async with streaming(proxy.port, chat(max_tokens=2, model="m")) as client:  # waits for the slot, never refused
        assert len((await client.answer()).events()) == 2
    async with connected(proxy.port) as leaving:
        leaving.send(request("POST", "/v1/chat/completions", chat(max_tokens=40, model="m")))
        await eventually(lambda: busy(proxy))
        leaving.abort()
    assert (await post(proxy.port, chat(max_tokens=2, model="m"))).head.status == 200
    (pid,) = proxy.pids()
    assert let_go_before_the_last(played.events_of(pid))


def let_go_before_the_last(events: list[Mapping[str, Any]]) -> bool:
    """Whether the engine had ended a client's last request but one when the last came."""
    ours = [number for number, event in enumerate(events) if "x-request-id" in fields_of(event)]
    return any(event["event"] in ("finished", "cancelled") for event in events[ours[-2] : ours[-1]])


def fields_of(event: Mapping[str, Any]) -> set[str]:
    return {name.lower() for name in event.get("headers", ())}


async def heard(played: Played, before: int) -> bool:
    return len(played.events("cancelled")) > before


async def busy(proxy: Running) -> bool:
    return bool(proxy.busy())


async def check_crash(proxy: Running) -> None:
    (pid,) = proxy.pids()
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: replaced(proxy, pid), 30.0)
    assert (await post(proxy.port, chat(max_tokens=1, model="m"))).head.status == 200


async def replaced(proxy: Running, pid: int) -> bool:
    return proxy.ready_count() == 1 and pid not in proxy.pids()


async def check_drain(played: Played, proxy: Running) -> None:
    """What is in flight ends whole, then the engine ends, then the proxy; nothing is left."""
    family = [psutil.Process(proxy.pid), *psutil.Process(proxy.pid).children(recursive=True)]
    async with streaming(proxy.port, chat(max_tokens=20, model="m")) as client:
        await client.head()
        await client.next_event()
        proxy.process.send_signal(signal.SIGTERM)
        rest = b"\n\n".join([event async for event in client.events()])
        assert b"[DONE]" in rest
    assert await asyncio.to_thread(proxy.wait) == 0, proxy.log
    proxy.assert_nothing_left(family, set())
    if CONTRACTS[played.name].finishes is not None:
        assert played.events("stopped")


@pytest.mark.parametrize("played", LIVES, indirect=True)
async def test_a_whole_life(played: Played, start_proxy: StartProxy) -> None:
    options = (*played.options, "--instances", "1", "--ctx-size", "2048")
    proxy = await asyncio.to_thread(lambda: start_proxy(*options, env=played.environment(load=0.2)).wait_ready())
    loaded = [event["pid"] for event in played.events("loaded")]
    assert loaded == proxy.pids()
    assert proxy.slots()[0]["n_ctx"] in (2048, None)
    check_surroundings(played, proxy, 0)
    await check_answers(played, proxy)
    await check_cancel(played, proxy)
    await check_crash(proxy)
    await check_drain(played, proxy)


# What is particular to one engine


@pytest.mark.slow
@of_engine("ds4-server")
def test_two_of_ds4_have_their_own_lock_and_kv_directory(played: Played, start_proxy: StartProxy) -> None:
    proxy = start_proxy(*played.options, "--instances", "2", "--ctx-size", "2048", env=played.environment())
    proxy.wait_ready(2)
    for number in range(2):
        check_surroundings(played, proxy, number)
    locks = {event["env"]["DS4_LOCK_FILE"] for event in played.events("start")}
    assert locks == {str(proxy.state_dir / "instances" / str(number) / "engine.lock") for number in range(2)}


@pytest.mark.slow
@of_engine("ds4-server")
def test_a_foreign_ds4_that_holds_the_lock_is_named_and_not_retried(played: Played, start_proxy: StartProxy) -> None:
    place = played.folder / "state" / "instances" / "0"
    place.mkdir(parents=True)
    with (place / "engine.lock").open("w") as foreign:
        fcntl.flock(foreign, fcntl.LOCK_EX)
        foreign.write(f"{os.getpid()}\n")
        foreign.flush()
        proxy = start_proxy(*played.options, "--instances", "1", env=played.environment())
        assert proxy.wait() == 1
    assert f"another ds4 process is already running (pid {os.getpid()})" in proxy.log
    assert "its lock file is held by another process" in proxy.log
    assert proxy.log.count("stopped -> starting") == 1
    assert "backoff -> starting" not in proxy.log


@of_engine("ds4-server")
def test_auto_settles_at_two_when_the_third_ds4_finds_no_memory_and_does_not_try_again(
    played: Played, start_proxy: StartProxy
) -> None:
    environment = played.environment(oom_from=2)
    proxy = start_proxy(*played.options, "--instances", "auto", "--min-gain", "0", env=environment).wait_ready(2)
    wait_for(lambda: "2 of 3 instances ready" in proxy.log or "2 of 2 instances ready" in proxy.log, "settling")
    assert proxy.ready_count() == 2
    assert "kIOGPUCommandBufferCallbackErrorOutOfMemory" in proxy.log
    assert proxy.log.count("instance 2: stopped -> starting") == 1
    assert "instance 2: backoff -> starting" not in proxy.log


@of_engine("ds4-server")
async def test_what_a_ds4_does_to_a_stream_reaches_the_client_as_what_it_is(
    played: Played, start_proxy: StartProxy
) -> None:
    options = (*played.options, "--instances", "1")
    proxy = await asyncio.to_thread(lambda: start_proxy(*options, env=played.environment(pace=0)).wait_ready())

    async with streaming(proxy.port, chat("late-error")) as client:  # after the head, which comes early
        answer = await client.answer()
    assert answer.head.status == 200
    assert answer.events()[0]["error"]["message"] == "metal prefill failed at token 0"

    lost = await post(proxy.port, chat("lost-state"))
    assert (lost.head.status, lost.json()["error"]["type"]) == (409, "conflict")

    before = len(played.events("finished"))
    async with streaming(proxy.port, chat("large", max_tokens=30)) as client:  # 2 MiB, more than sockets hold
        await eventually(lambda: done(played, before + 30))  # not a byte was read: a ds4 would drop the client for that
        assert len((await client.answer()).events()) == 30
    assert not played.events("dropped")

    async with streaming(proxy.port, chat("die", max_tokens=10)) as client:
        with pytest.raises(Unframed, match="the stream was cut") as cut:
            await client.answer()
    assert b"[DONE]" not in cut.value.body
    assert b"upstream_failed" in cut.value.body


async def done(played: Played, count: int) -> bool:
    return len(played.events("finished")) >= count


@pytest.mark.slow
@of_engine("llama-server")
def test_more_context_than_the_model_was_trained_for_is_refused_before_anything_starts(
    played: Played, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(*played.options, "--ctx-size", "16384", env=played.environment())
    assert proxy.wait() == 2
    assert "--ctx-size 16384 is more than the 8192 tokens the model was trained for" in proxy.log
    assert not played.events("start")


@pytest.mark.slow
@of_engine("vllm")
def test_several_instances_of_an_engine_that_batches_are_advised_against_once(
    played: Played, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(*played.options, "--instances", "2", env=played.environment()).wait_ready(2)
    assert proxy.log.count("start one yourself with --max-num-seqs K and give it as --upstream URL,slots=K") == 1
