"""The documents say what the code does."""

import re
from pathlib import Path

import pytest

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.profiles import catalog
from slotproxy.proxy.options.config import Settings
from slotproxy.proxy.options.option import table

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_of_options_holds_the_table_of_today() -> None:
    page = (ROOT / "docs" / "options.md").read_text("utf-8")
    assert table(Settings) in page, "paste what `python -m slotproxy.proxy.options.config` prints into docs/options.md"


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


def test_the_page_of_engines_has_a_row_for_every_profile_that_says_how_it_batches() -> None:
    rows = [line for line in (ROOT / "docs" / "engines.md").read_text("utf-8").splitlines() if line.startswith("| `")]
    for name in catalog.names():
        loaded = catalog.load(name)
        (what, when) = (row for row in rows if f"`{name}`" in row.split("|")[1])
        assert loaded.batching is not None
        assert f"`{loaded.batching.how}" in what
        assert (" | no" in what or "only where" in what) is not loaded.memory.shared
        assert when.count("|") == 5


def test_the_worked_example_of_a_profile_is_one_and_its_mistake_is_named_as_shown() -> None:
    page = (ROOT / "docs" / "engines.md").read_text("utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert catalog.parse(example, "embedder.toml").name == "embedder"
    (shown,) = re.findall(r"^slotproxy: (engine profile embedder.toml, line .*)$", page, re.MULTILINE)
    with pytest.raises(ConfigurationError, match=re.escape(shown)):
        catalog.parse(example.replace('path = "/slots"', 'pth = "/slots"'), "embedder.toml")
