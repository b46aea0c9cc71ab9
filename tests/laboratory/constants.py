"""Other constants of the policies, tried in the laboratory: `python -m tests.laboratory.constants [NAME ...]`.

Every constant is varied alone, on all machines and on the traces where it may matter. What is told is the mean time to
the first token of later turns, as a multiple of what it is with the constant of today: more than 1 is worse.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import geometric_mean
from types import ModuleType
from typing import NamedTuple

from slotproxy.instances.conversations import affinity, figures, holdings
from slotproxy.instances.slots import line
from tests.laboratory.contenders import WHOLE, simulate
from tests.laboratory.figures import figures as told
from tests.laboratory.machines import MACHINES
from tests.laboratory.traces import TRACES


class Constant(NamedTuple):
    """Where it lies, and what to try."""

    module: ModuleType
    name: str
    values: Sequence[float]


CONSTANTS = (
    Constant(affinity, "LONGEST_DELAY", (0.02, 0.05, 0.1, 0.2, 0.5)),
    Constant(affinity, "BESIDE", (0.5, 0.8, 0.9, 1.0)),
    Constant(affinity, "DOUBTFUL", (0.0, 0.2, 0.5)),
    Constant(affinity, "HALF_LIFE", (30, 300, 3000)),
    Constant(affinity, "MARGIN", (0.005, 0.02, 0.1)),
    Constant(holdings, "FIRST_DEPTH", (1, 2, 4, 8)),
    Constant(figures, "SMOOTHING", (0.1, 0.2, 0.4)),
    Constant(line, "HALF_LIFE", (15, 60, 240)),
)
ASKED = ("chat-6", "chat-12", "agents-plain", "flood", "seeding")
SEEDS = (1, 2, 3)


@contextmanager
def changed(constant: Constant, value: float) -> Iterator[None]:
    """For so long the constant is another."""
    before = getattr(constant.module, constant.name)
    setattr(constant.module, constant.name, value)
    try:
        yield
    finally:
        setattr(constant.module, constant.name, before)


def later_means(machine: str) -> list[float]:
    """Seconds, of each trace."""
    runs = (simulate(TRACES[trace](seed, 1), MACHINES[machine], WHOLE) for trace in ASKED for seed in SEEDS)
    return [told(run).later_mean for run in runs]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.laboratory.constants", description=__doc__)
    parser.add_argument("names", nargs="*", help="those of which the name has this in it; else all")
    wanted = parser.parse_args().names
    today = {machine: later_means(machine) for machine in MACHINES}
    for constant in CONSTANTS:
        place = f"{constant.module.__name__.rpartition('.')[2]}.{constant.name}"
        if not wanted or any(name in place for name in wanted):
            _tell(place, constant, today)
    return 0


def _tell(place: str, constant: Constant, today: dict[str, list[float]]) -> None:
    print(f"\n{place}, today {getattr(constant.module, constant.name):g}; worst trace in brackets")
    for value in constant.values:
        cells = []
        for machine, before in today.items():
            with changed(constant, value):
                ratios = [new / old for new, old in zip(later_means(machine), before, strict=True)]
            cells.append(f"{machine} {geometric_mean(ratios):.2f} ({max(ratios):.2f})")
        print(f"  {value:<7g} {'   '.join(cells)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
