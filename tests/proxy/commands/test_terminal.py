"""Plain where it is not a terminal: whole lines, no colours, no trailing blanks, nothing that steers."""

import io
import sys

import pytest

from slotproxy.instances.errors import StartupError
from slotproxy.proxy.commands.terminal import Page, print_json


def shown(page: Page, capsys: pytest.CaptureFixture[str]) -> list[str]:
    page.show()
    return capsys.readouterr().out.splitlines()


def test_what_is_piped_is_neither_wrapped_nor_coloured(capsys: pytest.CaptureFixture[str]) -> None:
    page = Page()
    page.line("word " * 100 + "end", style="bold red")
    page.exact("x" * 1000)
    page.table([["name", "y " * 200]])
    lines = shown(page, capsys)
    assert lines == ["word " * 100 + "end", "x" * 1000, "name  " + ("y " * 200).rstrip()]


def test_columns_stand_below_their_heads(capsys: pytest.CaptureFixture[str]) -> None:
    page = Page()
    page.table([["embedded", "yes"], ["x", "no"]], heads=("engine", "shares"))
    assert shown(page, capsys) == ["engine    shares", "embedded  yes", "x         no"]


def test_no_row_at_all_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    page = Page()
    page.table([])
    page.line("[bold]not a tag[/]")
    assert "[bold]not a tag[/]" in shown(page, capsys)


def test_control_characters_in_a_name_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    page = Page()
    page.line("a\x1b[31mb")
    page.exact("a\x1b[31mb")
    page.table([["a\x1b[31mb"]])
    assert shown(page, capsys) == ["a\\x1b[31mb"] * 3


def test_json_is_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1, None]})
    assert capsys.readouterr().out == '{\n  "a": [\n    1,\n    null\n  ]\n}\n'


def test_a_closed_output_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    for attempt in (Page, lambda: print_json(1)):
        with pytest.raises(StartupError, match="standard output is closed"):
            attempt()


def test_a_letter_that_the_output_lacks_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    page = Page()
    page.line("h\u00e9 \udcff")
    page.show()
    assert raw.getvalue() == b"h\\xe9 \\udcff\n"
