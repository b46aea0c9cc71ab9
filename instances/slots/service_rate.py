"""How long a slot is held, and so how long a place in the line will be waited at. Pure."""

from slotproxy.instances.slots.line import Ahead
from slotproxy.instances.slots.principal import USUAL_COST

_LATEST = 0.1  # what the latest request counts in the averages


class ServiceRate:
    """Moving averages of what requests held a slot for, in seconds, and of what they were expected to cost, in tokens.

    By expected tokens, for those are what is known of requests that wait: where most of each prompt turns out to be
    cached, a token that was expected takes less time, and it will with those that wait, too.
    """

    def __init__(self) -> None:
        self._held = 5.0  # seconds: a guess, until there is better
        self._tokens = USUAL_COST

    def observe(self, seconds: float, expected: float = USUAL_COST) -> None:
        """A request held a slot for `seconds`; it was expected to cost so many tokens."""
        self._held += _LATEST * (seconds - self._held)
        self._tokens += _LATEST * (expected - self._tokens)

    def wait(self, ahead: Ahead, slots: int) -> float:
        """Seconds until all that is ahead has been served by `slots` slots, and one of those that are held is free."""
        return self._held * (ahead.tokens / self._tokens + 1) / max(1, slots)


def like_any(tickets: int) -> Ahead:
    """So many requests of which nothing is known."""
    return Ahead(tickets, tickets * USUAL_COST)
