"""The model file, checked before anything is spawned: found, readable, a whole GGUF or a model directory."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from slotproxy.instances.errors import ModelError

logger = logging.getLogger(__name__)

MAGIC = b"GGUF"
CHECK_TIMEOUT = 60.0  # seconds; the header is read, not the weights, but it may lie on a slow disk


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A model that can be given to an engine."""

    path: Path
    name: str  # what clients call it
    kind: str  # "gguf" or "directory"
    size: int  # bytes


def check(path: Path) -> ModelFacts:
    """Facts of the model at `path`. Raises ModelError with one sentence."""
    try:
        if path.is_dir():
            return _check_directory(path)
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
            length = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise ModelError(
            f"there is no model at {path}; give --model the path of a GGUF file or a model directory"
        ) from None
    except OSError as error:
        raise ModelError(f"the model {path} cannot be read: {error.strerror}") from None
    if magic != MAGIC:
        what = "is empty" if not length else "is not a GGUF file (it does not begin with 'GGUF')"
        raise ModelError(f"the model {path} {what}")
    _check_gguf(path, length)
    return ModelFacts(path=path, name=path.stem, kind="gguf", size=length)


def _check_directory(path: Path) -> ModelFacts:
    if not (path / "config.json").is_file():
        raise ModelError(
            f"{path} is a directory without a config.json, so it holds no model; name the model's own directory"
        )
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return ModelFacts(path=path, name=path.resolve().name, kind="directory", size=size)


def _check_gguf(path: Path, length: int) -> None:
    facts = gguf_facts(path)
    if "error" in facts:
        raise ModelError(f"the model {path} is corrupt or incomplete: {facts['error']}")
    if facts["end"] > length:
        missing = facts["end"] - length
        raise ModelError(f"the model {path} is incomplete: its last {missing} bytes are missing; fetch it again")


def gguf_facts(path: Path) -> dict[str, int]:
    """What the header of a GGUF file says (`slotproxy.instances.gguf_facts`), read by a short-lived child.

    The `gguf` package needs numpy; in the proxy it would cost tens of MiB for as long as the proxy runs.
    """
    command = [sys.executable, "-m", "slotproxy.instances.gguf_facts", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=CHECK_TIMEOUT, check=True)
        facts: dict[str, int] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise ModelError(f"the header of {path} could not be read within {CHECK_TIMEOUT:g} s") from None
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        logger.debug("reading the header of %s failed: %s", path, error)
        raise ModelError(f"the header of {path} cannot be read") from None
    return facts
