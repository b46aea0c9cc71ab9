"""Whether an engine is alive, from what it was seen to do. Pure: time enters as a number."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Vital:
    """What an engine had done at one look."""

    output: int  # bytes of log so far
    cpu: float | None = None  # seconds of CPU time its processes have taken so far; None: nobody looked


@dataclass(frozen=True, slots=True, kw_only=True)
class Vigil:
    """One engine over time. It is silent from one look to the next when it neither worked nor wrote nor answered.

    An engine that reads a long prompt answers no health check for minutes and is well: a refusal to answer alone proves
    nothing. One that stands still in every respect for `limit` seconds is not coming back.
    """

    limit: float  # seconds of silence that are too many; 0: any are allowed
    period: float  # seconds between looks
    last: Vital | None = None
    at: float = 0.0
    silence: float = 0.0  # seconds so far

    def moved(self, vital: Vital) -> bool:
        """Whether it worked or wrote since the last look; the first look has nothing to compare with."""
        if self.last is None or vital.output > self.last.output:
            return True
        return vital.cpu is not None and self.last.cpu is not None and vital.cpu > self.last.cpu

    def looked(self, now: float, vital: Vital, *, alive: bool) -> "Vigil":
        """After a look at `now`; `alive`: it had moved, or it answered.

        Of the time between two looks no more than two periods count: if it was longer, it was we who slept.
        """
        passed = min(now - self.at, 2 * self.period)
        silence = 0.0 if alive or self.last is None else self.silence + passed
        return Vigil(limit=self.limit, period=self.period, last=vital, at=now, silence=silence)

    @property
    def hopeless(self) -> bool:
        return 0 < self.limit <= self.silence
