"""Faults of engines, each one as it happens to a running proxy. docs/faults.md lists them all."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.acceptance.conftest import StartBehind
from tests.clients import Unframed, ask, chat, connected, eventually, post, request, streaming
from tests.running import Running, StartProxy, engines_of, fake_engines, lives, real_engine, write_real_profile

LONG_STORY = chat("Tell me a long story.", max_tokens=200, ignore_eos=True)


async def replaced(proxy: Running, engine: psutil.Process, instances: int) -> bool:
    return engine.pid not in proxy.pids() and proxy.ready_count() == instances


def engine_behind(proxy: Running, instance: str) -> psutil.Process:
    (pid,) = [slot["pid"] for slot in proxy.slots() if slot["instance"] == instance]
    return psutil.Process(pid)


async def port_of(engine: psutil.Process) -> int:
    (listening,) = [one for one in engine.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    return int(listening.laddr.port)


async def stopped_in_mid_stream(proxy: Running, body: dict[str, object], instances: int) -> None:
    """SIGSTOP one of two engines while both stream: its client is told, the other's never notices."""
    async with streaming(proxy.port, body) as victim, streaming(proxy.port, body) as other:
        heads = [await client.head() for client in (victim, other)]
        for client in (victim, other):
            await client.next_event()
        engine = engine_behind(proxy, heads[0]["x-slotproxy-instance"])
        engine.suspend()
        whole = asyncio.ensure_future(other.rest())
        with pytest.raises(Unframed) as caught:
            await victim.rest()
        assert b'"upstream_timeout"' in caught.value.body
        assert (await whole).endswith(b"data: [DONE]\n\n")
        await eventually(partial(replaced, proxy, engine, instances), 30)
        assert not lives(engine)


