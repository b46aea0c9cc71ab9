"""From a run's rounds to what is told of it: medians, ratios to nginx, what follows from both."""

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from tests.benchmarks.rounds import Figures, Run

BASE = "nginx"  # ratios are to it


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A figure of the table; `scale` takes it to the unit of its title."""

    key: str
    title: str
    digits: int = 1
    scale: float = 1.0
    ratio: bool = False


COST = (
    Column(key="us_per_event", title="CPU µs per event", ratio=True),
    Column(key="us_per_replayed_event", title="per recorded event", ratio=True),
    Column(key="us_per_request", title="per short request", ratio=True),
    Column(key="us_per_mib", title="per MiB of body", digits=0),
    Column(key="events_per_second", title="events/s of a full core", digits=0),
    Column(key="requests_per_second", title="requests/s of a full core", digits=0),
)
DELAY = (
    Column(key="added_first_byte_p50_ms", title="added to first byte, 32 streams, p50", digits=2),
    Column(key="added_first_byte_p99_ms", title="p99", digits=2),
    Column(key="delay_p50_ms", title="event delay, 1000 streams, p50", digits=2),
    Column(key="delay_p99_ms", title="p99", digits=2, ratio=True),
)
MEMORY = (
    Column(key="resident_0", title="MiB idle", scale=2**-20),
    Column(key="resident_32", title="at 32 streams", scale=2**-20),
    Column(key="resident_1000", title="at 1000 streams", scale=2**-20),
    Column(key="kib_per_stream", title="KiB per stream"),
    Column(key="lost", title="answers lost", digits=0),
    Column(key="altered", title="recorded streams altered", digits=0),
)


def medians(run: Run) -> dict[str, Figures]:
    """Per target; what was lost or altered is added up instead.

    `..._ratio` is to nginx, and the median of the rounds' own ratios: both sides then met the same machine.
    """
    names = {name: None for figures in run.rounds for name in figures}
    return {name: _summary(run.rounds, name) for name in names}


def _summary(rounds: Sequence[Mapping[str, Figures]], name: str) -> Figures:
    own = [each[name] for each in rounds]
    summary = {key: _median(figures.get(key) for figures in own) for key in {key: None for each in own for key in each}}
    summary |= {
        f"{column.key}_ratio": _median(_ratio(each, name, column.key) for each in rounds)
        for column in (*COST, *DELAY)
        if column.ratio and name != BASE
    }
    summary["lost"] = sum(value for figures in own for key, value in figures.items() if key.endswith("_lost"))
    summary["altered"] = sum(figures.get("replay_altered", 0) for figures in own)
    summary["events_per_second"] = 1e6 / summary.get("us_per_event", math.nan)
    summary["requests_per_second"] = 1e6 / summary.get("us_per_request", math.nan)
    more = summary.get("resident_1000", math.nan) - summary.get("resident_0", math.nan)
    summary["kib_per_stream"] = more / 1000 / 1024
    return summary


def _median(values: Iterable[float | None]) -> float:
    """Of those that are known."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    return median(known) if known else math.nan


def _ratio(figures: Mapping[str, Figures], name: str, key: str) -> float:
    return figures[name].get(key, math.nan) / figures.get(BASE, {}).get(key, math.nan)


def cell(column: Column, figures: Figures) -> str:
    """A figure as it is shown, with its ratio to the base's where there is one."""
    value, ratio = figures.get(column.key, math.nan), figures.get(f"{column.key}_ratio", math.nan)
    if math.isnan(value):
        return "-"
    text = f"{value * column.scale:,.{column.digits}f}"
    return text if math.isnan(ratio) else f"{text} ({ratio:.2f}x)"


def rows(summary: Mapping[str, Figures], columns: Sequence[Column]) -> list[list[str]]:
    """A table's cells, the name first."""
    return [[name, *(cell(column, figures) for column in columns)] for name, figures in summary.items()]


def notes(run: Run, summary: Mapping[str, Figures]) -> list[str]:
    """What the table does not say."""
    said = [f"{name}: not measured, {why}." for name, why in run.missing.items()]
    if run.stolen:
        said.append(f"Other machines on the same host took {run.stolen:.1%} of the CPU time meanwhile.")
    refrained = [name for name, figures in summary.items() if figures.get("many_refrained")]
    said += [f"{name}: not asked for 1000 streams, which would take more than four cores." for name in refrained]
    return said


def machine() -> dict[str, Any]:
    """Where the run took place."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def save(path: Path, run: Run, summary: Mapping[str, Figures]) -> None:
    """Everything as JSON: the machine, the versions, every round."""
    whole = {
        "machine": machine(),
        "versions": run.versions,
        "missing": run.missing,
        "stolen": run.stolen,
        "medians": {name: _known(figures) for name, figures in summary.items()},
        "rounds": [{name: _known(figures) for name, figures in each.items()} for each in run.rounds],
    }
    path.write_text(json.dumps(whole, indent=1) + "\n")


def _known(figures: Figures) -> Figures:
    """JSON has no word for what is not a number."""
    return {key: value for key, value in figures.items() if not math.isnan(value)}
