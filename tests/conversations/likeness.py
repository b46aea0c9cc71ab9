"""Whether two engines have read the same text: their most likely next tokens say it, whatever rounding does. Pure."""

import math
from collections.abc import Sequence
from itertools import pairwise

Top = Sequence[tuple[str, float]]  # tokens and their log probabilities
TOLERANCE = 0.1


def distance(one: Top, other: Top) -> float:
    """The largest difference of a log probability; infinite where one of them says nothing.

    A token that only one of them names has at most the other's least probability there.
    """
    if not one or not other:
        return math.inf
    return max(_beyond(one, other), _beyond(other, one))


def _beyond(one: Top, other: Top) -> float:
    known = dict(other)
    least = min(known.values())
    return max(
        abs(value - known[token]) if token in known else max(0.0, value - least) for token, value in dict(one).items()
    )


def told_apart(tops: Sequence[tuple[int, Top]]) -> float:
    """Of the neighbours that belong to different conversations, the share that the tolerance tells apart."""
    pairs = [(one, other) for (who, one), (whom, other) in pairwise(tops) if who != whom]
    return sum(distance(*pair) > TOLERANCE for pair in pairs) / len(pairs) if pairs else math.nan
