"""What is told of a run. Pure."""

import enum
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from tests.laboratory.simulation import Run, Served
from tests.laboratory.texts import size

COUNTED_ON = 64  # tokens
REUSED = 0.8  # of what an engine of its own would have: from here on a turn found its conversation


class Found(enum.StrEnum):
    """How a turn found what had been computed for it; judged by what the engines did, not by what a policy meant."""

    HIT = "hit"  # its conversation was there
    HANDED_OVER = "handed-over"  # it, or what it begins with, was restored
    SPILL = "spill"  # its conversation was elsewhere, or forgotten
    COLD = "cold"  # a conversation that begins


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Seconds, tokens and shares."""

    turns: int
    first_p50: float  # time to the first token of turns that begin a conversation
    first_mean: float
    first_p95: float
    later_p50: float  # the same of turns that go on with one
    later_mean: float
    later_p95: float
    wait_p95: float  # for a slot
    computed: int  # prompt tokens
    ratio: float  # to those of one engine for each conversation
    reused: float  # share of what the engine of one conversation would have, of later turns
    found: dict[str, int]
    mistaken: float  # share of turns whose engine had less than half of what the policy counted on
    jain: float
    unfair: float  # the longest wait of all, in fair shares
    seconds: float  # of the whole run


def figures(run: Run) -> Figures:
    known, turns = run.trace.known(), run.trace.turns
    first = [_to_first_token(one) for one in run.served if not known[one.number]]
    later = [_to_first_token(one) for one in run.served if known[one.number]]
    computed = sum(size(turns[one.number].prompt) - one.cached for one in run.served)
    alone = sum(size(turn.prompt) - own for turn, own in zip(turns, known, strict=True))
    reused = sum(min(one.cached, known[one.number]) for one in run.served) / max(1, sum(known))
    return Figures(
        turns=len(turns),
        first_p50=percentile(first, 50),
        first_mean=_mean(first),
        first_p95=percentile(first, 95),
        later_p50=percentile(later, 50),
        later_mean=_mean(later),
        later_p95=percentile(later, 95),
        wait_p95=percentile([one.granted - one.arrived for one in run.served], 95),
        computed=computed,
        ratio=computed / alone,
        reused=reused,
        found=dict(Counter(str(how) for how in found(run))),
        mistaken=_mean([one.believed >= COUNTED_ON and one.cached < one.believed / 2 for one in run.served]),
        jain=jain(service_rates(run)),
        unfair=max(longest_waits(run).values(), default=0.0),
        seconds=run.seconds,
    )


def found(run: Run) -> Iterator[Found]:
    known = run.trace.known()
    for one in run.served:
        own = known[one.number]
        if one.restored and one.cached >= REUSED * own:
            yield Found.HANDED_OVER
        elif not own:
            yield Found.COLD
        else:
            yield Found.HIT if one.cached >= REUSED * own else Found.SPILL


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed; NaN of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else math.nan


def jain(shares: Sequence[float]) -> float:
    """1: all have the same; 1 / their number: one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def service_rates(run: Run) -> list[float]:
    """What each principal got for each second in which it had asked for something: tokens computed, answers twice."""
    service: dict[str, float] = defaultdict(float)
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for one in run.served:
        turn = run.trace.turns[one.number]
        service[turn.principal] += size(turn.prompt) - one.cached + 2 * turn.answer.tokens
        spans[turn.principal].append((one.arrived, one.answered))
    return [service[principal] / covered(spans[principal]) for principal in service]


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that lie in at least one of them."""
    total, until = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def longest_waits(run: Run) -> dict[str, float]:
    """The longest wait of each principal, in fair shares.

    A fair share of the slots is one part for each principal that has asked, so a request takes as many times longer
    than alone as there are principals for each slot. For a short one it is a mean service of each of them, as nobody
    is interrupted. What a principal lets wait behind its own requests does not count.
    """
    mean = _mean([one.answered - one.granted for one in run.served])
    moments = [(one.arrived, 1, one) for one in run.served] + [(one.granted, 2, one) for one in run.served]
    moments += [(one.answered, 0, one) for one in run.served]
    asking: Counter[str] = Counter()
    at_arrival: dict[int, int] = {}
    longest: dict[str, float] = {}
    for moment, kind, one in sorted(moments, key=lambda entry: (entry[0], entry[1], entry[2].number)):
        principal = run.trace.turns[one.number].principal
        if kind == 0:
            asking[principal] -= 1
        elif kind == 1:
            if not asking[principal]:
                at_arrival[one.number] = 0
            asking[principal] += 1
            if one.number in at_arrival:
                at_arrival[one.number] = len(+asking)
        elif one.number in at_arrival:
            share = max(mean, one.answered - one.granted) * max(at_arrival[one.number], len(+asking)) / run.engines
            longest[principal] = max(longest.get(principal, 0.0), (moment - one.arrived) / share)
    return longest


def _to_first_token(one: Served) -> float:
    return one.first_token - one.arrived


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan
