"""The next restart delay, and when to give up. Pure: time enters as a number, randomness as a value."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Delays grow from `first` by `factor` up to `longest`; a run of `stable` seconds starts them anew.

    More than `most` failures within `window` seconds are too many, however long each run was.
    """

    first: float = 0.2
    factor: float = 2.0
    longest: float = 30.0
    stable: float = 60.0
    most: int = 5
    window: float = 300.0

    def delay(self, streak: int, jitter: float) -> float:
        """Seconds before the restart after `streak` failures in a row; `jitter` in 0..1 takes up to half of it away."""
        full: float = min(self.longest, self.first * self.factor ** min(streak - 1, 64))
        return full * (1 - jitter / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What one instance has been through."""

    policy: Backoff = Backoff()
    failures: tuple[float, ...] = ()  # when, oldest first, within the window
    streak: int = 0  # failures in a row without a stable run between

    def failed(self, now: float, lasted: float) -> "History":
        """After a failure at `now` of a run that had been ready for `lasted` seconds (0: never)."""
        recent = (*(at for at in self.failures if now - at < self.policy.window), now)
        streak = 1 if lasted >= self.policy.stable else self.streak + 1
        return replace(self, failures=recent, streak=streak)

    @property
    def exhausted(self) -> bool:
        return len(self.failures) > self.policy.most

    def delay(self, jitter: float) -> float:
        return self.policy.delay(max(1, self.streak), jitter)
