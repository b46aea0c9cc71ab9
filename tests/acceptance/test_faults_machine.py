"""Faults of the machine a proxy runs on: full disks, permissions, descriptors, clocks. docs/faults.md lists them."""

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from slotproxy.instances.processes import ports
from tests.clients import ask, chat, connected, eventually, post, request, streaming
from tests.running import ROOT, Running, StartProxy, engines_of, fake_engines, lives, real_engine

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's tools")
WITHOUT_ROOTS_RIGHTS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
CLOCK = Path(__file__).parent.parent / "clock"


def as_anybody() -> tuple[str, ...]:
    """A command under which permissions count, whoever runs the tests."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root may write anywhere, and setpriv is not installed")
    return WITHOUT_ROOTS_RIGHTS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(path)], capture_output=True, text=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mount.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass


def fill_pipe(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(descriptor, bytes(4096))


async def replaced(proxy: Running, engine: psutil.Process) -> bool:
    return engine.pid not in proxy.pids() and proxy.ready_count() == 1


@linux
async def test_a_full_disk_under_the_state_directory_keeps_nobody_from_being_served(
    start_proxy: StartProxy, tmp_path: Path, small_disk: Path
) -> None:
    """Neither the running engine nor the next one."""
    proxy = start_proxy("--state-dir", str(small_disk / "state"), *fake_engines(tmp_path)).wait_ready()
    fill(small_disk)
    for _ in range(3):
        assert (await post(proxy.port, chat())).status == 200
    (engine,) = engines_of(proxy)
    engine.kill()
    await eventually(partial(replaced, proxy, engine))
    assert (await post(proxy.port, chat())).status == 200
    assert "Traceback" not in proxy.log


@linux
async def test_a_full_disk_under_the_proxys_log_keeps_nobody_from_being_served(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    port = ports.free("127.0.0.1")
    full = ("sh", "-c", 'exec "$@" >/dev/full 2>&1', "sh")
    start_proxy("--port", str(port), *fake_engines(tmp_path), through=full)

    async def ready() -> bool:
        try:
            return (await ask(port, "GET", "/ready")).status == 200
        except OSError:
            return False

    await eventually(ready, 30)
    for _ in range(3):
        assert (await post(port, chat())).status == 200


async def test_a_log_that_nobody_reads_keeps_nobody_from_being_served_nor_the_proxy_from_its_end(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    port = ports.free("127.0.0.1")
    path = tmp_path / "log"
    os.mkfifo(path)
    log = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        fill_pipe(log)
        unread = ("sh", "-c", f'exec "$@" 2>{shlex.quote(str(path))}', "sh")
        proxy = start_proxy("--port", str(port), *fake_engines(tmp_path), through=unread)

        async def ready() -> bool:
            try:
                return (await ask(port, "GET", "/ready")).status == 200
            except OSError:
                return False

        await eventually(ready, 30)
        assert (await post(port, chat())).status == 200
        said = b""

        async def has_caught_up() -> bool:
            nonlocal said
            with contextlib.suppress(BlockingIOError):
                said += os.read(log, 1 << 20)
            return b"POST /v1/chat/completions 200" in said

        await eventually(has_caught_up)  # nothing is asked meanwhile, and so no new line takes the others along
        assert b"listening on http" in said
        fill_pipe(log)
        assert await asyncio.to_thread(proxy.stop) == 0
    finally:
        os.close(log)


@linux
def test_a_kv_directory_that_cannot_be_written_is_named_and_not_retried(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    instances = tmp_path / "state" / "instances"
    instances.mkdir(parents=True)
    (instances / "0").mkdir(mode=0o500)
    (instances / "0").chmod(0o500)
    closed = instances / "0" / "kv"
    proxy = start_proxy(*fake_engines(tmp_path), through=as_anybody())
    assert proxy.wait() in (1, 2), proxy.log
    assert str(closed.parent) in proxy.log.splitlines()[-1]
    assert proxy.log.count("-> starting") <= 1


@linux
def test_a_state_directory_without_permission_is_named(start_proxy: StartProxy, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    proxy = start_proxy("--state-dir", str(closed / "state"), *fake_engines(tmp_path), through=as_anybody())
    assert proxy.wait() == 2
    assert str(closed / "state") in proxy.log.splitlines()[-1]
    assert "Traceback" not in proxy.log


def test_a_guardian_killed_with_its_proxy_leaves_the_work_to_the_next_start(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    options = fake_engines(tmp_path)
    proxy = start_proxy(*options).wait_ready()
    (engine,) = engines_of(proxy)
    children = psutil.Process(proxy.pid).children()
    (guardian,) = [child for child in children if "slotproxy-guardian" in child.cmdline()]
    proxy.process.send_signal(signal.SIGSTOP)  # else it would start another guardian
    guardian.kill()
    proxy.process.kill()
    proxy.wait()
    try:
        assert lives(engine)
        start_proxy(*options).wait_ready()
        assert not lives(engine)
    finally:
        if lives(engine):
            engine.kill()


def test_locks_of_dead_processes_keep_nobody_from_starting(start_proxy: StartProxy, tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    instance = tmp_path / "state" / "instances" / "0"
    instance.mkdir(parents=True)
    for lock in (tmp_path / "state" / "slotproxy.lock", instance / "engine.lock"):
        lock.write_text(f"{dead.pid}\n")
    start_proxy(*fake_engines(tmp_path)).wait_ready()


@pytest.mark.slow
async def test_engines_keep_the_model_file_that_was_replaced(
    start_proxy: StartProxy, demo_model: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.gguf"
    shutil.copyfile(demo_model, model)
    proxy = start_proxy(*real_engine(model)).wait_ready()
    before = (await post(proxy.port, chat(max_tokens=6, cache_prompt=False))).json()["choices"]
    (tmp_path / "other").write_bytes(b"GGUF, but no model")
    (tmp_path / "other").replace(model)
    assert (await post(proxy.port, chat(max_tokens=6, cache_prompt=False))).json()["choices"] == before


async def test_a_pause_of_the_proxy_itself_costs_no_request_and_no_engine(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    """Ctrl-Z and fg, or a virtual machine that stood still: nobody was silent, nobody listened."""
    patience = ("--stall-timeout", "1s", "--prefill-timeout", "1s")
    proxy = start_proxy(*fake_engines(tmp_path, instances=2), *patience).wait_ready(2)
    engines = engines_of(proxy)
    async with (
        streaming(proxy.port, chat(fake={"events": 30, "gap": 0.1})) as stream,
        connected(proxy.port) as waiting,
    ):
        await stream.head()
        await stream.next_event()
        waiting.send(request("POST", "/v1/chat/completions", chat(fake={"delay": 0.7})))
        await eventually(partial(busy, proxy, 2))
        proxy.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2.0)  # the fault itself
        proxy.process.send_signal(signal.SIGCONT)
        assert (await waiting.answer()).status == 200
        assert [event async for event in stream.events()][-1] == b"data: [DONE]"
    assert engines_of(proxy) == engines


async def busy(proxy: Running, count: int) -> bool:
    return len([slot for slot in (await ask(proxy.port, "GET", "/slots")).json() if slot["is_processing"]]) == count


async def test_a_stalled_event_loop_shows_in_the_metrics(start_proxy: StartProxy, tmp_path: Path) -> None:
    proxy = start_proxy(*fake_engines(tmp_path), "--stall-timeout", "400ms").wait_ready()
    proxy.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(0.7)  # the fault itself
    proxy.process.send_signal(signal.SIGCONT)

    async def shows() -> bool:
        page = (await ask(proxy.port, "GET", "/metrics")).body.decode()
        (line,) = [line for line in page.splitlines() if line.startswith("slotproxy_event_loop_lag_seconds ")]
        return float(line.split()[1]) > 0.3

    await eventually(shows)


@linux
async def test_a_jump_of_the_clock_moves_no_timer(start_proxy: StartProxy, tmp_path: Path) -> None:
    """The clock of the proxy's Python; the loop's own timers are monotonic by libuv's promise."""
    jump = tmp_path / "jump"
    env = {"PYTHONPATH": str(CLOCK), "CLOCK_JUMP": str(jump)}
    proxy = start_proxy(*fake_engines(tmp_path, instances=2), env=env).wait_ready(2)
    engines = engines_of(proxy)
    async with streaming(proxy.port, chat(fake={"events": 40, "gap": 0.05})) as stream:
        await stream.head()
        for offset in (86_400.0, -86_400.0):
            jump.write_text(str(offset))
            assert (await post(proxy.port, chat(fake={"delay": 0.3}))).status == 200
        assert [event async for event in stream.events()][-1] == b"data: [DONE]"
    assert engines_of(proxy) == engines
    engines[0].kill()
    await eventually(partial(back, proxy, engines[0]))


async def back(proxy: Running, engine: psutil.Process) -> bool:
    return engine.pid not in proxy.pids() and proxy.ready_count() == 2


DATES = {
    "governor.py": "when a calibration was made",
    "proof.py": "when it was tried whether conversations can be handed over",
    "remote.py": "dates in a server's answers",
}


def test_no_timer_reads_the_wall_clock() -> None:
    readers = {
        module.name
        for package in ("proxy", "instances")
        for module in (ROOT / package).rglob("*.py")
        if re.search(r"\btime\.time(_ns)?\(|\bdatetime\.(now|utcnow|today)\(", module.read_text("utf-8"))
    }
    assert readers <= set(DATES)
