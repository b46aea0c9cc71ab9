"""Instances are added, taken out and restarted by the API while clients go on asking."""

import asyncio
from pathlib import Path

from tests.clients import ask, chat
from tests.running import Running, StartProxy, wait_for, write_profile


def serving(start_proxy: StartProxy, folder: Path, instances: int) -> Running:
    (folder / "config.json").write_text("{}")  # what makes a directory a model
    engine = ("--model", str(folder), "--engine", str(write_profile(folder)))
    return start_proxy(*engine, "--instances", str(instances)).wait_ready(instances)


def operate(running: Running, method: str, path: str) -> int:
    return asyncio.run(ask(running.port, method, f"/slotproxy/api/{path}")).status


async def _asking_until(running: Running, over: asyncio.Event, stream: bool) -> int:
    asked = 0
    while not over.is_set():
        answer = await ask(running.port, "POST", "/v1/chat/completions", chat(stream=stream, fake={"delay": 0.01}))
        assert answer.status == 200, answer.body
        asked += 1
    return asked


async def _roll(running: Running) -> int:
    """Restart all while four clients ask; how many answers there were."""
    over, before = asyncio.Event(), set(await asyncio.to_thread(running.pids))
    async with asyncio.TaskGroup() as tasks:
        clients = [tasks.create_task(_asking_until(running, over, stream=number % 2 == 0)) for number in range(4)]
        assert (await ask(running.port, "POST", "/slotproxy/api/instances/restart")).status == 202
        while before & set(await asyncio.to_thread(running.pids)) or await asyncio.to_thread(running.ready_count) < 2:
            await asyncio.sleep(0.02)
        over.set()
    return sum(client.result() for client in clients)


def test_all_instances_are_restarted_in_turn_and_no_request_is_lost(start_proxy: StartProxy, tmp_path: Path) -> None:
    running = serving(start_proxy, tmp_path, 2)
    assert asyncio.run(_roll(running)) > 0
    assert "(restarted on request)" in running.log


def test_instances_are_added_and_taken_out(start_proxy: StartProxy, tmp_path: Path) -> None:
    running = serving(start_proxy, tmp_path, 1)
    assert operate(running, "DELETE", "instances/0") == 409
    assert operate(running, "POST", "instances") == 202
    wait_for(lambda: running.ready_count() == 2, "two ready")
    assert operate(running, "DELETE", "instances/0") == 202
    wait_for(lambda: [slot["instance"] for slot in running.slots()] == ["1"], "the first gone")
    assert not (running.state_dir / "instances" / "0" / "instance.json").exists()
    assert asyncio.run(ask(running.port, "POST", "/v1/chat/completions", chat())).instance == "1"
    assert operate(running, "DELETE", "instances/9") == 404
    log = asyncio.run(ask(running.port, "GET", "/slotproxy/api/instances/1/log"))
    assert b"fake engine: listening" in log.body
