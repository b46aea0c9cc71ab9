"""However the proxy ends, nothing of it stays behind."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.clients import Unframed, ask, chat, eventually, post, streaming
from tests.running import StartProxy, Terminal, engines_of, fake_engines, lives, real_engine, wait_for, write_profile

ORPHANS_GONE = 2.0  # seconds after a kill -9 of the proxy
HANG = chat(fake={"fail": "hang", "after": 1})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_clean_stop_of_real_engines_leaves_no_process_no_port_and_no_lock(
    start_proxy: StartProxy, demo_model: Path, number: signal.Signals
) -> None:
    proxy = start_proxy(*real_engine(demo_model)).wait_ready()
    assert proxy.stop(number) == 0  # looks for processes, ports, locks and records itself
    assert "stopped" in proxy.log


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.hang_up()


def test_it_stops_in_order_when_its_terminal_hangs_up(
    start_proxy: StartProxy, tmp_path: Path, terminal: Terminal
) -> None:
    proxy = start_proxy(*fake_engines(tmp_path), through=terminal.through).wait_ready()
    family = [psutil.Process(proxy.pid), *engines_of(proxy)]
    port = proxy.port
    terminal.hang_up()
    assert proxy.wait() == 0
    proxy.assert_nothing_left(family, {port})
    assert "the terminal has hung up" in proxy.log
    assert proxy.log.endswith("stopped\n")


def test_sighup_is_a_reload_while_its_terminal_is_there(
    start_proxy: StartProxy, tmp_path: Path, terminal: Terminal
) -> None:
    proxy = start_proxy(*fake_engines(tmp_path), through=terminal.through).wait_ready()
    proxy.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "no option has changed" in proxy.log, "a reload")
    assert proxy.ready_count() == 1
    assert proxy.stop() == 0  # before its terminal goes, which would stop it, too


def test_with_nohup_it_outlives_its_terminal(start_proxy: StartProxy, tmp_path: Path, terminal: Terminal) -> None:
    proxy = start_proxy(*fake_engines(tmp_path), through=(*terminal.through, "nohup")).wait_ready()
    terminal.hang_up()
    wait_for(lambda: "no option has changed" in proxy.log, "a reload")
    assert proxy.ready_count() == 1


def test_private_files_are_private(start_proxy: StartProxy, tmp_path: Path) -> None:
    proxy = start_proxy(*fake_engines(tmp_path)).wait_ready()
    (instance,) = (proxy.state_dir / "instances").iterdir()
    for folder in (proxy.state_dir, proxy.state_dir / "instances", instance, instance / "kv"):
        assert folder.stat().st_mode & 0o077 == 0, folder
    assert (instance / "engine.log").stat().st_mode & 0o077 == 0
    assert (instance / "engine.lock").exists()


async def test_a_stop_waits_for_streams_and_then_leaves_nothing(start_proxy: StartProxy, tmp_path: Path) -> None:
    proxy = start_proxy(*fake_engines(tmp_path, instances=2)).wait_ready(2)
    async with streaming(proxy.port, chat(fake={"events": 20, "gap": 0.05})) as client:
        await client.head()
        code, body = await asyncio.gather(asyncio.to_thread(proxy.stop), client.rest())
    assert code == 0
    assert body.endswith(b"data: [DONE]\n\n")


async def test_the_drain_is_bounded(start_proxy: StartProxy, tmp_path: Path) -> None:
    proxy = start_proxy(*fake_engines(tmp_path), "--drain-timeout", "500ms").wait_ready()
    async with streaming(proxy.port, HANG) as client:
        await client.head()
        assert await asyncio.to_thread(proxy.stop) == 0
        with pytest.raises(Unframed):
            await client.rest()


async def test_a_second_signal_skips_the_drain(start_proxy: StartProxy, tmp_path: Path) -> None:
    proxy = start_proxy(*fake_engines(tmp_path)).wait_ready()
    async with streaming(proxy.port, HANG) as client:
        await client.head()
        proxy.process.send_signal(signal.SIGTERM)

        async def waits() -> bool:
            return "waiting for 1 request" in proxy.log

        await eventually(waits)
        assert await asyncio.to_thread(proxy.stop) == 0


def test_an_engine_that_ignores_term_is_killed(start_proxy: StartProxy, tmp_path: Path) -> None:
    proxy = start_proxy(*fake_engines(tmp_path, "--ignore-term", term=0.3)).wait_ready()
    assert proxy.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_embedded_engines_do_not_outlive_a_killed_proxy(start_proxy: StartProxy, demo_model: Path) -> None:
    proxy = start_proxy(*real_engine(demo_model)).wait_ready()
    engines = engines_of(proxy)
    proxy.process.kill()
    proxy.wait()
    wait_for(lambda: not any(map(lives, engines)), "the end of the engines", ORPHANS_GONE)


def test_after_a_killed_proxy_the_next_one_ends_its_engines_and_starts(start_proxy: StartProxy, tmp_path: Path) -> None:
    options = fake_engines(tmp_path, instances=2)
    proxy = start_proxy(*options).wait_ready(2)
    engines = engines_of(proxy)
    proxy.process.kill()
    proxy.wait()
    try:
        again = start_proxy(*options).wait_ready(2)
        assert not any(map(lives, engines))
        assert again.stop() == 0
    finally:  # nobody else would end them when this fails
        for engine in filter(lives, engines):
            engine.kill()


async def test_an_engine_that_dies_is_started_again_while_the_other_serves(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    proxy = start_proxy(*fake_engines(tmp_path, instances=2)).wait_ready(2)
    victim, _ = engines_of(proxy)
    victim.kill()
    for _ in range(4):
        assert (await post(proxy.port, chat())).status == 200

    async def recovered() -> bool:
        return proxy.ready_count() == 2 and victim.pid not in proxy.pids()

    await eventually(recovered, 30)
    page = (await ask(proxy.port, "GET", "/metrics")).body.decode()
    assert "slotproxy_instance_restarts_total{" in page


async def test_a_stream_whose_engine_is_killed_is_cut_and_the_engine_comes_back(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    proxy = start_proxy(*fake_engines(tmp_path)).wait_ready()
    (engine,) = engines_of(proxy)
    async with streaming(proxy.port, HANG) as client:
        await client.head()
        await client.next_event()
        engine.kill()
        with pytest.raises(Unframed) as caught:
            await client.rest()
        assert b'"upstream_failed"' in caught.value.body
    # Not refused: it waits in the queue until the engine is back.
    assert (await post(proxy.port, chat())).status == 200


async def test_an_abandoned_slot_stays_busy_until_the_engine_is_idle(start_proxy: StartProxy, tmp_path: Path) -> None:
    proxy = start_proxy(*fake_engines(tmp_path)).wait_ready()
    async with streaming(proxy.port, chat(fake={"fail": "hang", "after": 1, "compute": 0.5})) as client:
        await client.head()
        client.abort()
    assert (await post(proxy.port, chat())).status == 200
    (engine,) = engines_of(proxy)
    (listening,) = [one for one in engine.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    report = (await ask(listening.laddr.port, "GET", "/fake/received")).json()
    assert report["peak"] == 1


async def test_an_engine_that_stays_busy_too_long_after_its_client_left_is_restarted(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    options = fake_engines(tmp_path)
    write_profile(tmp_path, idle=1.0)
    proxy = start_proxy(*options).wait_ready()
    (before,) = proxy.pids()
    async with streaming(proxy.port, chat(fake={"fail": "hang", "after": 1, "compute": 3600.0})) as client:
        await client.head()
        client.abort()
    assert (await post(proxy.port, chat())).status == 200
    assert proxy.pids() != [before]


async def test_a_hung_engine_is_restarted(start_proxy: StartProxy, tmp_path: Path) -> None:
    proxy = start_proxy(*fake_engines(tmp_path, term=0.3), "--prefill-timeout", "1s").wait_ready()
    (engine,) = engines_of(proxy)
    engine.suspend()
    answer = await post(proxy.port, chat())
    assert (answer.status, answer.code) == (504, "upstream_timeout")
    assert (await post(proxy.port, chat())).status == 200
    assert not lives(engine)


def test_an_engine_that_never_becomes_ready_is_given_up_with_a_sentence(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    options = fake_engines(tmp_path)
    write_profile(tmp_path, "--never-ready", start=1.0)
    proxy = start_proxy(*options)
    assert proxy.wait() == 1
    assert "Traceback" not in proxy.log
    assert "ready" in proxy.log.splitlines()[-1]


def test_engines_see_none_of_the_environment_they_must_not_see(start_proxy: StartProxy, demo_model: Path) -> None:
    env = {"LLAMA_ARG_CTX_SIZE": "77", "OLLAMA_HOST": "x", "DS4_LOCK_FILE": "/nowhere/x"}
    proxy = start_proxy(*real_engine(demo_model), env=env).wait_ready()
    (engine,) = engines_of(proxy)
    assert not set(engine.environ()) & set(env)
    assert proxy.slots()[0]["n_ctx"] == 1024
