"""`--instances auto` on real engines: as many as fit, never over the limit, and what happens when memory gets short.

Slow, and the figures are printed: `make bench-memory`. RUNS=3 in the environment repeats less often.
"""

import asyncio
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.acceptance.outside import MIB, Sampler, engines, private, together
from tests.clients import chat, post
from tests.running import ROOT, Running, StartProxy, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells PSS")]

RUNS = int(os.environ.get("RUNS", "20"))
SETTLED = re.compile(r"(\d+) of \1 instances ready; ")
WIDE = 1 << 40  # a limit that nothing reaches, if the machine has as much


@pytest.fixture(scope="module")
def own_model(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: engines of other programs would share the pages of the demo model itself."""
    return Path(shutil.copyfile(demo_model, tmp_path_factory.mktemp("model") / "own.gguf"))


def auto(model: Path, ctx: int, most: int, *more: str) -> tuple[str, ...]:
    return ("--model", str(model), "--ctx-size", str(ctx), "--max-instances", str(most), *more)


def settled(proxy: Running, seconds: float = 180.0) -> int:
    """How many instances it came to."""
    wait_for(lambda: SETTLED.search(proxy.log) or proxy.process.poll() is not None, "settling", seconds)
    found = SETTLED.search(proxy.log)
    assert found is not None, proxy.log
    return int(found[1])


@pytest.fixture(scope="module")
def levels(own_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, int]:
    """The most that 1 to 6 instances cost together while they come up and are put to work."""
    proxy = Running.start(tmp_path_factory.mktemp("levels"), *auto(own_model, 512, 6, "--min-gain", "0"))
    try:
        with Sampler(proxy.pid) as sampler:
            assert settled(proxy) == 6
        assert proxy.stop() == 0
    finally:
        proxy.kill()
    return dict(sampler.highest_of)


@pytest.mark.parametrize("fitting", [1, 2, 3, 4, 5])
def test_as_many_as_fit_and_never_over_the_limit(
    levels: dict[int, int], own_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fitting: int
) -> None:
    limit = (levels[fitting] + levels[fitting + 1]) // 2
    found, highest, samples = [], 0, 0
    for run in range(RUNS):
        folder = tmp_path / str(run)
        folder.mkdir()
        proxy = Running.start(folder, *auto(own_model, 512, 8, "--min-gain", "0", "--memory-limit", str(limit)))
        try:
            with Sampler(proxy.pid) as sampler:
                found.append(settled(proxy))
                assert proxy.ready_count() == found[-1]
            assert proxy.stop() == 0
        finally:
            proxy.kill()
        highest, samples = max(highest, sampler.highest), samples + sampler.samples
    with capsys.disabled():
        print(
            f"\nk = {fitting}: {found.count(fitting)} of {RUNS} runs came to {fitting}; limit {limit / MIB:.1f} MiB, "
            f"highest of {samples} samples {highest / MIB:.1f} MiB = {100 * highest / limit:.1f} %"
        )
    assert found == [fitting] * RUNS
    assert highest <= limit


@pytest.mark.parametrize("ctx", [512, 1024, 2048, 4096, 8192])
async def test_the_cost_of_the_next_instance_is_predicted_within_a_tenth(
    start_proxy: StartProxy, own_model: Path, capsys: pytest.CaptureFixture[str], ctx: int
) -> None:
    proxy = start_proxy(*auto(own_model, ctx, 2, "--min-gain", "0"))
    await asyncio.to_thread(settled, proxy)
    said = re.search(r"starting a 2nd instance: needs about ([\d.]+) MiB", proxy.log)
    assert said is not None
    predicted, second = float(said[1]), proxy.slots()[1]["pid"]
    measured = private(second) / MIB
    words = min(ctx // 3, 600)
    for letter in "abcd":  # prompts that differ from their first word on, one for each instance and one more
        answer = await post(proxy.port, chat(f"{letter} " + "sea " * words, max_tokens=8))
        assert answer.status == 200, answer.body
    later = private(second) / MIB
    error = predicted / measured - 1
    with capsys.disabled():
        print(
            f"\ncontext {ctx}: predicted {predicted:.1f} MiB, measured {measured:.1f} MiB ({error:+.1%}); "
            f"after long prompts of clients {later:.1f} MiB"
        )
    assert abs(error) < 0.1


class Cage:
    """A memory cgroup of a test's own, of whichever version the machine has."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        older = Path("/sys/fs/cgroup/memory")
        self.older = older.is_dir()
        self.folder = (older if self.older else Path("/sys/fs/cgroup")) / f"slotproxy-test-{os.getpid()}"

    @property
    def through(self) -> tuple[str, ...]:
        """A command that runs another one inside."""
        return ("sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh")

    @property
    def used(self) -> int:
        """Without what can be dropped."""
        stat = dict(line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
        prefix = "total_" if self.older else ""
        cache = int(stat[f"{prefix}inactive_file"]) + int(stat[f"{prefix}active_file"])
        mapped = int(stat[f"{prefix}mapped_file" if self.older else "file_mapped"])
        usage = "memory.usage_in_bytes" if self.older else "memory.current"
        return int((self.folder / usage).read_text()) - max(0, cache - mapped)

    def make(self) -> None:
        self.folder.mkdir()
        name = "memory.limit_in_bytes" if self.older else "memory.max"
        (self.folder / name).write_text(str(self.limit))

    def remove(self) -> None:
        wait_for(lambda: not (self.folder / "cgroup.procs").read_text(), "the cgroup's last process ending")
        self.folder.rmdir()


@pytest.fixture
def cage(request: pytest.FixtureRequest) -> Iterator[Cage]:
    found = Cage(1 << 30)
    try:
        found.make()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    yield found
    found.remove()


def test_the_limit_comes_from_a_real_cgroup(
    own_model: Path, tmp_path: Path, cage: Cage, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy = Running.start(tmp_path, *auto(own_model, 4096, 8, "--min-gain", "0"), through=cage.through)
    try:
        with Sampler(proxy.pid) as sampler:
            found = settled(proxy)
        log = proxy.log
        assert proxy.stop() == 0
    finally:
        proxy.kill()
    with capsys.disabled():
        version = "v1" if cage.older else "v2"
        print(f"\ncgroup {version} of 1.0 GiB: {found} instances, highest {sampler.highest / MIB:.1f} MiB")
        print("\n".join(line for line in log.splitlines() if "limit" in line))
    assert "memory limit 819.2 MiB of 1.0 GiB (cgroup limit)" in log
    assert sampler.highest <= 0.8 * cage.limit
    assert 2 <= found < 8


BALLOON = """
import sys, time
held = []
for line in sys.stdin:
    held = [bytearray(1 << 20) for _ in range(int(line))]
    for block in held:
        block[::4096] = b"x" * 256
    print("holding", flush=True)
"""
STREAMS = 100


async def test_a_balloon_makes_the_newest_leave_and_it_comes_back_without_a_lost_request(
    own_model: Path, tmp_path: Path, cage: Cage, capsys: pytest.CaptureFixture[str]
) -> None:
    options = auto(own_model, 1024, 3, "--min-gain", "0", "--queue-limit", "200", "--queue-timeout", "30m")
    proxy = Running.start(tmp_path, *options, "--", "--threads", "1", through=cage.through)
    balloon = subprocess.Popen(  # noqa: ASYNC220  nothing else runs yet
        [*cage.through, sys.executable, "-c", BALLOON], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert await asyncio.to_thread(settled, proxy) == 3
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1800), connector=_unlimited()) as session:
            over = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                clients = [tasks.create_task(_stream(session, proxy.base_url, over, n)) for n in range(STREAMS)]
                await asyncio.to_thread(wait_for, lambda: proxy.busy() == 3, "three busy instances")
                left, back = await asyncio.to_thread(_inflate_and_deflate, proxy, balloon, cage)
                over.set()
        results = [result for client in clients for result in client.result()]
        log = proxy.log
        assert proxy.stop() == 0
    finally:
        balloon.kill()
        balloon.communicate()
        proxy.kill()
    failed = [result for result in results if result]
    with capsys.disabled():
        print(
            f"\nballoon: the newest left {left:.1f} s after it and was back {back:.1f} s after its end; "
            f"{len(results)} streams in all by {STREAMS} clients, {len(failed)} failed"
        )
        print("\n".join(line for line in log.splitlines() if "taking" in line or "adding" in line))
    assert left < 5
    assert failed == []
    assert len(results) >= STREAMS


def _unlimited() -> aiohttp.TCPConnector:
    return aiohttp.TCPConnector(limit=0)


async def _stream(session: aiohttp.ClientSession, url: str, over: asyncio.Event, number: int) -> list[str]:
    """One stream after another until it is `over`: of each what was wrong, "" if nothing."""
    results = []
    while not over.is_set():
        body = chat(f"Count from {number}.", max_tokens=12, stream=True)
        try:
            async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                text = await answer.text()
        except aiohttp.ClientError as error:
            results.append(repr(error))
        else:
            ended = text.rstrip().endswith("data: [DONE]") and '"error"' not in text
            results.append("" if answer.status == 200 and ended else f"{answer.status} {text[-200:]}")
    return results


def _inflate_and_deflate(proxy: Running, balloon: "subprocess.Popen[str]", cage: Cage) -> tuple[float, float]:
    """Seconds until the newest had left, and until it was back after the balloon had gone."""
    assert balloon.stdin is not None
    assert balloon.stdout is not None
    wanted = cage.limit - cage.used - int(0.085 * cage.limit)  # 8.5 % are left: under the reserve, above the last 5 %
    balloon.stdin.write(f"{wanted // MIB}\n")
    balloon.stdin.flush()
    balloon.stdout.readline()
    began = time.monotonic()
    wait_for(lambda: len(engines(proxy.pid)) < 3, "the newest leaving")
    left = time.monotonic() - began
    balloon.stdin.write("0\n")
    balloon.stdin.flush()
    balloon.stdout.readline()
    began = time.monotonic()
    wait_for(lambda: proxy.ready_count() == 3, "its return", 120)
    return left, time.monotonic() - began


async def test_auto_stops_where_one_more_gains_less_than_min_gain(
    start_proxy: StartProxy, own_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy = start_proxy(*auto(own_model, 1024, 6))
    found = await asyncio.to_thread(settled, proxy, 400.0)
    (result,) = json.loads((proxy.state_dir / "calibration.json").read_text()).values()
    rates = result["rates"]
    gains = [after / before - 1 for before, after in itertools.pairwise(rates)]
    with capsys.disabled():
        print(f"\nmin-gain 5 %: {found} instances, {result['reason']}; load {os.getloadavg()[0]:.1f}")
        print("\n".join(line for line in proxy.log.splitlines() if "tokens/s" in line))
        print("rates", [round(rate, 1) for rate in rates], "gains", [f"{gain:+.0%}" for gain in gains])
    assert result["instances"] == found
    assert result["reason"] in {"no-gain", "max-instances"}
    assert len(rates) == found + (result["reason"] == "no-gain")


async def test_the_next_start_goes_straight_to_what_was_found(
    start_proxy: StartProxy, own_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    took, found, log = [], [], ""
    for _ in range(2):
        proxy = start_proxy(*auto(own_model, 1024, 2, "--min-gain", "0"))
        began = time.monotonic()
        found.append(await asyncio.to_thread(settled, proxy))
        took.append(time.monotonic() - began)
        log = proxy.log
        assert proxy.stop() == 0
    with capsys.disabled():
        print(f"\nsettled after {took[0]:.1f} s, the next time after {took[1]:.1f} s")
    assert found[0] == found[1]
    assert "; --recalibrate to repeat (found then: " in log


def test_reading_memory_costs_less_than_a_hundredth_of_a_core(
    start_proxy: StartProxy, own_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an idle proxy: everything it does, readings of three instances included."""
    proxy = start_proxy("--model", str(own_model), "--instances", "3", "--ctx-size", "4096")
    proxy.wait_ready(3)
    wait_for(lambda: settled(proxy), "settling")
    process, seconds = psutil.Process(proxy.pid), 20.0
    time.sleep(2)
    before: Any = process.cpu_times()
    time.sleep(seconds)
    after: Any = process.cpu_times()
    share = (after.user + after.system - before.user - before.system) / seconds
    with capsys.disabled():
        used = together(engines(proxy.pid)) / MIB
        print(f"\nan idle proxy with 3 instances ({used:.0f} MiB): {100 * share:.2f} % of a core")
    assert share < 0.01


# An engine that is told to copy the weights: mmap switched off, or repacking switched on.
COPYING = """
import sys
from slotproxy.instances import embedded

made = embedded._parameters

def parameters(xllamacpp, options):
    params = made(xllamacpp, options)
    if sys.argv[0] == "no-mmap":
        params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    elif sys.argv[0] == "repack":
        params.no_extra_bufts = False
    return params

embedded._parameters = parameters
sys.argv[:2] = sys.argv[1:2]
sys.exit(embedded.main())
"""


def copying(folder: Path, how: str) -> Path:
    """A profile of the embedded engine that copies its weights, or with `how` "shared" does not."""
    script = folder / "copying.py"
    script.write_text(COPYING)
    text = (ROOT / "instances" / "engines" / "embedded.toml").read_text()
    text = re.sub(r"^requires = .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^module = .*", f"executable = {json.dumps(sys.executable)}", text, flags=re.MULTILINE)
    text = text.replace("args = [", f"args = [{json.dumps(str(script))}, {json.dumps(how)},", 1)
    path = folder / f"{how}.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def repacking_model(own_model: Path) -> Path:
    """The demo model in Q4_0, a type that llama.cpp repacks for the processor."""
    gguf, numpy = pytest.importorskip("gguf"), pytest.importorskip("numpy")
    reader, path = gguf.GGUFReader(own_model), own_model.with_name("q4_0.gguf")
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    for name, found in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            array = found.types[0] == gguf.GGUFValueType.ARRAY
            writer.add_key_value(name, found.contents(), found.types[0], sub_type=found.types[-1] if array else None)
    before, after = gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q4_0
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if kind == before:
            kind, data = after, gguf.quants.quantize(gguf.quants.dequantize(data, before).astype(numpy.float32), after)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("how", "fixture", "warned"),
    [
        ("shared", "own_model", False),
        ("no-mmap", "own_model", True),
        ("shared", "repacking_model", False),
        ("repack", "repacking_model", True),
    ],
)
def test_copies_of_the_weights_are_warned_about_once_with_figures(
    start_proxy: StartProxy,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    how: str,
    fixture: str,
    warned: bool,
) -> None:
    model: Path = request.getfixturevalue(fixture)
    engine = ("--engine", str(copying(tmp_path, how)), "--ctx-size", "1024", "--instances", "2")
    proxy = start_proxy("--model", str(model), *engine).wait_ready(2)
    wait_for(lambda: settled(proxy), "settling")
    pids = proxy.pids()
    time.sleep(3)  # two looks at the machine
    lines = [line for line in proxy.log.splitlines() if "do not share the model" in line]
    with capsys.disabled():
        own = ", ".join(f"{private(pid) / MIB:.1f}" for pid in pids)
        print(f"\n{model.name}, {how}: {own} MiB of their own, {together(pids) / MIB:.1f} MiB together; {lines}")
    assert len(lines) == warned
