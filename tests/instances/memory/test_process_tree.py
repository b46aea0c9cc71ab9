import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from slotproxy.instances.memory import process_tree
from slotproxy.instances.memory.process_tree import read_tree
from slotproxy.instances.processes import ports
from slotproxy.instances.readings import Mapping, Reading

MIB = 1 << 20
WEIGHTS = 32 * MIB
BUFFERS = 24 * MIB
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# What an engine does with memory: maps the file it is given, fills buffers of its own.
ENGINE = f"""
import mmap, os, sys
file = open(sys.argv[1], "rb")
weights = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
sum(weights[::4096])
buffers = b"x" * {BUFFERS}
"""
WAIT = "print('ready', flush=True); sys.stdin.read()\n"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a Python program that prints a line once it is ready and ends with its input."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, *arguments: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.communicate()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(MIB) * (WEIGHTS // MIB))
    return path


def reading(process: subprocess.Popen[str]) -> Reading:
    found = read_tree(process.pid)
    assert found is not None
    return found


@on_linux
def test_the_private_part_of_the_first_predicts_the_cost_of_the_second(start: Start, weights: Path) -> None:
    first = start(ENGINE + WAIT, weights)
    alone = reading(first)
    second = start(ENGINE + WAIT, weights)
    cost = (reading(first) + reading(second)).pss - alone.pss
    assert alone.private == pytest.approx(cost, rel=0.1)
    assert alone.pss > alone.private + 0.9 * WEIGHTS


@on_linux
def test_pages_that_two_map_are_there_once(start: Start, weights: Path) -> None:
    first, second = start(ENGINE + WAIT, weights), start(ENGINE + WAIT, weights)
    both = reading(first) + reading(second)
    assert both.rss > 2 * (WEIGHTS + BUFFERS)
    assert both.pss == pytest.approx(WEIGHTS + both.private, abs=16 * MIB)
    assert both.shared >= 2 * WEIGHTS


@on_linux
def test_workers_belong_to_the_engine_and_pages_they_inherited_count_once(start: Start, weights: Path) -> None:
    worker = f"""
if os.fork() == 0:
    if os.fork() == 0:
        more = b"y" * {BUFFERS}
        print("ready", flush=True)
    sys.stdin.read()
else:
    os.wait()
"""
    assert reading(start(ENGINE + worker, weights)).private == pytest.approx(2 * BUFFERS, abs=16 * MIB)


@on_linux
def test_shared_memory_without_a_file_is_an_engines_own(start: Start) -> None:
    program = f"import mmap, sys; buffers = mmap.mmap(-1, {BUFFERS}); buffers.write(b'x' * {BUFFERS}); " + WAIT
    assert reading(start(program)).private > BUFFERS


def test_of_a_process_that_is_gone_there_is_no_reading(start: Start) -> None:
    process = start("import sys\n" + WAIT)
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:  # not reaped yet: it has no memory either
        time.sleep(0.005)
    assert read_tree(process.pid) is None
    process.wait()
    assert read_tree(process.pid) is None


def test_where_there_is_no_proc_what_is_unique_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process_tree, "PROC", tmp_path)
    found = read_tree(os.getpid())
    assert found is not None
    assert found.rss >= found.pss == found.private > 0
    assert found.shared == found.rss - found.private


def test_an_older_kernel_does_not_divide_pss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("self", "7"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "smaps_rollup").write_text(
            "55a-7ffc ---p 00000000 00:00 0 [rollup]\n"
            "Rss: 9 kB\nPss: 5 kB\nShared_Clean: 4 kB\nShared_Dirty: 1 kB\nAnonymous: 3 kB\n"
        )
    monkeypatch.setattr(process_tree, "PROC", tmp_path)
    assert read_tree(7) == Reading(rss=9 << 10, pss=5 << 10, private=3 << 10, shared=5 << 10)


@on_linux
def test_a_mapping_tells_shared_weights(start: Start, weights: Path) -> None:
    first, _ = start(ENGINE + WAIT, weights), start(ENGINE + WAIT, weights)
    assert process_tree.mapped(first.pid, weights) == Mapping(rss=WEIGHTS, pss=WEIGHTS // 2, written=0)


@on_linux
def test_a_mapping_tells_weights_that_were_written_to(start: Start, weights: Path) -> None:
    program = f"""
import mmap, sys
file = open(sys.argv[1], "rb")
weights = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
weights[:{8 * MIB}] = bytes({8 * MIB})
"""
    found = process_tree.mapped(start(program + WAIT, weights).pid, weights)
    assert found is not None
    assert found.written == 8 * MIB


@on_linux
def test_a_file_that_is_not_on_disk_yet_is_shared_all_the_same(start: Start, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    process = start(f"import sys; open(sys.argv[1], 'wb').write(bytes({WEIGHTS}))\n" + ENGINE + WAIT, fresh)
    found = process_tree.mapped(process.pid, fresh)
    assert found is not None
    assert (found.rss, found.written) == (WEIGHTS, 0)


@on_linux
def test_a_file_that_was_copied_is_not_mapped(start: Start, weights: Path) -> None:
    process = start("import sys; weights = open(sys.argv[1], 'rb').read()\n" + WAIT, weights)
    assert process_tree.mapped(process.pid, weights) is None
    assert reading(process).private > WEIGHTS


@on_linux
@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs slotproxy[embedded]")
def test_a_second_real_engine_costs_what_the_first_predicted(tmp_path: Path, demo_model: Path) -> None:
    model = tmp_path / "own.gguf"  # a copy: engines of other tests may have the demo model mapped
    shutil.copyfile(demo_model, model)
    engines: list[subprocess.Popen[bytes]] = []
    try:
        engines.append(engine(model))
        alone = read_tree(engines[0].pid)
        engines.append(engine(model))
        both = [read_tree(process.pid) for process in engines]
        sharing = process_tree.mapped(engines[0].pid, model)
    finally:
        for process in engines:
            process.kill()
            process.wait()
    assert alone is not None
    assert both[0] is not None
    assert both[1] is not None
    assert alone.private == pytest.approx((both[0] + both[1]).pss - alone.pss, rel=0.1)
    assert sharing is not None
    assert sharing.rss > 0.9 * model.stat().st_size
    assert sharing.pss < 0.6 * sharing.rss


def engine(model: Path) -> subprocess.Popen[bytes]:
    """A real one after a warm-up generation."""
    port = ports.free("127.0.0.1")
    command = [sys.executable, "-m", "slotproxy.instances.profiles.embedded", "-m", str(model), "--port", str(port)]
    process = subprocess.Popen([*command, "-c", "1024", "-t", "1"], stderr=subprocess.DEVNULL)
    body = json.dumps({"prompt": "Say hi.", "n_predict": 4}).encode()
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/completion", body).close()
            return process
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
