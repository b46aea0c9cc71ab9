"""Conversations on real engines: `make bench-conversations`, or `python -m tests.conversations NAME --help` for one.

slotproxy beside HAProxy, beside a client that knows where everything is, and beside its promises. It measures; it
asserts nothing, and the exit code says only whether it could measure. Figures mean something on a machine that does
nothing else.
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import aiohttp

from tests.benchmarks.peers import Missing
from tests.benchmarks.processes import NotStarted
from tests.conversations import chaos, chat, claude, flood, handover, mix, report, seeding, sites

MODES: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module for module in (chat, handover, seeding, claude, mix, flood, chaos)
}


def common() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same clients (1)")
    parser.add_argument("--option", action="append", default=[], metavar="WORD", help="one more word for slotproxy")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every turn's figures")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work in this new folder and leave the logs there")
    return parser


def parsed(words: list[str]) -> list[tuple[str, argparse.Namespace]]:
    """The modes to run with their parameters; without a name all of them with their defaults."""
    name = words[0] if words and not words[0].startswith("-") else None
    if name is None and not {"-h", "--help"} & set(words):
        return [(mode, _parser().parse_args([mode, *words])) for mode in MODES]
    chosen = _parser().parse_args(words)
    return [(chosen.mode, chosen)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.conversations", description=__doc__, parents=[common()])
    modes = parser.add_subparsers(dest="mode", metavar="NAME")
    for name, module in MODES.items():
        module.options(modes.add_parser(name, help=(module.__doc__ or "").splitlines()[0], parents=[common()]))
    return parser


def _end(*_: object) -> None:
    sys.exit(143)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    signal.signal(signal.SIGTERM, _end)  # so that what was started is ended, as at Ctrl-C
    modes = parsed(sys.argv[1:])
    found: list[report.Report] = []
    with tempfile.TemporaryDirectory(prefix="slotproxy-conversations-") as scratch:
        folder = modes[0][1].keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for mode, chosen in modes:
                for one in MODES[mode].run(chosen, folder, say):
                    found.append(one)
                    report.show(one)
        except (Missing, NotStarted, aiohttp.ClientError, OSError) as error:
            print(f"Not measured: {error}.", file=sys.stderr)
            return 1
        finally:
            if modes[0][1].json and found:
                parameters = {mode: vars(chosen) for mode, chosen in modes}
                report.save(modes[0][1].json, sites.versions() | parameters, found)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
