"""`make bench-engines`: real engines through slotproxy against the same engines without it, and against one engine.

Tokens per second of all streams together, and the time to the first token, measured in turn by one client. The engines
are the demo model's; each of a pair has half of the machine's threads, as slotproxy gives them. The first token is that
of many short answers, every set-up's in turn, to a prompt that the engine has in its cache: how long another takes
differs by more than what a proxy can add to it.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from slotproxy.instances.models import demo
from tests.benchmarks import load, results, tables, wire
from tests.benchmarks.load import Outcome
from tests.benchmarks.peers import Missing, ours
from tests.benchmarks.processes import NotStarted, Program, embedded, end, free_port, start

TOKENS = 64  # of each answer
REPEATS = 4  # answers of each client in a round, for the tokens per second
FIRSTS = 40  # first tokens of each client in a round
HEADER = ["", "streams", "tok/s together", "against direct", "first token p50 ms", "against direct"]
REQUEST = wire.request(
    stream=True, max_tokens=TOKENS, temperature=0, seed=42, ignore_eos=True, cache_prompt=False, model="demo"
)
FIRST = wire.request(stream=True, max_tokens=1, temperature=0, seed=42, cache_prompt=True, model="demo")


class LostAnswers(Exception):
    """A set-up did not answer every request; the text says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUp:
    """Clients, each at a port; `against` names the set-up it is compared with."""

    name: str
    ports: Sequence[int]
    against: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    tokens_per_second: float
    first_token: float  # seconds, median


@contextmanager
def set_ups(model: Path, folder: Path) -> Iterator[list[SetUp]]:
    """Every set-up, running."""
    cores = os.cpu_count() or 1
    half = max(1, cores // 2)
    with ExitStack() as stack:

        def kept(program: Program) -> int:
            stack.callback(end, program.process)
            return program.port

        a, b = (kept(embedded(model, slots=1, threads=half, folder=folder)) for _ in range(2))
        one = kept(embedded(model, slots=1, threads=cores, folder=folder))
        batching = kept(embedded(model, slots=2, threads=cores, folder=folder))
        single, pair = kept(_slotproxy(folder / "1", a)), kept(_slotproxy(folder / "2", a, b))
        yield [
            SetUp(name="1 engine, direct", ports=[a]),
            SetUp(name="slotproxy, 1 instance", ports=[single], against="1 engine, direct"),
            SetUp(name="2 engines, direct", ports=[a, b]),
            SetUp(name="slotproxy, 2 instances", ports=[pair, pair], against="2 engines, direct"),
            SetUp(name="1 engine, all threads", ports=[one], against="1 engine, direct"),
            SetUp(name="1 engine, all threads, 2 clients", ports=[one, one], against="2 engines, direct"),
            SetUp(name="1 engine, all threads, -np 2", ports=[batching] * 2, against="2 engines, direct"),
        ]


def _slotproxy(folder: Path, *engines: int) -> Program:
    folder.mkdir()
    port = free_port()
    upstreams = [word for engine in engines for word in ("--upstream", f"http://127.0.0.1:{engine}")]
    options = ["--port", str(port), "--log-level", "warning", "--state-dir", str(folder / "state")]
    return start([ours(), *upstreams, *options], port, folder, path="/ready")


def tokens_per_second(chosen: Sequence[SetUp]) -> dict[str, float]:
    """Of all streams of each together; an answer of everyone's in turn. Raises `LostAnswers`."""
    seconds = {set_up.name: 0.0 for set_up in chosen}
    for number in range(REPEATS):
        for set_up in chosen if number % 2 else reversed(chosen):
            seconds[set_up.name] += _generated(set_up, REQUEST).seconds
    return {set_up.name: REPEATS * TOKENS * len(set_up.ports) / seconds[set_up.name] for set_up in chosen}


def first_tokens(chosen: Sequence[SetUp]) -> dict[str, float]:
    """The median time to the first token of each, in seconds. Raises `LostAnswers`."""
    found: dict[str, list[float]] = {set_up.name: [] for set_up in chosen}
    for _ in range(FIRSTS):
        for set_up in chosen:
            found[set_up.name] += _generated(set_up, FIRST).first_byte
    return {name: median(times) for name, times in found.items()}


def _generated(set_up: SetUp, request: bytes) -> Outcome:
    outcome: Outcome = load.run(load.generations(set_up.ports, request))
    if outcome.lost:
        raise LostAnswers(f"{set_up.name}: {outcome.lost} of {outcome.lost + outcome.whole} answers were lost")
    return outcome


def one_round(chosen: Sequence[SetUp]) -> dict[str, Speed]:
    """Every set-up. Raises `LostAnswers`."""
    rates, firsts = tokens_per_second(chosen), first_tokens(chosen)
    return {name: Speed(tokens_per_second=rate, first_token=firsts[name]) for name, rate in rates.items()}


def measure(rounds: int) -> tuple[list[SetUp], list[dict[str, Speed]]]:
    """Raises `LostAnswers`, `Missing`, `NotStarted`."""
    with (
        tempfile.TemporaryDirectory(prefix="slotproxy-bench-") as folder,
        set_ups(demo.fetch(), Path(folder)) as chosen,
    ):
        tokens_per_second(chosen)  # warm
        return chosen, [one_round(chosen) for _ in range(rounds)]


def table(chosen: Sequence[SetUp], rounds: Sequence[Mapping[str, Speed]]) -> list[list[str]]:
    """Medians; what is said against another set-up is the median of the rounds' own comparisons."""
    return [_row(set_up, rounds) for set_up in chosen]


def _row(set_up: SetUp, rounds: Sequence[Mapping[str, Speed]]) -> list[str]:
    def middle(figure: Callable[[Speed, Speed], float]) -> float:
        return median(figure(each[set_up.name], each[set_up.against or set_up.name]) for each in rounds)

    row = [set_up.name, str(len(set_up.ports)), f"{middle(lambda own, other: own.tokens_per_second):.1f}"]
    row.append(f"{middle(lambda own, other: own.tokens_per_second / other.tokens_per_second):.1%}")
    row.append(f"{middle(lambda own, other: own.first_token) * 1e3:.1f}")
    row.append(f"{middle(lambda own, other: own.first_token - other.first_token) * 1e3:+.1f}")
    return row if set_up.against else [*row[:3], "", row[4], ""]


def save(path: Path, rows: Sequence[Sequence[str]], rounds: Sequence[Mapping[str, Speed]]) -> None:
    figures = [{name: [own.tokens_per_second, own.first_token] for name, own in each.items()} for each in rounds]
    whole = {"machine": results.machine(), "columns": HEADER, "medians": rows, "rounds": figures}
    path.write_text(json.dumps(whole, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-engines", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="times every set-up is measured (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures")
    parser.add_argument("--write", type=Path, action="append", default=[], metavar="FILE", help="document to write to")
    options = parser.parse_args()
    try:
        tables.check(options.write, ["engines"])
        chosen, rounds = measure(options.rounds)
    except (LostAnswers, Missing, NotStarted, tables.NoPlace, OSError) as error:
        print(f"Not measured: {error}.", file=sys.stderr)
        return 1
    rows = table(chosen, rounds)
    tables.show(tables.console(), f"Real engines: medians of {options.rounds} rounds", HEADER, rows)
    for document in options.write:
        tables.put(document, "engines", tables.markdown(HEADER, rows))
    if options.json:
        save(options.json, rows, rounds)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
