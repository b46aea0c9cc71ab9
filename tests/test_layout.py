"""What the shape of the repository promises: tests beside modules, one copy of each package, nothing left over."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("instances", "proxy")
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.Match, ast.BoolOp, ast.comprehension)
TOP_LEVEL = {
    *(".ci", ".gitignore", ".links", "deploy", "docs", "instances", "proxy", "scripts", "tests"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "pyproject.toml"),
    *("constraints.txt", "constraints-run.txt"),
}
SIZE_LIMIT = 1 << 20  # bytes: whatever is larger was not written by hand
REGISTRY = re.compile(rb"\b(?:pypi|pythonhosted|npmjs|crates|anaconda)\.(?:org|com|io)\b", re.IGNORECASE)

# Parts that show what they do only together are tested together, in the test file that is named here.
THROUGH = {
    "instances.slots.lease": "tests/instances/slots/test_leases.py",
    "proxy.clients.connection": "tests/proxy/clients/test_front.py",
    "proxy.exchange.answer": "tests/proxy/exchange/test_forward.py",
    "proxy.accounts.outcome": "tests/proxy/exchange/test_forward.py",
    "proxy.options.commandline": "tests/proxy/options/test_sources.py",
    "proxy.accounts.metrics": "tests/proxy/exchange/test_exchange.py",
    "proxy.server": "tests/acceptance/test_stop.py",
}


def modules() -> dict[str, Path]:
    """The modules of both packages by their dotted names, `proxy.main` for `proxy/__main__.py`."""
    root = ROOT / ".links/slotproxy"
    files = sorted(module for package in PACKAGES for module in (root / package).rglob("*.py"))
    return {".".join((*file.relative_to(root).parts[:-1], file.stem.strip("_"))): file for file in files}


def place_of_tests(module: str) -> Path:
    """Where the tests of a module are: the folders of `tests` are those of the packages."""
    *wing, name = module.split(".")
    return ROOT.joinpath("tests", *wing, f"test_{name}.py")


def decides(module: Path) -> bool:
    """Does it hold a branch or a loop? A module of mere values and names has no behaviour of its own to test."""
    return any(isinstance(node, BRANCHES) for node in ast.walk(ast.parse(module.read_text())))


def test_every_module_that_decides_something_has_its_test_file() -> None:
    missing = [
        name
        for name, module in modules().items()
        if decides(module) and name not in THROUGH and not place_of_tests(name).exists()
    ]
    assert missing == []


def test_every_test_file_beside_a_package_is_about_one_of_its_modules() -> None:
    expected = {place_of_tests(name) for name in modules()}
    found = [test for package in PACKAGES for test in (ROOT / "tests" / package).rglob("test_*.py")]
    assert [str(test.relative_to(ROOT)) for test in found if test not in expected] == []


@pytest.mark.parametrize(("module", "tests"), THROUGH.items())
def test_a_module_tested_through_others_exists_and_has_no_test_file_of_its_own(module: str, tests: str) -> None:
    assert module in modules()
    assert (ROOT / tests).exists()
    assert not place_of_tests(module).exists()


def test_no_package_is_loaded_twice_under_another_name() -> None:
    """`import proxy` in the repository root would make a second copy whose classes are not the first one's."""
    ours = tuple(str(ROOT / package) for package in PACKAGES)
    files = {name: getattr(module, "__file__", None) or "" for name, module in list(sys.modules.items())}
    copies = [name for name, file in files.items() if str(Path(file).resolve()).startswith(ours)]
    assert [name for name in copies if not name.startswith("slotproxy.")] == []


def tracked() -> list[str]:
    """The path of every file that git knows here."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]  # a checkout may belong to another user, as in CI
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    return [name for name in listing.decode().split("\0") if (ROOT / name).is_file()]


def test_nothing_lies_about_at_the_top_level() -> None:
    assert {name.split("/")[0] for name in tracked()} - TOP_LEVEL == set()


def test_no_tracked_file_names_a_package_registry() -> None:
    """Which registry is used is a matter of the machine's pip configuration."""
    assert [name for name in tracked() if REGISTRY.search((ROOT / name).read_bytes())] == []


def test_no_tracked_file_is_large() -> None:
    assert [name for name in tracked() if (ROOT / name).stat().st_size > SIZE_LIMIT] == []


def pins(name: str) -> dict[str, set[str]]:
    """Package to pinned versions (one for each range of Python versions); fails on a line that pins nothing."""
    logical = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
    found: dict[str, set[str]] = {}
    for line in logical:
        if line and not line.startswith("#"):
            pin, *hashes = line.split(" --hash=")
            assert hashes, f"{name}: no hash: {line}"
            requirement = Requirement(pin.strip())
            found.setdefault(requirement.name, set()).add(str(requirement.specifier))
    assert all(version.startswith("==") for versions in found.values() for version in versions)
    return found


def test_every_dependency_is_pinned_by_hash_and_the_pin_is_what_we_ask_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = [*project["project"]["optional-dependencies"].values(), *project["dependency-groups"].values()]
    wanted = [*project["project"]["dependencies"], *(entry for group in groups for entry in group)]
    pinned = pins("constraints.txt")
    for requirement in (Requirement(entry) for entry in wanted if isinstance(entry, str)):
        versions = pinned.get(requirement.name, set())
        assert versions, f"make lock: {requirement.name} has no pin"
        assert all(requirement.specifier.contains(version.removeprefix("==")) for version in versions), requirement


def test_what_is_run_is_pinned_as_what_is_tested() -> None:
    tested = pins("constraints.txt")
    assert {
        name: versions for name, versions in pins("constraints-run.txt").items() if tested.get(name) != versions
    } == {}
