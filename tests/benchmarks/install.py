"""`make bench-peers`: the peers that come as Python packages, and matplotlib, each in a virtual environment of its own.

They lie in the cache, because they are large, because they must not change what slotproxy is measured with, and so
that nothing but the benchmark knows them.
"""

import subprocess
import sys
import venv
from pathlib import Path

from tests.benchmarks.peers import CACHE, WHEELS, place

CHART = {"matplotlib": "3.10.7"}


def main() -> int:
    """How many could not be installed."""
    return sum(not _install(package, version) for package, version in {**WHEELS, **CHART}.items())


def _install(package: str, version: str) -> bool:
    folder, wanted = place(package), f"{package}=={version}"
    stamp = folder / ".installed"
    if stamp.exists() and stamp.read_text() == wanted:
        print(f"{wanted} is there: {folder}")
        return True
    print(f"installing {wanted} into {folder}", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    if not _pip(folder, wanted):
        print(f"{wanted} could not be installed, see above: the benchmark goes without it.", file=sys.stderr)
        return False
    stamp.write_text(wanted)
    return True


def _pip(folder: Path, wanted: str) -> bool:
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    return subprocess.run([*pip, "install", "--quiet", wanted], check=False).returncode == 0


if __name__ == "__main__":
    CACHE.mkdir(parents=True, exist_ok=True)
    sys.exit(main())
