"""A run: every proxy under every load, in turn and again and again.

What the machine does meanwhile, or how warm it is, then hits all of them alike.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks import load, wire
from tests.benchmarks.family import Family
from tests.benchmarks.load import Outcome, Streams
from tests.benchmarks.peers import Missing, Peer
from tests.benchmarks.processes import NotStarted, end, stand_in

DIRECT = "direct"  # to the engine, no proxy between: the floor
MIB = 1 << 20
BEYOND = 4e6  # microseconds of CPU in a second, four cores: what would need more is not asked for many streams
CALM = 0.02  # share of the machine's CPU time that others may take while something is measured
TRIES = 3  # measurements of one thing until it was calm
Figures = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The loads of a run; durations are seconds."""

    rounds: int
    stream: Streams
    first_byte: Streams
    many: Streams
    requesting: float  # short requests
    big: float  # requests with a big body and a big answer
    clients: int = 8  # that make short requests
    replays: int = 32


FULL = Plan(
    rounds=5,
    stream=Streams(clients=32, events=300, gap=0.005, ramp=0.005),
    first_byte=Streams(clients=32, repeats=20, events=20, gap=0.005, ramp=0.1),
    many=Streams(clients=1000, events=200, gap=0.05, ramp=1.0),
    requesting=2.0,
    big=1.0,
)
QUICK = Plan(
    rounds=1,
    stream=Streams(clients=32, events=100, gap=0.005, ramp=0.005),
    first_byte=Streams(clients=32, repeats=5, events=20, gap=0.005, ramp=0.1),
    many=Streams(clients=1000, events=40, gap=0.05, ramp=0.5),
    requesting=0.5,
    big=0.5,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Something to drive: a proxy, or the engine itself, which costs nobody anything."""

    name: str
    port: int
    family: Family | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run found. `rounds`: per round, per target, the figures."""

    versions: Mapping[str, str]
    missing: Mapping[str, str]
    stolen: float  # share of the machine's CPU time that its hypervisor gave to others
    rounds: Sequence[Mapping[str, Figures]]


def run(peers: Sequence[Peer], plan: Plan, folder: Path, say: Callable[[str], None]) -> Run:
    """Start every peer that is here, measure all of them, end them."""
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        engine = stand_in(folder)
        stack.callback(end, engine.process)
        targets = [Target(name=DIRECT, port=engine.port, family=None)]
        for peer in peers:
            place = folder / peer.name.replace(" ", "-")
            place.mkdir()
            say(f"starting {peer.name}")
            try:
                executable = peer.find()
                program = peer.start(executable, engine.port, place)
            except (Missing, NotStarted) as error:
                missing[peer.name] = str(error)
                continue
            stack.callback(end, program.process)
            versions[peer.name] = peer.version(executable)
            targets.append(Target(name=peer.name, port=program.port, family=Family(program.process.pid)))
        before = psutil.cpu_times()
        rounds = list(_rounds(targets, plan, say))
        stolen = _stolen(before, psutil.cpu_times())
    return Run(versions=versions, missing=missing, stolen=stolen, rounds=rounds)


def _stolen(before: Any, after: Any) -> float:
    """The share of steal between two readings; 0 where the system does not tell."""
    return float(getattr(after, "steal", 0.0) - getattr(before, "steal", 0.0)) / float(sum(after) - sum(before))


def _rounds(targets: Sequence[Target], plan: Plan, say: Callable[[str], None]) -> Iterator[dict[str, Figures]]:
    idle = {target.name: _idle(target) for target in targets}
    for number in range(1, plan.rounds + 1):
        figures: dict[str, Figures] = {target.name: dict(idle[target.name]) for target in targets}
        for measure, target in product(MEASURES, targets):
            say(f"round {number} of {plan.rounds}: {measure.__name__.strip('_').replace('_', ' ')}, {target.name}")
            figures[target.name] |= _calmest(partial(measure, target, plan, figures[target.name]))
        _subtract_floor(figures)
        yield figures if number == 1 else {name: _without_memory(own) for name, own in figures.items()}


def _calmest(measure: Callable[[], Figures]) -> Figures:
    """Measure again, a few times, while others take much of the machine: stolen time counts as the proxy's."""
    found: list[tuple[float, Figures]] = []
    while len(found) < TRIES:
        before = psutil.cpu_times()
        figures = measure()
        found.append((_stolen(before, psutil.cpu_times()), figures))
        if found[-1][0] < CALM:
            break
    return min(found, key=lambda pair: pair[0])[1]


def _without_memory(figures: Figures) -> Figures:
    """Memory is that of the first round: few programs give back what a thousand streams once took."""
    return {key: value for key, value in figures.items() if not key.startswith("resident")}


def _subtract_floor(figures: Mapping[str, Figures]) -> None:
    """What a proxy adds to the time to first byte of the same round."""
    for own in figures.values():
        for key in ("first_byte_p50_ms", "first_byte_p99_ms"):
            own[f"added_{key}"] = own[key] - figures[DIRECT][key]


def _idle(target: Target) -> Figures:
    """After one answer of each kind, so that nothing is measured that is only done once."""
    short = load.run(load.requests(target.port, 1, 0.1, wire.request(), target.family))
    plan = Streams(clients=8, repeats=5, events=10, gap=0.001, ramp=0.0)
    streamed = load.run(load.streams(target.port, plan, target.family))
    resident = {"resident_0": target.family.resident()} if target.family else {}
    return {"warm_up_lost": short.lost + streamed.lost, **resident}


def _streams(target: Target, plan: Plan, so_far: Figures) -> Figures:
    outcome = load.run(load.streams(target.port, plan.stream, target.family))
    return {
        "us_per_event": _each(outcome.cpu, outcome.events),
        "stream_lost": outcome.lost,
        "resident_32": outcome.resident or math.nan,
    }


def _requests(target: Target, plan: Plan, so_far: Figures) -> Figures:
    outcome = load.run(load.requests(target.port, plan.clients, plan.requesting, wire.request(), target.family))
    return {"us_per_request": _each(outcome.cpu, outcome.whole), "request_lost": outcome.lost}


def _first_bytes(target: Target, plan: Plan, so_far: Figures) -> Figures:
    outcome = load.run(load.streams(target.port, plan.first_byte, target.family))
    return {
        "first_byte_p50_ms": percentile(outcome.first_byte, 50) * 1e3,
        "first_byte_p99_ms": percentile(outcome.first_byte, 99) * 1e3,
        "first_byte_lost": outcome.lost,
    }


def _replays(target: Target, plan: Plan, so_far: Figures) -> Figures:
    outcome = load.run(load.replay(target.port, plan.replays, target.family))
    return {
        "us_per_replayed_event": _each(outcome.cpu, outcome.events),
        "replay_lost": outcome.lost,
        "replay_altered": outcome.altered,
    }


def _big_bodies(target: Target, plan: Plan, so_far: Figures) -> Figures:
    request = wire.request(max_tokens=MIB, user="x" * MIB)
    outcome: Outcome = load.run(load.requests(target.port, 2, plan.big, request, target.family))
    return {"us_per_mib": _each(outcome.cpu, outcome.size) * MIB, "big_lost": outcome.lost}


def _many_streams(target: Target, plan: Plan, so_far: Figures) -> Figures:
    """A proxy that could not bear them by far is not asked: what it did would say nothing."""
    if so_far["us_per_event"] * plan.many.clients / plan.many.gap > BEYOND:
        return {"many_refrained": 1}
    outcome = load.run(load.streams(target.port, plan.many, target.family))
    return {
        "delay_p50_ms": percentile(outcome.delays, 50) * 1e3,
        "delay_p99_ms": percentile(outcome.delays, 99) * 1e3,
        "many_lost": outcome.lost,
        "resident_1000": outcome.resident or math.nan,
    }


MEASURES = (_streams, _requests, _first_bytes, _replays, _many_streams, _big_bodies)


def _each(seconds: float, number: int) -> float:
    """Microseconds for each; not a number where nothing was done or nobody was charged."""
    return seconds * 1e6 / number if number and seconds else math.nan


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else math.nan
