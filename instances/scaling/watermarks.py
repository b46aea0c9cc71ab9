"""When a running instance is removed for want of memory, and when one comes back. Pure: time enters as a number.

Over the soft watermark (the limit, too little left for other programs, or a machine that stalls) the newest idle
instance is removed, and a busy one after its request. Over the hard one (95 % of the total) a busy one is removed at
once. One comes back when requests wait and there has been room for it, and some more, for a while: without the
difference and the pause the same instance would come and go. The pause doubles when it has to leave again soon.
"""

from dataclasses import dataclass

from slotproxy.instances.decisions import Decision, Move
from slotproxy.instances.wording import article, instances, ordinal, size

HARD = 0.95  # of the effective total
RESERVE = 0.10  # of the effective total: left to other programs
MARGIN = 0.02  # of the effective total: room beyond what one more takes, before it comes back
REST = 2.0  # seconds after a change until readings show what it did
STALL_REST = 15.0  # the same for stalls, which are averages over 10 s
PAUSE, LONGEST_PAUSE = 10.0, 640.0  # seconds of room until one comes back, doubling
RELAPSE = 300.0  # seconds; an instance that has to leave sooner after it came back had come too early


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How things stand. Sizes in bytes."""

    running: int  # instances that are not being removed
    used: int  # by all of them, the governed metric
    peak: int  # the same at their busiest
    next_cost: int  # what one more is predicted to take
    limit: int
    total: int
    available: int  # of `total`, without swapping
    stall: str = ""  # how the machine stalls for want of memory; "" if it does not
    idle: int = 0  # of those running, ready and without a request
    leaving: int = 0  # being removed, still using memory
    out_of_memory: bool = False  # the engine of one ended because it found no memory
    queued: int = 0  # requests that wait
    ceiling: int | None = None  # so many did an operator leave; None: none was added or removed by hand
    kind: str = ""  # a word before "limit"
    remedy: str = ""  # what a user could do about the limit

    @property
    def reserve(self) -> int:
        """What is left to other programs."""
        return reserve(self.total, self.limit)

    @property
    def shortage(self) -> str:
        """Why there are too many; "" if there are not."""
        if self.used > self.limit:
            many = instances(self.running)
            return (
                f"{many} use{'s' * (self.running == 1)} {size(self.used)}, the {self.kind}limit is {size(self.limit)}"
            )
        if self.available < self.reserve:
            kept = f"{size(self.reserve)} are kept for other programs"
            return f"{size(self.available)} of {size(self.total)} are available, {kept}"
        return ""

    @property
    def critical(self) -> bool:
        """Whether so little is left that even work in flight is not waited for."""
        hard = max(self.limit, int(self.total * HARD))
        return self.used > hard or self.available < self.reserve / 2

    @property
    def roomy(self) -> bool:
        """Whether one more would leave more than enough."""
        margin = self.total * MARGIN
        under = self.used + self.next_cost + margin <= self.limit
        return not self.stall and under and self.available - self.next_cost >= self.reserve + margin


def reserve(total: int, limit: int) -> int:
    """Bytes left to other programs: less where the user's limit leaves less."""
    return int(min(total * RESERVE, max(0, total - limit) / 2))


class Watermarks:
    """Remembers since when there is room, and what came of the last changes."""

    def __init__(self) -> None:
        self._pause = PAUSE
        self._roomy_since: float | None = None
        self._changed = -LONGEST_PAUSE
        self._stalled_at = -LONGEST_PAUSE
        self._added: float | None = None  # and not judged since
        self._warned = False

    def judge(self, level: Level, now: float, most: int) -> Decision | None:
        """What to do at `now` (seconds), where `most` instances are allowed; None: nothing.

        The caller carries out what is returned.
        """
        if level.shortage or level.stall:
            self._roomy_since = None
            return self._remove_one(level, now)
        if not level.roomy:
            self._roomy_since = None
            return None
        self._warned = False  # not before: usage that wavers about the mark would repeat the warning
        if self._roomy_since is None:
            self._roomy_since = now
        if level.queued and level.running < most and now - self._roomy_since >= self._pause:
            return self._add_back(level, now)
        return None

    def _remove_one(self, level: Level, now: float) -> Decision | None:
        if level.leaving and not level.critical:
            return None
        if now - self._changed < REST or (not level.shortage and now - self._stalled_at < STALL_REST):
            return None
        reason = "memory" if level.shortage else "pressure"
        sentence = f"memory is short: {level.shortage or level.stall}"
        if level.running <= 1:
            return self._warn(reason, sentence)
        if self._added is not None:
            self._pause = min(self._pause * 2, LONGEST_PAUSE) if now - self._added < RELAPSE else PAUSE
            self._added = None
        self._changed = self._stalled_at = now
        return Decision(move=Move.REMOVE, reason=reason, sentence=f"{sentence}; removing {_chosen(level)}")

    def _warn(self, reason: str, sentence: str) -> Decision | None:
        """Once per shortage: the only instance is kept."""
        if self._warned:
            return None
        self._warned = True
        return Decision(move=Move.STOP, reason=reason, sentence=f"{sentence}; keeping the only instance")

    def _add_back(self, level: Level, now: float) -> Decision:
        self._changed = self._added = now
        self._roomy_since = None
        newest = f"{article(level.running + 1)} {ordinal(level.running + 1)} instance"
        waiting = f"{level.queued} request{'s wait' if level.queued > 1 else ' waits'}"
        sentence = f"starting {newest}: {waiting}, and there is room again for the {size(level.next_cost)} it needs"
        return Decision(move=Move.ADD, reason="room", sentence=sentence)


def _chosen(level: Level) -> str:
    if level.idle:
        return f"the newest idle one of {instances(level.running)}"
    return f"the newest of {instances(level.running)} {'with' if level.critical else 'after'} its request"
