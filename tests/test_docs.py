"""The documents say what the code does."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.profiles import catalog
from slotproxy.proxy.options.config import Settings
from slotproxy.proxy.options.option import table

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
SIDES = {side: ROOT / side for side in ("proxy", "instances")}
LIBRARIES = {"aiohttp"}


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


def wings(side: str) -> set[str]:
    return {place.parent.name for place in SIDES[side].glob("*/__init__.py")}


def modules_of(folder: Path) -> set[str]:
    """Without `__init__`; `main` is written `__main__`."""
    return {module.stem for module in folder.glob("*.py")} - {"__init__"}


def every_wing() -> Iterator[tuple[str, Path]]:
    return ((wing, SIDES[side] / wing) for side in SIDES for wing in sorted(wings(side)))


def table_below(head: str, page: str) -> list[list[str]]:
    """The cells of a table whose first line begins with `head`."""
    (table,) = re.findall(rf"^{re.escape(head)}.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]


def named(text: str) -> list[str]:
    """What stands in backticks, blocks of code left out."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


def test_every_module_and_wing_that_the_page_of_the_architecture_names_exists() -> None:
    known = {f"{wing}.{module}" for wing, folder in every_wing() for module in modules_of(folder)}
    known |= {wing for wing, _ in every_wing()} | {name for root in SIDES.values() for name in modules_of(root)}
    plain = re.compile(r"[a-z_]+(?:\.[a-z_]+)*")
    names = {name for name in named(ARCHITECTURE) if plain.fullmatch(name) and not name.endswith(".py")}
    assert {name for name in names if name.partition(".")[0] not in LIBRARIES} - known == set()


def test_every_class_that_the_page_of_the_architecture_names_exists() -> None:
    trees = [ast.parse(path.read_text("utf-8")) for root in SIDES.values() for path in root.rglob("*.py")]
    classes = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    assert {name for name in named(ARCHITECTURE) if re.fullmatch(r"(?:[A-Z][a-z]+)+", name)} - classes == set()


@pytest.mark.parametrize("side", SIDES)
def test_every_wing_has_its_row_in_the_order_of_imports_and_its_place_in_the_picture(side: str) -> None:
    rows = [named(row[0]) for row in table_below(f"| wing of `{side}/` |", ARCHITECTURE)]
    shown = [row[0] for row in rows if set(row) & wings(side) and len(row) == 1]
    assert sorted(shown) == sorted(wings(side))
    depth = {wing: place for place, layer in enumerate(layers(side)) for wing in layer}
    assert [depth[wing] for wing in shown] == sorted(depth[wing] for wing in shown)
    (picture,) = re.findall(r"^```\n(.*?)^```", ARCHITECTURE, re.DOTALL | re.MULTILINE)
    proxy, instances = re.split(r"^instances/", picture, flags=re.MULTILINE)
    part = proxy if side == "proxy" else instances
    assert {wing for wing in wings(side) if not re.search(rf"\b{wing}\b", part)} == set()


def layers(side: str) -> list[set[str]]:
    """Of the import rule, the highest first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (found,) = (one["layers"] for one in contracts if one.get("containers") == [f"slotproxy.{side}"])
    return [set(layer.split(" | ")) for layer in found]


@pytest.mark.parametrize("walk", ["## A request", "## Memory gets short"])
def test_a_walk_has_at_most_8_rooms_and_enters_none_of_them_twice(walk: str) -> None:
    (section,) = re.findall(rf"^{walk}\n(.*?)^## ", ARCHITECTURE, re.DOTALL | re.MULTILINE)
    rooms = [row[1] for row in table_below("| | room |", section)]
    assert 0 < len(rooms) <= 8
    assert len(set(rooms)) == len(rooms)


@pytest.mark.parametrize(
    ("wing", "folder"), [pytest.param(*one, id=str(one[1].relative_to(ROOT))) for one in every_wing()]
)
def test_the_map_of_a_wing_names_every_module_in_it(wing: str, folder: Path) -> None:
    said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))) or ""
    assert modules_of(folder) - set(named(said)) == set(), f"the first file of {wing} is its map"
