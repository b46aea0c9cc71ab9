"""The policy laboratory: `python -m tests.laboratory`. The proxy's own policies decide for simulated engines and clients.

`machines` says what is simulated and where its figures are from, `traces` what clients ask for, `contenders` what is
compared, `figures` what is told. `constants` tries other constants of the policies, `recording` records a real trace.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.laboratory.contenders import POLICIES, simulate
from tests.laboratory.figures import Figures, figures
from tests.laboratory.machines import MACHINES
from tests.laboratory.traces import TRACES
from tests.benchmarks.peers import CACHE

CHART = Path(__file__).with_name("chart.py")
COLUMNS = (
    ("first p50", lambda one: f"{one.first_p50:.2f}"),
    ("mean", lambda one: f"{one.first_mean:.2f}"),
    ("p95", lambda one: f"{one.first_p95:.2f}"),
    ("later p50", lambda one: f"{one.later_p50:.2f}"),
    ("mean", lambda one: f"{one.later_mean:.2f}"),
    ("p95", lambda one: f"{one.later_p95:.2f}"),
    ("computed", lambda one: f"{one.ratio:.2f}"),
    ("reused", lambda one: f"{one.reused:.0%}"),
    ("hit", lambda one: str(one.found.get("hit", 0))),
    ("handed", lambda one: str(one.found.get("handed-over", 0))),
    ("spill", lambda one: str(one.found.get("spill", 0))),
    ("cold", lambda one: str(one.found.get("cold", 0))),
    ("mistaken", lambda one: f"{one.mistaken:.0%}"),
    ("Jain", lambda one: f"{one.jain:.2f}"),
    ("unfair", lambda one: f"{one.unfair:.1f}"),
    ("lasted", lambda one: f"{one.seconds:.0f}"),
)
LEGEND = """\
Simulated seconds to the first token of turns that begin a conversation, and of later ones; prompt tokens computed, as a
multiple of those of one engine for each conversation; what was reused of what such an engine would have had. Mistaken:
turns whose engine had less than half of what the policy counted on. Unfair: the longest wait, in fair shares."""


def main() -> int:
    options = _parser().parse_args()
    began, turns, results = time.perf_counter(), 0, []
    for machine in options.machine or MACHINES:
        for trace in options.trace or TRACES:
            told = _compare(machine, trace, options)
            turns += sum(one.turns for one in told.values())
            results.append({"machine": machine, "trace": trace, "policies": {k: asdict(v) for k, v in told.items()}})
    print(f"\n{LEGEND}\nSeed {options.seed}; {turns / (time.perf_counter() - began):,.0f} requests a second of this machine's.")
    if options.json:
        options.json.write_text(json.dumps({"seed": options.seed, "results": results}, indent=1) + "\n")
    return _draw(options.json, options.plot) if options.plot else 0


def _compare(machine: str, trace: str, options: argparse.Namespace) -> dict[str, Figures]:
    simulated, asked = MACHINES[machine], TRACES[trace](options.seed)
    engines = simulated.engines * options.hosts
    told = {name: figures(simulate(asked, simulated, name, engines)) for name in options.policy or POLICIES}
    print(f"\n{asked.name}: {len(asked.turns)} turns on {simulated.name}, {engines} engines")
    _show(["", *(title for title, _ in COLUMNS)], [[name, *(tell(one) for _, tell in COLUMNS)] for name, one in told.items()])
    return told


def _show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]
    for row in (header, *rows):
        first, *others = (cell.ljust(width) if not place else cell.rjust(width) for place, (cell, width) in enumerate(zip(row, widths, strict=True)))
        print("  ".join((first, *others)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make laboratory", description=__doc__, allow_abbrev=False)
    parser.add_argument("--machine", action="append", choices=list(MACHINES), help="again for another; else all")
    parser.add_argument("--trace", action="append", choices=list(TRACES), help="again for another; else all")
    parser.add_argument("--policy", action="append", choices=list(POLICIES), help="again for another; else all")
    parser.add_argument("--hosts", type=int, default=1, help="of that machine, behind one proxy")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--plot", type=Path, metavar="PICTURE", help="draw them; matplotlib: make bench-peers")
    return parser


def _draw(written: Path | None, picture: Path) -> int:
    if written is None:
        print("--plot draws what --json FILE has written: give both", file=sys.stderr)
        return 2
    python = CACHE / "matplotlib" / "bin" / "python"
    if not python.exists():
        print("matplotlib is not installed for the plot: make bench-peers", file=sys.stderr)
        return 1
    return subprocess.run([python, CHART, written, picture], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
