"""The documents say what the code does."""

from pathlib import Path

from slotproxy.proxy.config import Settings
from slotproxy.proxy.options import table

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_of_options_holds_the_table_of_today() -> None:
    page = (ROOT / "docs" / "options.md").read_text("utf-8")
    assert table(Settings) in page, "paste what `python -m slotproxy.proxy.config` prints into docs/options.md"
