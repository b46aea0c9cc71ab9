"""What a run found, counted and told: a table for people, JSON for programs. Pure."""

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.schedule import WINDOW, Injection
from tests.chaos.verdicts import Judged, Verdict

TOLD = 10  # things that went wrong, in full
DRIFT = 0.25  # of the proxy's memory, from the first fifth of a run to its end: more is taken for a leak
POOL = min(32, (os.cpu_count() or 1) + 4)  # threads that asyncio starts as they are needed, and keeps
TOLERATED = 5  # failures of an instance within WINDOW; with one more it is given up
LONG = 60.0  # seconds; in shorter runs memory has not settled


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Of one proxy, at rest."""

    fds: int
    threads: int
    tasks: tuple[str, ...]
    memory: int  # bytes


@dataclass(kw_only=True)
class Tally:
    """Of one proxy and its engines."""

    name: str
    seconds: float
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    trouble: list[str] = field(default_factory=list)
    injected: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    recoveries: list[tuple[float, str]] = field(default_factory=list)
    leaked: int = 0  # slots that were busy or withdrawn when everything was over
    lost: int = 0  # instances that did not come back
    given_up: int = 0  # instances that failed too often; they were brought back by the API
    too_early: int = 0  # of them, those that had not failed often enough
    shared: int = 0  # engines that saw more than one request at a time
    orphans: int = 0  # processes nobody knows, during the run's end or after it
    before: Reading | None = None
    early: int = 0  # bytes of the proxy after a fifth of the run
    after: Reading | None = None
    exit_code: int | None = None

    def count(self, judged: Judged) -> None:
        self.verdicts[judged.verdict] += 1
        if judged.verdict in (Verdict.WRONG, Verdict.HUNG):
            self.trouble.append(judged.why)
        else:
            self.reasons[judged.why] += bool(judged.why)

    def inject(self, injection: Injection, *, done: bool) -> None:
        (self.injected if done else self.skipped)[injection.fault.value] += 1

    def figures(self) -> dict[str, Any]:
        """Every figure; `problems` says what must not be."""
        seen = {verdict.value: self.verdicts[verdict] for verdict in Verdict}
        slowest = max(self.recoveries, default=(0.0, ""))
        found: dict[str, Any] = {
            "requests sent": self.verdicts.total(),
            **seen,
            "slots leaked": self.leaked,
            "slots shared": self.shared,
            "instances lost": self.lost,
            "instances given up": self.given_up,
            "orphans": self.orphans,
            "file descriptors before, after": _pair(self, "fds"),
            "threads before, after": _pair(self, "threads"),
            "tasks before, after": None if not self.before else [len(self.before.tasks), len(_tasks(self.after))],
            "memory MiB early, after": [round(self.early / 2**20, 1), round(_memory(self.after) / 2**20, 1)],
            "longest recovery s": round(slowest[0], 2),
            "longest recovery after": slowest[1],
            "recoveries": len(self.recoveries),
            "exit code": self.exit_code,
        }
        faults = {"injected": dict(self.injected), "skipped": dict(self.skipped), "reasons": dict(self.reasons)}
        return {**found, **faults, "problems": self.problems()}

    def problems(self) -> list[str]:
        """What must not be, one sentence each; none: all is well."""
        found = list(self.trouble[:TOLD])
        if len(self.trouble) > TOLD:
            found.append(f"... and {len(self.trouble) - TOLD} more")
        if not self.verdicts[Verdict.COMPLETED]:
            found.append("no request was completed")
        counted = {
            "slots leaked": self.leaked,
            "slots shared": self.shared,
            "instances lost": self.lost,
            "instances given up too early": self.too_early,
            "orphans": self.orphans,
        }
        found += [f"{number} {what}" for what, number in counted.items() if number]
        if self.exit_code != 0:
            found.append(f"the proxy ended with exit code {self.exit_code}")
        before, after = self.before, self.after
        if before is None or after is None:
            return [*found, "the proxy was not observed"]
        if after.fds > before.fds:
            found.append(f"{after.fds - before.fds} file descriptors more than before")
        if after.threads > before.threads + POOL:
            found.append(f"{after.threads - before.threads} threads more than before")
        more = Counter(after.tasks) - Counter(before.tasks)
        if more:
            found.append(f"tasks that were not there before: {dict(more)}")
        if self.seconds >= LONG and after.memory > self.early * (1 + DRIFT):
            found.append(f"the proxy grew from {self.early >> 20} to {after.memory >> 20} MiB")
        return found


def given_up(setbacks: list[tuple[float, str, bool]]) -> tuple[int, int]:
    """Instances that were given up, and those of them that had not failed more than 5 times within 5 minutes.

    `setbacks` as `observe.setbacks` tells them: giving up follows the failure that was one too many.
    """
    ends = [(at, instance) for at, instance, final in setbacks if final]
    early = 0
    for end, instance in ends:
        failures = [at for at, of, final in setbacks if of == instance and not final and end - WINDOW <= at <= end]
        early += len(failures) <= TOLERATED
    return len(ends), early


def table(tallies: list[Tally]) -> str:
    """One row per figure, one column per proxy."""
    columns = [tally.figures() for tally in tallies]
    names = [name for name in columns[0] if name not in ("injected", "skipped", "reasons", "problems")]
    rows = [("", *(tally.name for tally in tallies))]
    rows += [(name, *(_shown(column[name]) for column in columns)) for name in names]
    for group, mark in (("injected", ""), ("skipped", "skipped: "), ("reasons", "")):
        keys = sorted({key for column in columns for key in column[group] if column[group][key]})
        rows += [(f"  {mark}{key}", *(str(column[group].get(key, 0)) for column in columns)) for key in keys]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _shown(value: object) -> str:
    return " -> ".join(map(str, value)) if isinstance(value, list) else str(value)


def _pair(tally: Tally, name: str) -> list[int] | None:
    if tally.before is None or tally.after is None:
        return None
    return [getattr(tally.before, name), getattr(tally.after, name)]


def _tasks(reading: Reading | None) -> tuple[str, ...]:
    return () if reading is None else reading.tasks


def _memory(reading: Reading | None) -> int:
    return 0 if reading is None else reading.memory
