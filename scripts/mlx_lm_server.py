"""Install mlx-lm's real server for the tests that run it, once per machine, into the user's cache.

`make engines-mlx-lm` does it, in an environment of its own. On Linux it computes on the CPU.
"""

import subprocess
import sys
import venv
from pathlib import Path

from platformdirs import user_cache_path

VERSION = "0.32.2"
PACKAGES = (f"mlx-lm=={VERSION}", "mlx[cpu]==0.32.4" if sys.platform == "linux" else "mlx==0.32.4")


def folder() -> Path:
    """Where its environment is, or would be."""
    return user_cache_path("slotproxy") / "engines" / f"mlx-lm-{VERSION}"


def binary() -> Path:
    """Its executable; there only when all of the installation is."""
    return folder() / "bin" / "mlx_lm.server"


def main() -> int:
    """Install it unless it is there."""
    if binary().exists():
        print(f"{binary()} is there already")
        return 0
    venv.create(folder(), with_pip=True, clear=True)
    pip = (folder() / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--no-input")
    subprocess.run(["nice", "-n", "19", *pip, "install", "--quiet", *PACKAGES], check=True)
    print(f"installed {binary()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
