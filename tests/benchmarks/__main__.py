"""`python -m tests.benchmarks`: slotproxy beside other proxies, one stand-in engine, one client, one run."""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.benchmarks import instructions, results, rounds, tables
from tests.benchmarks.descriptors import raise_limit
from tests.benchmarks.peers import CACHE, PEERS, Peer

TABLES = {
    "cost": ("Cost", results.COST),
    "delay": ("Delay, in milliseconds", results.DELAY),
    "memory": ("Resident memory, and whether all came", results.MEMORY),
}
CHART = Path(__file__).with_name("chart.py")


def main() -> int:
    options = _options()
    raise_limit()
    console = tables.console()
    plan = rounds.QUICK if options.quick else rounds.FULL
    plan = replace(plan, rounds=options.rounds or plan.rounds)
    with tempfile.TemporaryDirectory(prefix="slotproxy-bench-") as folder, console.status("starting") as status:
        run = rounds.run(_chosen(options.only), plan, Path(folder), status.update)
    summary = results.medians(run)
    if options.json:
        results.save(options.json, run, summary)
    for name, (title, columns) in TABLES.items():
        header, rows = ["", *(column.title for column in columns)], results.rows(summary, columns)
        tables.show(console, f"{title} ({plan.rounds} rounds)", header, rows)
        for document in options.write:
            tables.put(document, name, tables.markdown(header, rows))
    for note in results.notes(run, summary):
        console.print(note)
    if not options.quick and not options.only:
        instructions.report(write=True)
    return _draw(options.json, options.plot) if options.plot else 0


def _options() -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args()
    try:
        tables.check(options.write, [*TABLES])
    except (tables.NoPlace, OSError) as error:
        parser.error(str(error))
    if options.plot and not options.json:
        parser.error("--plot draws what --json FILE has written: give both")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--rounds", type=int, metavar="N", help="times every proxy is measured (5)")
    add("--quick", action="store_true", help="one short round: does it work?")
    add("--only", type=_names, default=[], metavar="A,B", help="these proxies only")
    add("--json", type=Path, metavar="FILE", help="write every round's figures, the machine and the versions")
    add("--plot", type=Path, metavar="PNG", help="draw the chart (needs --json and make bench-peers)")
    add("--write", type=Path, action="append", default=[], metavar="FILE", help="put the tables into this document")
    return parser


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = set(names) - {peer.name for peer in PEERS}
    if unknown:
        known = ", ".join(peer.name for peer in PEERS)
        raise argparse.ArgumentTypeError(f"no proxy is called {', '.join(sorted(unknown))}; there are {known}")
    return names


def _chosen(names: Sequence[str]) -> list[Peer]:
    return [peer for peer in PEERS if not names or peer.name in names]


def _draw(figures: Path, picture: Path) -> int:
    python = CACHE / "matplotlib" / "bin" / "python"
    if not python.exists():
        print("matplotlib is not installed for the chart: make bench-peers", file=sys.stderr)
        return 1
    return subprocess.run([python, CHART, figures, picture], check=False).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
