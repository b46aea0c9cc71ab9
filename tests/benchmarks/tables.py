"""The same table on the terminal and in a document."""

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.table import Table

WIDTH = 120  # columns


class NoPlace(Exception):
    """A document has no place for a table; the text says which."""


def console() -> Console:
    """Where tables go; wide enough for them where it is no terminal."""
    found = Console()
    if not found.is_terminal:
        found.width = WIDTH
    return found


def show(console: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*row, style="bold" if row[0].startswith("slotproxy") else None)
    console.print(table)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(header), ["---", *("--:" for _ in header[1:])], *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put(document: Path, name: str, text: str) -> None:
    """Replace what stands between the document's markers of that name. Raises `NoPlace` where it has none."""
    document.write_text(_replaced(document, name, text))


def _replaced(document: Path, name: str, text: str) -> str:
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    old = document.read_text()
    new, found = re.subn(f"{begin}.*?{end}", lambda match: f"{begin}\n{text}\n{end}", old, flags=re.DOTALL)
    if not found:
        raise NoPlace(f'{document} has no place for this table: write "{begin}" and "{end}" where it should stand')
    return new


def check(documents: Sequence[Path], names: Sequence[str]) -> None:
    """Whether every table has its place, before the work of making them. Raises `NoPlace`, OSError."""
    for document, name in product(documents, names):
        _replaced(document, name, "")


def between(text: str, name: str) -> str:
    """What stands between a document's markers; empty where there are none."""
    found = re.search(f"<!-- bench:{name} -->\n(.*?)\n?<!-- /bench:{name} -->", text, re.DOTALL)
    return found[1] if found else ""
