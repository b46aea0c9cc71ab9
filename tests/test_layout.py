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
    "proxy.answer": "tests/proxy/test_forward.py",
    "proxy.outcome": "tests/proxy/test_forward.py",
    "proxy.commandline": "tests/proxy/test_sources.py",
    "proxy.metrics": "tests/proxy/test_routes.py",
    "proxy.server": "tests/acceptance/test_stop.py",
}


def modules(package: str) -> dict[str, Path]:
    """The modules of a package by the name their test file carries."""
    return {module.stem.strip("_"): module for module in sorted((ROOT / ".links/slotproxy" / package).rglob("*.py"))}


def decides(module: Path) -> bool:
    """Does it hold a branch or a loop? A module of mere values and names has no behaviour of its own to test."""
    return any(isinstance(node, BRANCHES) for node in ast.walk(ast.parse(module.read_text())))


def test_every_module_that_decides_something_has_its_test_file() -> None:
    missing = [
        f"{package}.{name}"
        for package in PACKAGES
        for name, module in modules(package).items()
        if decides(module) and f"{package}.{name}" not in THROUGH
        if not (ROOT / "tests" / package / f"test_{name}.py").exists()
    ]
    assert missing == []


def test_every_test_file_beside_a_package_is_about_one_of_its_modules() -> None:
    strays = [
        str(test.relative_to(ROOT))
        for package in PACKAGES
        for test in sorted((ROOT / "tests" / package).rglob("test_*.py"))
        if test.stem.removeprefix("test_") not in modules(package)
    ]
    assert strays == []


@pytest.mark.parametrize(("module", "tests"), THROUGH.items())
def test_a_module_tested_through_others_exists_and_has_no_test_file_of_its_own(module: str, tests: str) -> None:
    package, name = module.split(".")
    assert name in modules(package)
    assert (ROOT / tests).exists()
    assert not (ROOT / "tests" / package / f"test_{name}.py").exists()


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
