"""What engines answer beside their slots: who is asked, and how many requests of this kind are out. Pure.

`EACH` of them may be out at an upstream, `IN_ALL` at all together. Whoever comes beyond that waits for a slot in the
one queue, whose limit holds for them, too: nobody is refused who could have waited.
"""

import functools
import operator
from collections import Counter
from collections.abc import Callable, Hashable, Set

from slotproxy.instances.slotless import NO_REQUESTS, Slotless
from slotproxy.instances.upstream import Upstream

EACH, IN_ALL = 16, 64


class Beside:
    """Requests without a slot."""

    def __init__(self) -> None:
        self._answer(NO_REQUESTS)
        self._members: dict[Upstream, None] = {}  # in the order they came
        self._out: Counter[Upstream] = Counter()  # none that has nothing out: a restarted engine is another upstream
        self._all = 0

    def offer(self, upstream: Upstream) -> None:
        """It may be asked from now on; again, it makes no difference."""
        self._members[upstream] = None
        self._answer(self._requests | upstream.slotless)

    def withdraw(self, upstream: Upstream) -> None:
        """It is asked no more; what is out stays out."""
        self._members.pop(upstream, None)
        self._answer(functools.reduce(operator.or_, (member.slotless for member in self._members), NO_REQUESTS))

    def _answer(self, requests: Slotless) -> None:
        self._requests = requests
        self.posted = requests.posted
        self.concerns = requests.has  # whether somebody answers such a request so

    def out(self, upstream: Upstream) -> int:
        """How many it has, also after it was withdrawn."""
        return self._out[upstream]

    def pick(
        self, method: str, path: str, exclude: Set[Hashable], offered: Callable[[Upstream], int]
    ) -> Upstream | None:
        """Who has the fewest of those that answer such a request and have room for it; None: there is none.

        One that is for when no other is free, or has no slots `offered` now, comes last.
        """
        if self._all >= IN_ALL:
            return None
        able = [
            member
            for member in self._members
            if self._out[member] < EACH and member not in exclude and member.slotless.has(method, path)
        ]
        return min(able, key=lambda it: (it.overflow, not offered(it), self._out[it])) if able else None

    def take(self, upstream: Upstream) -> None:
        """One more is out there."""
        self._out[upstream] += 1
        self._all += 1

    def leave(self, upstream: Upstream) -> bool:
        """One less; whether it was the last one."""
        self._all -= 1
        self._out[upstream] -= 1
        if self._out[upstream]:
            return False
        del self._out[upstream]
        return True
