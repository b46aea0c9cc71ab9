"""The policy laboratory: `python -m tests.laboratory`. Nothing runs but the policies: engines and clients are simulated."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from tests.laboratory.dispatch import ORACLE, POLICIES
from tests.laboratory.figures import Figures, figures
from tests.laboratory.machines import MACHINES
from tests.laboratory.simulation import Simulation
from tests.laboratory.traces import SYNTHETIC

COLUMNS = {
    "first p50": "first_p50", "mean": "first_mean", "p95": "first_p95",
}


def main() -> int:
    seed = 1
    for mname, machine in MACHINES.items():
        for tname, make in SYNTHETIC.items():
            trace = make(seed)
            print(f"\n{mname} {tname} {len(trace.turns)} turns")
            for policy, maker in POLICIES.items():
                began = time.perf_counter()
                run = Simulation(trace, machine, maker(trace, machine, machine.engines), forgets=policy != ORACLE).run()
                f = figures(run)
                wall = time.perf_counter() - began
                print(f"{policy:16} first {f.first_p50:7.2f} {f.first_mean:7.2f} {f.first_p95:7.2f} later {f.later_p50:7.2f} {f.later_mean:7.2f} {f.later_p95:7.2f} ratio {f.ratio:5.2f} reused {f.reused:4.0%} jain {f.jain:.2f} unfair {f.unfair:6.2f} {f.seconds:6.0f} s {f.found}  {len(trace.turns)/wall:.0f}/s")
    return 0

if __name__ == "__main__":
    sys.exit(main())
