"""The levels that principals have come to: the virtual time of start-time fair queueing. Pure.

A principal's level is the service it has attained, by its weight. What is attained later counts for more, which is how
what was attained earlier decays without being touched: the unit, which a token adds to a level, doubles within a
HALF_LIFE; then all levels are halved, and it is 1 again.
"""

from collections.abc import Collection, Mapping

from slotproxy.instances.slots.principal import LEAST_COST, USUAL_COST, Principal, Turn

HALF_LIFE = 60.0  # seconds
REMEMBERED = 1024  # principals, unless more have something waiting
_KEPT = REMEMBERED * 3 // 4  # so that there is not something to forget with every one that is new
_NOTHING = 1.0  # tokens by weight: a level so small is none
_LATEST = 0.1  # what the latest request counts in the usual cost


class Levels:
    """All principals that are remembered. `now`: seconds on the monotonic clock."""

    def __init__(self) -> None:
        self.known: dict[str, Principal] = {}
        self._weights: Mapping[str, float] = {}
        self._since = 0.0  # when a token was one unit
        self._start = 0.0  # level of whoever begins to ask
        self._usual = USUAL_COST  # tokens of a request, as a moving average

    def weigh(self, weights: Mapping[str, float]) -> None:
        """From now on by these; whoever is not among them has 1."""
        self._weights = dict(weights)
        for name, principal in self.known.items():
            principal.weight = self._weights.get(name, 1.0)

    def unit(self, now: float) -> float:
        """What a token of service is now, from 1 to 2."""
        elapsed = now - self._since
        if elapsed >= HALF_LIFE:
            self._decay(0.5 ** (elapsed / HALF_LIFE))
            self._since = now
            return 1.0
        return float(2.0 ** (elapsed / HALF_LIFE))

    def of(self, name: str) -> Principal:
        """The principal of this name, a new one if need be."""
        principal = self.known.get(name)
        if principal is None:
            if len(self.known) >= REMEMBERED:
                self._forget()
            principal = self.known[name] = Principal(name, self._weights.get(name, 1.0))
        return principal

    def begin(self, principal: Principal, rivals: Collection[Principal], unit: float) -> None:
        """It begins to ask: not below the level of now, at most one usual request above the lowest of `rivals`."""
        start = self._start
        if rivals:
            usual = self._usual * unit
            start = min(start, usual + min(one.level + usual * one.leases / one.weight for one in rivals))
        if principal.level < start:
            principal.level = start

    def charge(self, turn: Turn, unit: float) -> None:
        """It has a slot from now on."""
        principal = turn.principal
        turn.charge = turn.tokens / principal.weight
        principal.leases += 1
        principal.in_flight += turn.charge
        # By the usual cost, for what is expected of one may be far off: most of its prompt may be cached.
        start = principal.level + self._usual * unit / principal.weight
        if start > self._start:
            self._start = start

    def settle(self, turn: Turn, tokens: float, unit: float) -> None:
        """It had a slot, and cost so many tokens."""
        tokens = max(tokens, LEAST_COST)
        principal = turn.principal
        principal.end(turn.charge)
        principal.level += unit * tokens / principal.weight
        self._usual += _LATEST * (min(tokens, 2 * self._usual) - self._usual)  # one giant changes little

    def _decay(self, share: float) -> None:
        """Leave so much of what everybody attained; forget those of whom nothing is left."""
        self._start *= share
        for principal in list(self.known.values()):
            principal.level *= share
            if principal.is_idle and not principal.leases and principal.level < _NOTHING:
                del self.known[principal.name]

    def _forget(self) -> None:
        """Those who have attained least, unless they have something waiting."""
        idle = [one for one in self.known.values() if one.is_idle]
        idle.sort(key=lambda one: one.level + one.in_flight, reverse=True)
        for principal in idle[max(0, _KEPT - (len(self.known) - len(idle))) :]:
            del self.known[principal.name]
