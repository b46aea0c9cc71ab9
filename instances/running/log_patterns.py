"""What an engine's log lines tell: that it listens, or why it cannot go on. Pure."""

import re

from slotproxy.instances.failures import CLAUSES, Cause, Failure
from slotproxy.instances.profiles.profile import Profile

LONGEST = 300  # characters of a log line quoted to the user


class LogPatterns:
    """Reads the lines of one process as they come."""

    def __init__(self, profile: Profile) -> None:
        self._banner = re.compile(profile.ready.banner) if profile.ready.banner else None
        self._fatal = [(re.compile(fatal.pattern), fatal.kind) for fatal in profile.fatal]
        self.announced = self._banner is None  # the banner was seen, or none is expected
        self.fatal: Failure | None = None

    def read(self, line: str) -> None:
        """The first fatal line counts, but a particular one replaces one that only says that it ended."""
        if not self.announced and self._banner is not None and self._banner.search(line):
            self.announced = True
        if self.fatal is None or self.fatal.cause is Cause.OTHER:
            self._look_for_fatal(line)

    def _look_for_fatal(self, line: str) -> None:
        for pattern, cause in self._fatal:
            if pattern.search(line) and (self.fatal is None or cause is not Cause.OTHER):
                clause = CLAUSES.get(cause)
                said = line.strip()[:LONGEST]
                self.fatal = Failure(cause=cause, sentence=f"{clause}: {said}" if clause else said)
                return
