"""How many requests at a time a server that runs elsewhere is asked, as it refuses and answers. Pure.

Additive increase, multiplicative decrease, as TCP paces itself: a refusal halves the number and opens a pause, every
answer after it brings back a part of a slot. Time enters as a number (seconds, monotonic), randomness as one in 0..1.
"""

from dataclasses import dataclass, field

from slotproxy.instances.remotes.ratelimits import Reason, Refusal
from slotproxy.instances.running.backoff import Backoff

LONGEST = 3600.0  # seconds of a pause; then one request finds out whether the server still means it
OUT_OF_QUOTA = 300.0  # seconds: nothing but the user's money ends it, and nobody tells us of that
JITTER = (
    0.25  # part of a wait that is added at random, so that proxies that were refused together do not return together
)
UNSAID = Backoff(first=1.0, factor=2.0, longest=60.0)  # where a refusal names no wait


@dataclass(slots=True)
class Pace:
    """Of one server. `most`: what the user allows."""

    most: int
    window: float = field(init=False)
    until: float = field(default=0.0, init=False)  # when the pause ends
    reason: Reason | None = field(default=None, init=False)  # why it is held back; None: it is not
    _streak: int = field(default=0, init=False)  # refusals in a row, a pause between them

    def __post_init__(self) -> None:
        self.window = float(self.most)

    @property
    def steady(self) -> bool:
        """Whether it may have all it ever may, and another good answer changes nothing."""
        return self.reason is None and not self._streak and self.window == self.most

    def slots(self, now: float) -> int:
        """How many requests it may have at a time now; 0 during a pause."""
        return 0 if now < self.until else int(self.window)

    def refused(self, refusal: Refusal, now: float, jitter: float) -> None:
        """It took no request. Refusals during a pause are of requests sent before it: they can only prolong it."""
        if now >= self.until:
            self._streak += 1
            self.window = 1.0 if refusal.reason is Reason.QUOTA else max(1.0, self.window / 2)
        self.reason = refusal.reason
        self.until = max(self.until, now + self._wait(refusal, jitter))

    def exhausted(self, wait: float, now: float, jitter: float) -> None:
        """It answered, and said that nothing is left of a limit for `wait` seconds."""
        self.until = max(self.until, now + min(wait * (1 + JITTER * jitter), LONGEST))
        if self.reason is None:
            self.reason = Reason.RATE_LIMIT

    def answered(self, now: float, *, scarce: bool) -> None:
        """It served a request. `scarce`: little is left of its limits, so that it is asked no more than it is now."""
        if now < self.until:
            return
        self._streak = 0
        if not scarce:
            self.window = min(float(self.most), self.window + 1 / self.window)
        if self.window == self.most:
            self.reason = None

    def _wait(self, refusal: Refusal, jitter: float) -> float:
        if refusal.wait is None and refusal.reason is not Reason.QUOTA:
            return UNSAID.delay(self._streak, jitter)
        least = OUT_OF_QUOTA if refusal.reason is Reason.QUOTA else 0.0
        return min(max(refusal.wait or 0.0, least) * (1 + JITTER * jitter), LONGEST)
