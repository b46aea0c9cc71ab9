"""Whether a stream still says something. Pure.

Some engines send comments while they compute, to show that they live. An engine whose computing has come to a stop may
go on with them for ever: a stream of nothing else is as good as none.
"""

from typing import Protocol


class Said(Protocol):
    """What came of a stream so far: a `meter.Meter`."""

    @property
    def size(self) -> int: ...

    def more_than_comments(self, since: int) -> bool: ...


class Silence:
    """Of one stream, from `now` on. Looking costs as much as the stream's last events, so it looks seldom."""

    __slots__ = ("_looked_at", "_seen", "_spoke_at")

    def __init__(self, now: float) -> None:
        self._looked_at = self._spoke_at = now
        self._seen = 0

    def lasts(self, said: Said, now: float, patience: float) -> bool:
        """Whether nothing but comments came for `patience` seconds; noticed up to a quarter of it later."""
        if now - self._looked_at < patience / 4:
            return False
        self._looked_at = now
        if said.more_than_comments(self._seen):
            self._spoke_at = now
        self._seen = said.size
        return now - self._spoke_at > patience
