"""Clients that are slow, many, or gone, at a running proxy. docs/faults.md lists every fault."""

import asyncio
import resource
import signal
import socket
import sys
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.acceptance.conftest import StartBehind
from tests.clients import ask, chat, connected, eventually, post, request, streaming
from tests.fake_answers import Received
from tests.running import StartProxy, fake_engines, wait_for

MANY = 10_000
QUEUED = 20


async def test_a_stop_refuses_20_queued_requests_at_once_and_lets_2_long_streams_end(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    proxy = start_proxy(*fake_engines(tmp_path, instances=2)).wait_ready(2)
    async with AsyncExitStack() as exits:
        long = chat(stream=True, fake={"events": 150, "gap": 0.01})
        active = [await exits.enter_async_context(streaming(proxy.port, long)) for _ in range(2)]
        for client in active:
            await client.head()
        queued = [await exits.enter_async_context(connected(proxy.port)) for _ in range(QUEUED)]
        for client in queued:
            client.send(request("POST", "/v1/chat/completions", chat()))

        async def all_wait() -> bool:
            return int((await ask(proxy.port, "GET", "/health")).json()["queued"]) == QUEUED

        await eventually(all_wait)
        proxy.process.send_signal(signal.SIGTERM)
        refusals = await asyncio.gather(*(client.answer() for client in queued))
        assert {(refusal.status, refusal.code) for refusal in refusals} == {(503, "shutting_down")}
        assert proxy.process.poll() is None, "it waits for the streams"
        bodies = await asyncio.gather(*(client.rest() for client in active))
        assert all(body.endswith(b"data: [DONE]\n\n") for body in bodies)
        assert await asyncio.to_thread(proxy.wait) == 0


async def test_a_client_that_reads_nothing_is_cut_off_and_its_slot_is_free(behind: StartBehind) -> None:
    bench = await behind("--stall-timeout", "500ms")
    async with streaming(bench.port, chat(fake={"events": 2000, "padding": 20_000})) as client:
        await client.head()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a Transport, typed as its base
        await eventually(bench.rests)
        assert (await post(bench.port, chat())).status == 200
    (first, _) = bench.engine.asked
    await eventually(partial(was_cancelled, first))


async def was_cancelled(received: Received) -> bool:
    return received.cancelled


@pytest.mark.slow
async def test_10000_idle_connections_leave_room_for_others(start_proxy: StartProxy, tmp_path: Path) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < MANY + 500:
        pytest.skip(f"a process may have {most} descriptors here, and as many are needed on either side")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    proxy = start_proxy(*fake_engines(tmp_path)).wait_ready()
    process = psutil.Process(proxy.pid)
    before, memory = process.num_fds(), process.memory_info().rss
    with ExitStack() as opened:
        for number in range(MANY):
            opened.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
            if number % 500 == 0:
                await asyncio.sleep(0)
        assert (await ask(proxy.port, "GET", "/health")).status == 200
        assert (await post(proxy.port, chat())).status == 200
        each = (process.memory_info().rss - memory) / MANY
        assert each < 30_000, f"{each:.0f} bytes for each connection"
    wait_for(lambda: process.num_fds() <= before + 2, "the end of the connections")
    assert (await post(proxy.port, chat())).status == 200


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
async def test_more_connections_than_descriptors_cost_idle_ones_and_nobody_who_asks(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    proxy = start_proxy(*fake_engines(tmp_path), through=("prlimit", "--nofile=64")).wait_ready()
    process = psutil.Process(proxy.pid)
    async with streaming(proxy.port, chat(fake={"events": 80, "gap": 0.02})) as working:
        await working.head()
        with ExitStack() as opened:
            for _ in range(200):
                opened.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
            used = sum(process.cpu_times()[:2])
            for _ in range(20):
                assert (await ask(proxy.port, "GET", "/health")).status == 200
                await asyncio.sleep(0.05)  # a loop that spins would use all of it
            assert sum(process.cpu_times()[:2]) - used < 0.5
            assert process.num_fds() < 64
        assert (await working.rest()).endswith(b"data: [DONE]\n\n")
    assert (await post(proxy.port, chat())).status == 200
    assert "Traceback" not in proxy.log
    assert proxy.log.count("connections are open, the most there may be") == 1