async def test_an_engine_stopped_in_mid_stream_costs_that_stream_and_no_other(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    options = fake_engines(tmp_path, instances=2, term=0.2)
    proxy = start_proxy(*options, "--stall-timeout", "1s").wait_ready(2)
    await stopped_in_mid_stream(proxy, chat(fake={"events": 100, "gap": 0.02}), 2)


@pytest.mark.slow
async def test_a_real_engine_stopped_in_mid_stream_costs_that_stream_and_no_other(
    start_proxy: StartProxy, demo_model: Path, tmp_path: Path
) -> None:
    profile = write_real_profile(tmp_path, term=0.5, again=0.5)
    options = real_engine(demo_model, 2)
    proxy = start_proxy("--engine", str(profile), "--stall-timeout", "2s", *options).wait_ready(2)
    await stopped_in_mid_stream(proxy, LONG_STORY, 2)


async def test_a_stream_of_nothing_but_comments_ends(behind: StartBehind) -> None:
    """Its engine answers and pings, and computes no more."""
    bench = await behind("--prefill-timeout", "1s")
    for after in (0, 2):
        with pytest.raises(Unframed) as caught:
            await post(bench.port, chat(stream=True, fake={"fail": "hang", "after": after, "ping": 0.1}))
        assert caught.value.body.count(b":\n\n") > 3
        assert b'"upstream_timeout"' in caught.value.body


async def test_what_an_engine_says_after_a_pause_never_reaches_the_next_request(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    proxy = start_proxy(*fake_engines(tmp_path)).wait_ready()
    (engine,) = engines_of(proxy)
    for stream in (True, False):
        async with connected(proxy.port) as leaving:
            fake = {"events": 3, "gap": 0.05, "body": None if stream else '{"of": "another"}', "delay": 0.05}
            leaving.send(request("POST", "/v1/chat/completions", chat(stream=stream, fake=fake)))
            await eventually(partial(works, proxy))
            engine.suspend()
            leaving.abort()
        async with connected(proxy.port) as client:
            client.send(request("POST", "/v1/chat/completions", chat(fake={"body": '{"mine": 1}'})))
            engine.resume()
            assert (await client.answer()).body == b'{"mine": 1}'
    assert engines_of(proxy) == [engine]


async def works(proxy: Running) -> bool:
    return proxy.busy() > 0


async def test_what_an_engine_forked_ends_with_it(start_proxy: StartProxy, tmp_path: Path) -> None:
    """Children, and daemons in sessions of their own; when it dies, and when it is stopped."""
    options = fake_engines(tmp_path, "--children", "1", "--daemons", "1", "--ignore-term", term=0.1)
    proxy = start_proxy(*options).wait_ready()
    (engine,) = engines_of(proxy)
    forked = [psutil.Process(pid) for pid in await descendants(engine)]
    assert len(forked) == 2
    try:
        engine.kill()
        await eventually(partial(replaced, proxy, engine, 1))
        assert not any(map(lives, forked))
        (engine,) = engines_of(proxy)
        forked = [psutil.Process(pid) for pid in await descendants(engine)]
        assert await asyncio.to_thread(proxy.stop) == 0
        assert not any(map(lives, forked))
    finally:
        for process in filter(lives, forked):
            process.kill()


async def descendants(engine: psutil.Process) -> list[int]:
    report = (await ask(await port_of(engine), "GET", "/fake/received")).json()
    return [int(pid) for pid in report["descendants"]]


@pytest.mark.slow
async def test_a_daemon_that_outlived_a_killed_proxy_is_ended_at_the_next_start(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    options = fake_engines(tmp_path, "--daemons", "1")
    proxy = start_proxy(*options).wait_ready()
    (engine,) = engines_of(proxy)
    (daemon,) = [psutil.Process(pid) for pid in await descendants(engine)]
    try:
        proxy.process.kill()
        proxy.wait()
        await asyncio.to_thread(start_proxy(*options).wait_ready)
        assert not lives(engine)
        assert not lives(daemon)
    finally:
        if lives(daemon):
            daemon.kill()


async def test_an_engine_that_keeps_silent_about_its_health_while_it_works_is_left_alone(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    proxy = start_proxy(*fake_engines(tmp_path, "--silent-while-busy")).wait_ready()
    (engine,) = engines_of(proxy)
    assert (await post(proxy.port, chat(fake={"delay": 1.5}))).status == 200
    assert engines_of(proxy) == [engine]


@pytest.mark.slow
def test_a_stranger_on_an_engines_port_is_never_taken_for_the_engine(start_proxy: StartProxy, tmp_path: Path) -> None:
    proxy = start_proxy(*fake_engines(tmp_path, "--stranger", term=0.1))
    assert proxy.wait() == 1
    assert "another process answers on port" in proxy.log.splitlines()[-1]
    assert " is ready" not in proxy.log


async def test_bytes_after_an_answer_never_reach_the_next_request(behind: StartBehind) -> None:
    bench = await behind()
    poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    for _ in range(5):
        first = await post(bench.port, chat(fake={"surplus": poison}))
        second = await post(bench.port, chat(fake={"body": '{"mine": 1}'}))
        assert (first.status, second.status, second.body) == (200, 200, b'{"mine": 1}')


async def test_an_answer_that_comes_byte_by_byte_is_relayed_whole(behind: StartBehind) -> None:
    bench = await behind()
    for stream in (True, False):
        dripping = await post(bench.port, chat(stream=stream, fake={"events": 1, "drip": 0.0002}))
        whole = await post(bench.port, chat(stream=stream, fake={"events": 1}))
        assert dripping.body == whole.body


async def test_killed_engines_are_each_reaped_once_told_of_and_come_back(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    proxy = start_proxy(*fake_engines(tmp_path, instances=3)).wait_ready(3)
    engines = engines_of(proxy)
    for engine in engines:
        os.kill(engine.pid, signal.SIGKILL)
    for engine in engines:
        await eventually(partial(replaced, proxy, engine, 3), 30)
    children = psutil.Process(proxy.pid).children()
    assert [child for child in children if child.status() == psutil.STATUS_ZOMBIE] == []
    assert proxy.log.count("killed by signal 9 (SIGKILL), probably out of memory") == 3
    page = (await ask(proxy.port, "GET", "/metrics")).body.decode()
    restarts = [line for line in page.splitlines() if line.startswith("slotproxy_instance_restarts_total{")]
    assert [line.rpartition(" ")[2] for line in restarts] == ["1.0"] * 3, restarts


@pytest.mark.slow
async def test_when_every_engine_exits_at_once_requests_are_refused_with_its_last_words(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    script = tmp_path / "engine"
    script.write_text(f'#!/bin/sh\n[ -e {broken} ] && {{ echo "out of flux"; exit 1; }}\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    options = fake_engines(tmp_path)
    profile = tmp_path / "fake.toml"
    profile.write_text(profile.read_text().replace(f'executable = "{sys.executable}"', f'executable = "{script}"'))
    proxy = start_proxy(*options).wait_ready()
    broken.touch()
    engines_of(proxy)[0].kill()

    async def refuses() -> bool:
        return (await post(proxy.port, chat())).status == 503

    await eventually(refuses, 60)
    refusal = await post(proxy.port, chat())
    assert refusal.code == "no_instances"
    assert "out of flux" in refusal.json()["error"]["message"]
    assert "out of flux" in (await ask(proxy.port, "GET", "/ready")).json()["reason"]
    listing = await ask(proxy.port, "GET", "/v1/models")
    assert (listing.status, listing.code) == (503, "no_instances")
    starts = re.findall(r"-> starting$", proxy.log, re.MULTILINE)
    assert len(starts) <= 6  # the first, and five more


@pytest.mark.slow
async def test_an_abandoned_slot_of_a_real_engine_is_leased_again_once_it_is_idle_and_soon_after(
    start_proxy: StartProxy, demo_model: Path
) -> None:
    """Its log tells when it let go: asking its /slots meanwhile would keep it from noticing that the client left."""
    proxy = start_proxy(*real_engine(demo_model)).wait_ready()
    (engine,) = engines_of(proxy)
    port = await port_of(engine)
    log = proxy.state_dir / "instances" / "0" / "engine.log"
    loop = asyncio.get_running_loop()
    for _ in range(5):
        begun = log.read_text().count("processing task")
        ended = log.read_text().count("stop processing")
        async with connected(proxy.port) as leaving:
            leaving.send(request("POST", "/v1/chat/completions", LONG_STORY | {"max_tokens": 900}))
            await until(lambda was: log.read_text().count("processing task") > was, begun)
            leaving.abort()
        await until(lambda was: log.read_text().count("stop processing") > was or not proxy.busy(), ended)
        idle_at = loop.time()
        assert log.read_text().count("stop processing") > ended, "leased again before the engine was idle"
        await until(lambda _: not proxy.busy(), 0)
        assert loop.time() - idle_at < 2
        assert (await ask(port, "GET", "/slots")).json()[0]["is_processing"] is False
        assert (await post(proxy.port, chat(max_tokens=1))).status == 200
    assert engines_of(proxy) == [engine]


async def until(holds: Callable[[int], bool], was: int) -> None:
    async def look() -> bool:
        return holds(was)

    await eventually(look, 60)
