"""How many instances: whether one more fits, whether it was worth it. Pure: numbers in, decisions out."""

from statistics import median

from slotproxy.instances.decisions import Decision, Move
from slotproxy.instances.wording import about, article, day, instances, ordinal, size

ROUNDS = 4  # comparisons with and without the newest instance until the median counts
CLEAR_AFTER = 2  # so many that agree by twice the margin are enough

REMOVING = ": removing it"
REMOVING_NEWEST = ": removing the newest"

Pair = tuple[float, float]
"""Tokens per second of all instances without the newest, and with it."""


def admit(
    *,
    running: int,
    max_instances: int,
    used: int,
    next_cost: int,
    limit: int,
    available: int,
    reserve: int = 0,
    kind: str = "",
    remedy: str = "",
) -> Decision:
    """Decide on instance number `running` + 1.

    `used` is what the running ones cost together at their busiest, `next_cost` what one more is predicted to cost,
    `limit` the most all may cost, `available` what the machine can give without swapping, `reserve` how much of that is
    kept for other programs (all in bytes). `kind` is a word before "limit", `remedy` what could lift it. The first is
    always admitted: without it there is nothing to measure, and its user asked for it.
    """
    if running == 0:
        return Decision(move=Move.ADD, reason="first", sentence="the first instance is always started")
    if running >= max_instances:
        sentence = f"no {ordinal(running + 1)} instance: {running} is the most that is allowed"
        return Decision(move=Move.STOP, reason="max-instances", sentence=sentence)
    left = max(0, limit - used)
    under = f"{size(left)} free under the {kind}limit"
    if used + next_cost > limit:
        ways = ["a smaller --ctx-size needs less"] * (next_cost <= 2 * left) + [remedy] * bool(remedy)
        return _no_more(running, next_cost, "; ".join([f"{under} of {size(limit)}", *ways]))
    if next_cost > available - reserve:
        kept = f", of which {size(reserve)} are kept for other programs" if reserve else ""
        return _no_more(running, next_cost, f"this machine has {size(max(0, available))} available{kept}")
    sentence = f"starting {_one_more(running)}: needs {about(next_cost)}, {under}"
    return Decision(move=Move.ADD, reason="fits", sentence=sentence)


def _no_more(running: int, next_cost: int, why: str) -> Decision:
    sentence = f"no {ordinal(running + 1)} instance: it would need {about(next_cost)}, {why}"
    return Decision(move=Move.STOP, reason="memory", sentence=sentence)


def _one_more(running: int) -> str:
    return f"{article(running + 1)} {ordinal(running + 1)} instance"


def over_limit(*, running: int, used: int, limit: int, kind: str = "") -> Decision | None:
    """Remove the newest of `running` instances when all of them at work use more than `limit`; None: they do not.

    The only one stays, whatever it costs.
    """
    if used <= limit:
        return None
    what = f"{instances(running)} at work use{'s' * (running == 1)} {size(used)}, the {kind}limit is {size(limit)}"
    return _one_less(running, "memory", what)


def stalled(*, running: int, stall: str) -> Decision:
    """The machine is short of memory, as `stall` says, while `running` instances work."""
    return _one_less(running, "pressure", f"{instances(running)} at work, and {stall}")


def _one_less(running: int, reason: str, what: str) -> Decision:
    if running == 1:
        return Decision(move=Move.STOP, reason=reason, sentence=f"{what}: keeping it, as it is the only one")
    return Decision(move=Move.REMOVE, reason=reason, sentence=f"{what}{REMOVING_NEWEST}")


def out_of_memory(*, running: int, sentence: str) -> Decision:
    """The engine of the newest of `running` instances found no memory; `sentence` is what it said."""
    text = f"no {ordinal(running)} instance, now or later: its engine found no memory ({sentence})"
    return Decision(move=Move.REMOVE, reason="engine-oom", sentence=text)


def known(*, running: int, reason: str, sentence: str, at: float) -> Decision:
    """As many as an earlier start found right at `at` (seconds since 1970), and what it said then."""
    why = sentence.removesuffix(REMOVING).removesuffix(REMOVING_NEWEST)
    text = f"using {instances(running)}, measured {day(at)}; --recalibrate to repeat (found then: {why})"
    return Decision(move=Move.STOP, reason=reason, sentence=text)


def settled(gains: list[float], min_gain: float) -> bool:
    """Whether `gains`, each the rate with the newest instance divided by the one without it, settle the question."""
    wanted = 1 + min_gain
    clear = [gain >= wanted + min_gain or gain <= 1 for gain in gains]
    agreed = len({gain >= wanted for gain in gains}) == 1
    return len(gains) >= ROUNDS or (len(gains) >= CLEAR_AFTER and agreed and all(clear))


def gain(rates: list[Pair]) -> float:
    """The factor by which the newest raises the rate of all: the median, since a busy machine makes outliers."""
    return median(after / before for before, after in rates)


def judge_newest(*, running: int, rates: list[Pair], min_gain: float) -> Decision:
    """Keep or remove the newest of `running` instances by `rates`: tokens per second without it and with it.

    The median of the ratios decides: what else the machine does changes over time, and hits both of a pair alike.
    """
    ratio, after = gain(rates), median(after for _, after in rates)
    more = ratio - 1
    newest = f"{article(running)} {ordinal(running)} instance"
    speeds = f"{after / ratio:.1f} to {after:.1f} tokens/s"
    if more >= min_gain:
        sentence = f"{newest} adds {more * 100:.0f} % ({speeds}): keeping it"
        return Decision(move=Move.KEEP, reason="gain", sentence=sentence)
    effect = "adds only" if more >= 0 else "costs"
    percent, wanted = abs(more) * 100, min_gain * 100
    digits = 1 if round(percent) == round(wanted) else 0  # not "only 5 % ... --min-gain 5 %"
    sentence = f"{newest} {effect} {percent:.{digits}f} % ({speeds}, --min-gain {wanted:g} %){REMOVING}"
    return Decision(move=Move.REMOVE, reason="no-gain", sentence=sentence)


def at_full_context(points: list[tuple[int, int]], ctx: int) -> int:
    """Bytes an instance will hold when its context of `ctx` tokens is full.

    `points` are (tokens of context filled, bytes held) after prompts of equal length, in order: buffers that the length
    of a prompt decides are then the same in all of them, and what still grows is the context. Growth under a hundredth
    is noise and counts as none.
    """
    most = max(held for _, held in points)
    (first, before), (last, after) = points[0], points[-1]
    if last <= first or after - before < before / 100:
        return most
    return max(most, after + (after - before) * max(0, ctx - last) // (last - first))
