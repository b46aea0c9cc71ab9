"""Run the tests of what uses aiohttp with the lowest and with the newest release that pyproject.toml allows.

Each release is put into a temporary directory that comes before the virtual environment's own packages. The newest one
is tested a second time without its C extensions: its parsers in Python serve as well (docs/adr/0006).
"""

import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("tests/proxy/operator", "tests/instances/running/test_probe.py", "tests/acceptance/test_own_answers.py")
IN_PYTHON = {"AIOHTTP_NO_EXTENSIONS": "1"}


def main() -> None:
    requirement = required((ROOT / "pyproject.toml").read_text("utf-8"))
    check(lowest(requirement))
    check(str(requirement), {}, IN_PYTHON)


def required(project: str) -> Requirement:
    """What `project`, the text of pyproject.toml, asks for."""
    found = map(Requirement, tomllib.loads(project)["project"]["dependencies"])
    return next(one for one in found if one.name == "aiohttp")


def lowest(requirement: Requirement) -> str:
    (floor,) = (one.version for one in requirement.specifier if one.operator == ">=")
    return f"{requirement.name}=={floor}"


def check(wanted: str, *environments: dict[str, str]) -> None:
    """Run the tests with the release that pip takes for `wanted`, once in each of the environments."""
    with tempfile.TemporaryDirectory(prefix="slotproxy-aiohttp-") as place:
        install(wanted, place)
        for environment in environments or ({},):
            run((sys.executable, "-c", "import aiohttp; print('aiohttp', aiohttp.__version__)"), place, environment)
            run((sys.executable, "-m", "pytest", "-q", "-n", "0", *TESTS), place, environment)


def install(wanted: str, place: str) -> None:
    run((sys.executable, "-m", "pip", "install", "--quiet", "--target", place, wanted))


def run(command: Sequence[str], place: str | None = None, environment: dict[str, str] | None = None) -> None:
    """Raises SystemExit if it fails. `place`: where packages are looked for first."""
    before = {} if place is None else {"PYTHONPATH": place}
    surroundings = os.environ | before | (environment or {})
    print("aiohttp:", *(f"{name}={value}" for name, value in (environment or {}).items()), *command[1:], flush=True)
    done = subprocess.run(command, cwd=ROOT, env=surroundings, check=False)
    if done.returncode:
        sys.exit(f"aiohttp: {' '.join(command)} ended with {done.returncode}")


if __name__ == "__main__":
    main()
