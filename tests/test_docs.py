"""The documents say what the code does."""

import re
from pathlib import Path

from slotproxy.proxy.config import Settings
from slotproxy.proxy.options import table

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_of_options_holds_the_table_of_today() -> None:
    page = (ROOT / "docs" / "options.md").read_text("utf-8")
    assert table(Settings) in page, "paste what `python -m slotproxy.proxy.config` prints into docs/options.md"


def test_every_test_that_the_page_of_faults_names_exists() -> None:
    page = (ROOT / "docs" / "faults.md").read_text("utf-8")
    defined = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text("utf-8"), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)`", page))
    assert named - defined == set()
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| fault |")]
    assert [row for row in rows if "`test_" not in row] == []
