"""What commands print: tables that fit a terminal, and plain lines that can be copied and searched everywhere else."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from slotproxy.instances.errors import StartupError
from slotproxy.proxy.accounts.logs import printable

UNBOUNDED = 100_000  # columns: what is piped into a file is not wrapped


def print_json(value: Any) -> None:
    """Raises StartupError, OSError when it cannot be written."""
    print(json.dumps(value, indent=2, default=str), file=_output(), flush=True)


class Page:
    """Collects what is shown, and shows it at once."""

    def __init__(self) -> None:
        """Raises StartupError when there is nowhere to show it."""
        self._output = _output()
        self._console = Console() if self._output.isatty() else Console(width=UNBOUNDED, color_system=None)
        self._parts: list[Table | Text] = []

    def line(self, text: str = "", style: str = "") -> None:
        """A paragraph; a terminal wraps it."""
        self._parts.append(Text(printable(text), style=style))

    def exact(self, text: str) -> None:
        """A line to be copied: never wrapped by us."""
        self._parts.append(Text(printable(text), no_wrap=True, overflow="ignore"))

    def table(self, rows: Iterable[Sequence[str]], heads: Sequence[str] = ()) -> None:
        """Columns; with `heads` the first line names them, without the first column is a name."""
        rows = [tuple(map(printable, row)) for row in rows]
        table = Table(box=None, show_header=bool(heads), padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        for index in range(max(map(len, rows), default=len(heads))):
            head = heads[index] if index < len(heads) else ""
            table.add_column(Text(head), style="" if index or heads else "bold", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        self._parts.append(table)

    def show(self) -> None:
        with self._console.capture() as captured:
            for part in self._parts:
                if isinstance(part, Text) and part.no_wrap:
                    self._console.print(part, soft_wrap=True)
                else:
                    self._console.print(part)
        text = "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
        encoding = self._output.encoding or "utf-8"  # which may lack a letter, and has none for a byte of a file's name
        self._output.write(text.encode(encoding, "backslashreplace").decode(encoding))
        self._output.flush()


def _output() -> TextIO:
    if sys.stdout is None:
        raise StartupError("standard output is closed, so nothing can be shown")
    return sys.stdout
