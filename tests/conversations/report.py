"""What a mode has found: a table, and what of it the product has promised."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from tests.benchmarks import results, tables

CHECKS = ["", "found", "promised", "kept"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A figure and its bound: the most it may be, or the least."""

    what: str
    found: float
    bound: float
    least: bool = False
    unit: str = "x"

    @property
    def kept(self) -> bool:
        return self.found >= self.bound if self.least else self.found <= self.bound

    def row(self) -> list[str]:
        sign = "at least" if self.least else "at most"
        kept = "unknown" if math.isnan(self.found) else "yes" if self.kept else "NO"
        return [self.what, f"{self.found:.3g}{self.unit}", f"{sign} {self.bound:.4g}{self.unit}", kept]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The table of one mode. `figures` is what goes into the JSON beside it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    promises: Sequence[Promise] = ()
    notes: Sequence[str] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


def show(report: Report) -> None:
    console = tables.console()
    tables.show(console, report.title, report.header, report.rows)
    if report.promises:
        tables.show(console, "Promised", CHECKS, [promise.row() for promise in report.promises])
    for note in report.notes:
        console.print(note, markup=False, highlight=False)


def save(path: Path, parameters: Mapping[str, Any], reports: Sequence[Report]) -> None:
    """Everything as JSON, the machine included."""
    whole = {"machine": results.machine(), "parameters": parameters, "reports": [_plain(each) for each in reports]}
    path.write_text(json.dumps(known(whole), indent=1, default=str) + "\n")


def _plain(report: Report) -> dict[str, Any]:
    promises = [
        {"what": one.what, "found": one.found, "bound": one.bound, "least": one.least, "kept": one.kept}
        for one in report.promises
    ]
    return {
        "title": report.title,
        "columns": report.header,
        "rows": report.rows,
        "promises": promises,
        "notes": report.notes,
        "figures": report.figures,
    }


def known(value: Any) -> Any:
    """JSON has no word for what is not a number: null stands for it."""
    if isinstance(value, Mapping):
        return {key: known(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [known(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def numbers(values: Sequence[float]) -> list[float]:
    """Those that are numbers."""
    return [value for value in values if not math.isnan(value)]


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank of those that are numbers; not a number where there are none."""
    ranked = sorted(numbers(values))
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)] if ranked else math.nan


def mean(values: Sequence[float]) -> float:
    ranked = numbers(values)
    return fmean(ranked) if ranked else math.nan


def ratio(one: float, other: float) -> float:
    """Not a number where the other is nothing."""
    return one / other if other else math.nan


def jain(shares: Sequence[float]) -> float:
    """Jain's index of fairness: 1 where all have the same, 1/n where one has everything."""
    total = sum(shares)
    return total * total / (len(shares) * sum(share * share for share in shares)) if total else math.nan
