"""How many instances: whether one more fits, whether it was worth it. Pure: numbers in, decisions out."""

from statistics import median

from slotproxy.instances.decisions import Decision, Move
from slotproxy.instances.wording import instances, ordinal, size

ROUNDS = 4  # comparisons with and without the newest instance until the median counts
CLEAR_AFTER = 2  # so many that agree by twice the margin are enough

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
    left to other programs (all in bytes). `kind` is a word before "limit", `remedy` what could lift it. The first is
    always admitted: without it there is nothing to measure, and its user asked for it.
    """
    if running == 0:
        return Decision(move=Move.ADD, reason="first", sentence="the first instance is always started")
    so_far = instances(running)
    if running >= max_instances:
        return Decision(move=Move.STOP, reason="max-instances", sentence=f"{so_far}: that is the most that is allowed")
    left = max(0, limit - used)
    need = f"{so_far}: {ordinal(running + 1)} would need {size(next_cost)}"
    under = f"{size(left)} are left under the {size(limit)} {kind}limit"
    if next_cost > left:
        ways = ["a smaller --ctx-size needs less"] * (next_cost <= 2 * left) + [remedy] * bool(remedy)
        sentence = "; ".join([f"{need}, {under}", *ways])
        return Decision(move=Move.STOP, reason="memory", sentence=sentence)
    if next_cost > available - reserve:
        free = f"{size(max(0, available))} are available on this machine (other programs hold the rest)"
        kept = f", of which {size(reserve)} are left to them" if reserve else ""
        return Decision(move=Move.STOP, reason="memory", sentence=f"{need}, {free}{kept}")
    return Decision(move=Move.ADD, reason="fits", sentence=f"{need}, {under}: starting it")


def over(*, running: int, used: int, limit: int, kind: str = "") -> Decision | None:
    """Take the newest of `running` instances back when all of them at work cost more than `limit`; None: they do not.

    The only one stays, whatever it costs.
    """
    if used <= limit:
        return None
    what = (
        f"{instances(running)} at work use{'s' * (running == 1)} {size(used)}, more than the {size(limit)} {kind}limit"
    )
    if running == 1:
        return Decision(move=Move.STOP, reason="memory", sentence=f"{what}; the only one is kept")
    return Decision(move=Move.REMOVE, reason="memory", sentence=f"{what}: taking the newest out")


def stalled(*, running: int, stall: str) -> Decision:
    """The machine is short of memory, as `stall` says, while `running` instances work."""
    move = Move.STOP if running == 1 else Move.REMOVE
    ending = "the only one is kept" if running == 1 else "taking the newest out"
    return Decision(move=move, reason="pressure", sentence=f"{instances(running)}: {stall}; {ending}")


def out_of_memory(*, running: int, sentence: str) -> Decision:
    """The engine of the newest of `running` instances found no memory; `sentence` is what it said."""
    text = f"{instances(running - 1)}: {ordinal(running)} did not start ({sentence}); it is not tried again"
    return Decision(move=Move.REMOVE, reason="engine-oom", sentence=text)


def enough(gains: list[float], min_gain: float) -> bool:
    """Whether `gains`, each the rate with the newest instance divided by the one without it, settle the question."""
    wanted = 1 + min_gain
    clear = [gain >= wanted + min_gain or gain <= 1 for gain in gains]
    agreed = len({gain >= wanted for gain in gains}) == 1
    return len(gains) >= ROUNDS or (len(gains) >= CLEAR_AFTER and agreed and all(clear))


def gain(rates: list[Pair]) -> float:
    """What the newest instance multiplies the rate of all by: the median, since a busy machine makes outliers."""
    return median(after / before for before, after in rates)


def proved(*, running: int, rates: list[Pair], min_gain: float) -> Decision:
    """Keep or take out the newest of `running` instances by `rates`: tokens per second without it and with it.

    Their ratios decide: what else the machine does comes and goes, and each pair was measured together.
    """
    ratio, after = gain(rates), median(after for _, after in rates)
    more = ratio - 1
    sentence = (
        f"{instances(running)} make {after:.1f} tokens/s together, {running - 1} made {after / ratio:.1f}: "
        f"{abs(more) * 100:.0f} % {'more' if more >= 0 else 'less'}"
    )
    if more >= min_gain:
        return Decision(move=Move.KEEP, reason="gain", sentence=sentence)
    sentence = f"{sentence}, --min-gain is {min_gain * 100:g} %: taking the newest out"
    return Decision(move=Move.REMOVE, reason="no-gain", sentence=sentence)


def at_full_context(points: list[tuple[int, int]], ctx: int) -> int:
    """Bytes an instance will hold when its context of `ctx` tokens is full.

    `points` are (tokens of context filled, bytes held) after prompts of equal length, in order: buffers that the length
    of a prompt decides are then the same in all of them, and what still grows is the context. Growth under a hundredth
    is noise, and none of it is a shrinking.
    """
    most = max(held for _, held in points)
    (first, before), (last, after) = points[0], points[-1]
    if last <= first or after - before < before / 100:
        return most
    return max(most, after + (after - before) * max(0, ctx - last) // (last - first))
