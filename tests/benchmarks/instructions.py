"""`make bench-instructions`: machine instructions of slotproxy per event and per short request, counted by callgrind.

Time tells little on a busy machine; instructions are the same again to within a percent or two. Each figure is the
difference between a load and one twice as large, so that whatever does not grow with the load cancels out; what the
proxy does of itself as time passes is counted while it has nothing to do, and taken off. It is compared with what
docs/performance.md says, and never fails a build: it is for people to read.
"""

import argparse
import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from tests.benchmarks import load, tables, wire
from tests.benchmarks.load import Outcome, Streams
from tests.benchmarks.peers import slotproxy_options
from tests.benchmarks.processes import ROOT, NotStarted, Program, ended, free_port, stand_in, start

DOCUMENT = ROOT / "docs" / "performance.md"
MARK = "instructions"
REQUESTS = 200
EVENTS = 100  # of each stream
CLIENTS = 16
IDLE = 6.0  # seconds for which the proxy is watched doing nothing; some of what it does comes every five
GAP = 0.02  # seconds: a proxy that is fifty times slower than usual must still get each event by itself
HEADER = ["instructions per", "now", "committed", "change"]


class NotCounted(Exception):
    """There is no count; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """callgrind around a running slotproxy."""

    program: Program
    folder: Path

    def count(self, work: Coroutine[Any, Any, Outcome]) -> tuple[int, float]:
        """The instructions that `work` cost and the seconds it took. Raises `NotCounted` when an answer was lost."""
        self._control("--zero")
        began = monotonic()
        outcome = load.run(work)
        seconds = monotonic() - began
        known = set(self.folder.glob("callgrind.*"))
        self._control("--dump")
        if outcome.lost:
            raise NotCounted(f"{outcome.lost} answers were lost")
        return _total(set(self.folder.glob("callgrind.*")) - known), seconds

    def begin(self) -> None:
        self._control("--instr=on")

    def _control(self, order: str) -> None:
        command = ["callgrind_control", order, str(self.program.process.pid)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except subprocess.TimeoutExpired:
            raise NotCounted(f"callgrind_control {order} did not end") from None
        if done.returncode or "Error" in done.stdout + done.stderr:
            raise NotCounted(f"callgrind_control {order}: {(done.stdout + done.stderr).strip()}")


def _total(dumps: set[Path]) -> int:
    found = [re.search(r"^(?:totals|summary): (\d+)", dump.read_text(), re.MULTILINE) for dump in dumps]
    if not any(found):
        raise NotCounted("callgrind wrote no totals")
    return sum(int(match[1]) for match in found if match)


@contextmanager
def _counter(folder: Path) -> Iterator[Counter]:
    engine = stand_in(folder)
    port = free_port()
    valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/callgrind"]
    proxy = [sys.executable, "-m", "slotproxy.proxy", *slotproxy_options(port, engine.port, folder)]
    with ended(engine.process):
        # a fixed seed of the hashes: dictionaries and sets then look the same in every run
        program = start([*valgrind, *proxy], port, folder, path="/ready", env={"PYTHONHASHSEED": "0"})
        with ended(program.process):
            yield Counter(program=program, folder=folder)


def measure(folder: Path) -> dict[str, float]:
    """Instructions per unit. Raises `NotCounted`, `NotStarted`."""
    if shutil.which("valgrind") is None:
        raise NotCounted("valgrind is not installed")
    with _counter(folder) as counter:
        port = counter.program.port

        def requests(number: int) -> Coroutine[Any, Any, Outcome]:
            return load.times(port, number, wire.request())

        def streams(events: int) -> Coroutine[Any, Any, Outcome]:
            return load.streams(port, Streams(clients=CLIENTS, events=events, gap=GAP, ramp=GAP), None)

        load.run(requests(REQUESTS))
        load.run(streams(EVENTS))
        counter.begin()
        load.run(requests(10))  # what was translated before is translated anew when counting begins
        idle, seconds = counter.count(_nothing())
        rate = idle / seconds
        return {
            "streamed event": _slope(counter, streams, EVENTS, rate) / CLIENTS,
            "short request": _slope(counter, requests, REQUESTS, rate),
            "idle second": rate,
        }


async def _nothing() -> Outcome:
    await asyncio.sleep(IDLE)
    return Outcome()


def _slope(counter: Counter, make: Callable[[int], Coroutine[Any, Any, Outcome]], size: int, idle: float) -> float:
    """Instructions for each of `size`, less the `idle` ones of every second."""
    (once, seconds), (twice, longer) = counter.count(make(size)), counter.count(make(2 * size))
    return (twice - once - idle * (longer - seconds)) / size


def committed() -> dict[str, float]:
    """What the document says that was landed last."""
    command = ["git", "-c", "safe.directory=*", "show", f"HEAD:{DOCUMENT.relative_to(ROOT)}"]
    landed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    found = re.findall(r"^\| ([a-z ]+) \| ([\d,]+) \|", tables.between(landed, MARK), re.MULTILINE)
    return {name: float(number.replace(",", "")) for name, number in found}


def compared(now: dict[str, float], before: dict[str, float]) -> list[list[str]]:
    return [
        [name, f"{value:,.0f}", f"{before[name]:,.0f}", f"{value / before[name] - 1:+.1%}"]
        if name in before
        else [name, f"{value:,.0f}", "-", "-"]
        for name, value in now.items()
    ]


def report(*, write: bool) -> None:
    """Count, compare, say so; and put the figures into the document."""
    with tempfile.TemporaryDirectory(prefix="slotproxy-bench-") as folder:
        try:
            now = measure(Path(folder))
        except (NotCounted, NotStarted) as error:
            print(f"Instructions were not counted: {error}.")
            return
    tables.show(tables.console(), "Instructions", HEADER, compared(now, committed()))
    if write:
        rows = [[name, f"{value:,.0f}"] for name, value in now.items()]
        tables.put(DOCUMENT, MARK, tables.markdown(["instructions per", "number"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-instructions", description=__doc__, allow_abbrev=False)
    parser.add_argument("--write", action="store_true", help="put the figures into docs/performance.md")
    report(write=parser.parse_args().write)


if __name__ == "__main__":
    main()
