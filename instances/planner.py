"""Whether one more instance fits, and the sentence that says so. Pure: numbers in, a decision out."""

from dataclasses import dataclass

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_ENDINGS = {1: "st", 2: "nd", 3: "rd"}
_UNITS = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Start one more, or stop here; `sentence` is for people, `reason` for metrics."""

    start: bool
    reason: str  # "first", "fits", "max-instances", "memory"
    sentence: str


def admit(*, running: int, max_instances: int, used: int, next_cost: int, limit: int, available: int) -> Decision:
    """Decide on instance number `running` + 1.

    `used` is what the running ones cost together, `next_cost` what one more is predicted to cost, `limit` the most
    all may cost, `available` what the machine can give without swapping (all in bytes). The first is always admitted:
    without it there is nothing to measure, and its user asked for it.
    """
    if running == 0:
        return Decision(start=True, reason="first", sentence="the first instance is always started")
    so_far = f"{running} instance{'s' * (running > 1)}"
    if running >= max_instances:
        sentence = f"{so_far}: that is the most that --max-instances allows"
        return Decision(start=False, reason="max-instances", sentence=sentence)
    left = max(0, limit - used)
    need = f"{so_far}: {ordinal(running + 1)} would need {size(next_cost)}"
    under = f"{size(left)} are left under the {size(limit)} limit"
    if next_cost > left:
        remedy = "; a smaller --ctx-size needs less" if next_cost <= 2 * left else ""
        return Decision(start=False, reason="memory", sentence=f"{need}, {under}{remedy}")
    if next_cost > available:
        sentence = f"{need}, {size(max(0, available))} are available on this machine (other programs hold the rest)"
        return Decision(start=False, reason="memory", sentence=sentence)
    return Decision(start=True, reason="fits", sentence=f"{need}, {under}: starting it")


def ordinal(number: int) -> str:
    """With its article: `a third`, `an eighth`, `a 21st`."""
    if number <= len(_ORDINALS):
        word = _ORDINALS[number - 1]
    else:
        word = f"{number}{'th' if number % 100 in (11, 12, 13) else _ENDINGS.get(number % 10, 'th')}"
    return f"{'an' if word.startswith(('e', '8', '11th', '18th')) else 'a'} {word}"


def size(count: int) -> str:
    """Bytes as people write them: `81.2 GiB`."""
    for unit, factor in _UNITS:
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
