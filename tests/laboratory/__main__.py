"""The policy laboratory: `python -m tests.laboratory`. The proxy's own policies, simulated engines and clients.

`machines` says what is simulated and where its figures are from, `traces` what clients ask for, `contenders` what is
compared, `figures` what is told. `constants` tries other constants of the policies, `recording` records a real trace.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from tests.benchmarks import tables
from tests.benchmarks.peers import CACHE
from tests.laboratory import report
from tests.laboratory.contenders import POLICIES, simulate
from tests.laboratory.dispatch import Dispatcher
from tests.laboratory.figures import Figures, figures, percentile
from tests.laboratory.machines import MACHINES
from tests.laboratory.timed import Timed
from tests.laboratory.traces import TRACES

CHART = Path(__file__).with_name("chart.py")
COLUMNS: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("first p50", lambda one: f"{one.first_p50:.2f}"),
    ("mean", lambda one: f"{one.first_mean:.2f}"),
    ("p95", lambda one: f"{one.first_p95:.2f}"),
    ("later p50", lambda one: f"{one.later_p50:.2f}"),
    ("mean", lambda one: f"{one.later_mean:.2f}"),
    ("p95", lambda one: f"{one.later_p95:.2f}"),
    ("computed", lambda one: f"{one.ratio:.2f}"),
    ("reused", lambda one: f"{one.reused:.0%}"),
    *((name, lambda one, name=name: str(one.found.get(name, 0))) for name in ("hit", "handed-over", "spill", "cold")),
    ("mistaken", lambda one: f"{one.mistaken:.0%}"),
    ("Jain", lambda one: f"{one.jain:.2f}"),
    ("unfair", lambda one: f"{one.unfair:.1f}"),
    ("lasted", lambda one: f"{one.seconds:.0f}"),
)
LEGEND = """
Simulated seconds to the first token of turns that begin a conversation, and of later ones; prompt tokens computed, as a
multiple of those of one engine for each conversation; what was reused of what such an engine would have had. Mistaken:
turns whose engine had less than half of what the policy counted on. Unfair: the longest wait, in fair shares. Decision:
microseconds of this machine's, mean and 99th percentile."""


def main() -> int:
    options = _parser().parse_args()
    if options.plot and not options.json:
        print("--plot draws what --json FILE has written: give both", file=sys.stderr)
        return 2
    began = time.perf_counter()
    told = {
        (machine, trace): _compare(machine, trace, options)
        for machine in options.machine or MACHINES
        for trace in options.trace or TRACES
    }
    turns = sum(one.turns for policies in told.values() for one in policies.values())
    print(LEGEND)
    print(f"Seed {options.seed}; {turns / (time.perf_counter() - began):,.0f} simulated requests a second.")
    if options.json:
        options.json.write_text(json.dumps({"seed": options.seed, "results": _as_json(told)}, indent=1) + "\n")
    if options.write:
        tables.put(options.write, "routing", tables.markdown(report.HEADER, [*report.rows(told)]))
    return _draw(options.json, options.plot) if options.plot else 0


def _as_json(told: report.Told) -> list[dict[str, object]]:
    return [
        {"machine": machine, "trace": trace, "policies": {name: asdict(one) for name, one in policies.items()}}
        for (machine, trace), policies in told.items()
    ]


def _compare(machine: str, trace: str, options: argparse.Namespace) -> dict[str, Figures]:
    simulated, asked = MACHINES[machine], TRACES[trace](options.seed, options.hosts)
    engines = options.hosts * simulated.engines
    print(f"\n{asked.name}: {len(asked.turns)} turns on {simulated.name}, {engines} engines")
    told, rows = {}, []
    for name in options.policy or POLICIES:
        timed: list[Timed] = []
        one = told[name] = figures(simulate(asked, simulated, name, engines, _timed(timed)))
        decisions = [seconds * 1e6 for seconds in timed[0].decisions]
        rows.append(
            [name, *(tell(one) for _, tell in COLUMNS), f"{fmean(decisions):.0f}, {percentile(decisions, 99):.0f}"]
        )
    _show(["", *(title for title, _ in COLUMNS), "decision"], rows)
    return told


def _timed(timed: list[Timed]) -> Callable[[Dispatcher], Dispatcher]:
    def around(dispatcher: Dispatcher) -> Dispatcher:
        timed.append(Timed(dispatcher))
        return timed[0]

    return around


def _show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]
    for name, *cells in (header, *rows):
        right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        print("  ".join((name.ljust(widths[0]), *right)), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make laboratory", description=__doc__, allow_abbrev=False)
    parser.add_argument("--machine", action="append", choices=list(MACHINES), help="again for another; else all")
    parser.add_argument("--trace", action="append", choices=list(TRACES), help="again for another; else all")
    parser.add_argument("--policy", action="append", choices=list(POLICIES), help="again for another; else all")
    parser.add_argument("--hosts", type=int, default=1, help="of that machine, with clients for all of them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table of docs/routing.md there")
    parser.add_argument("--plot", type=Path, metavar="PICTURE", help="draw them; matplotlib: make bench-peers")
    return parser


def _draw(written: Path, picture: Path) -> int:
    python = CACHE / "matplotlib" / "bin" / "python"
    if not python.exists():
        print("matplotlib is not installed for the plot: make bench-peers", file=sys.stderr)
        return 1
    return subprocess.run([python, CHART, written, picture], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
