"""The model file, checked before anything is spawned: found, readable, a whole GGUF or a model directory."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from slotproxy.instances.errors import ModelError
from slotproxy.instances.models import config_facts, gguf_facts
from slotproxy.instances.models.config_facts import ConfigFacts
from slotproxy.instances.models.gguf_facts import GgufFacts, HeaderError
from slotproxy.instances.models.shape import Shape
from slotproxy.instances.wording import size

MOST_PARTS = 99_999


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A model that can be given to an engine."""

    path: Path
    name: str  # what clients call it
    kind: str  # "gguf", "directory", or "name": one that only its engine knows
    size: int  # bytes of all its files; of a directory its *.safetensors, or all where it has none; 0: not known
    gguf: GgufFacts | None = None  # None for a directory, or a GGUF version not known here
    config: ConfigFacts | None = None  # of a directory; None where its config.json cannot be understood

    @property
    def context(self) -> int | None:
        """Tokens it was trained for; None where that is not said."""
        facts = self.gguf or self.config
        return facts.context if facts is not None else None

    @property
    def shape(self) -> Shape:
        facts = self.gguf or self.config
        return facts.shape if facts is not None else Shape()

    @property
    def pooling(self) -> str | None:
        """How it makes one embedding of its tokens' states; None where that is not said."""
        return None if self.gguf is None else self.gguf.pooling

    @property
    def architecture(self) -> str | None:
        facts = self.gguf or self.config
        return facts.architecture if facts is not None else None


def check(path: Path, *, names: bool = False) -> ModelFacts:
    """Facts of the model at `path`, or with `names` of the one an engine knows by that name. Raises ModelError."""
    try:
        return _check_directory(path) if path.is_dir() else _check_file(path)
    except FileNotFoundError:
        if names and not path.is_absolute() and not str(path).startswith("."):
            return ModelFacts(path=path, name=str(path), kind="name", size=0)
        text = f"there is no model at {path}; give --model the path of a GGUF file or a model directory"
        raise ModelError(text) from None
    except OSError as error:
        raise ModelError(f"the model {path} cannot be read: {error.strerror}") from None


def _check_directory(path: Path) -> ModelFacts:
    names = {entry.name for entry in path.iterdir()}  # before the look at config.json: a closed directory seems empty
    if "config.json" not in names:
        raise ModelError(
            f"{path} is a directory without a config.json, so it holds no model; name the model's own directory"
        )
    files = [file for file in path.iterdir() if file.is_file()]
    weights = [file for file in files if file.suffix == ".safetensors"]
    return ModelFacts(
        path=path,
        name=path.resolve().name,
        kind="directory",
        size=sum(file.stat().st_size for file in weights or files),
        config=config_facts.read(path / "config.json"),
    )


def _check_file(path: Path) -> ModelFacts:
    state = path.stat()
    if not S_ISREG(state.st_mode):  # opening a pipe would wait for its writer
        raise ModelError(f"the model {path} is neither a file nor a directory")
    facts = _check_gguf(path, state.st_size)
    others = _other_parts(path, facts.parts) if facts is not None else ()
    return ModelFacts(
        path=path,
        name=path.name.removesuffix(".gguf"),
        kind="gguf",
        size=state.st_size + sum(part.stat().st_size for part in others),
        gguf=facts,
    )


def _other_parts(path: Path, parts: int) -> list[Path]:
    """Of a model in several files, which llama.cpp finds by their names: name-00001-of-00003.gguf."""
    ending = f"-00001-of-{parts:05}.gguf"
    if parts == 1 or not path.name.endswith(ending):
        return []
    names = (f"{path.name.removesuffix(ending)}-{number:05}-of-{parts:05}.gguf" for number in range(2, parts + 1))
    found = [path.with_name(name) for name in itertools.islice(names, MOST_PARTS)]
    for part in found:
        if not part.is_file():
            raise ModelError(f"the model {path} is in {parts} files, and {part.name} is missing; fetch it again")
    return found


def _check_gguf(path: Path, length: int) -> GgufFacts | None:
    """Refuses what no engine can load; whatever is not understood is left to the engine."""
    with path.open("rb") as file:
        magic = file.read(len(gguf_facts.MAGIC))
    if magic != gguf_facts.MAGIC:
        what = "is not a GGUF file (it does not begin with 'GGUF')" if length else "is empty"
        raise ModelError(f"the model {path} {what}; give --model another, or fetch it again")
    try:
        facts = gguf_facts.read(path)
    except HeaderError as error:
        raise ModelError(f"the model {path} is corrupt or incomplete: {error}; fetch it again") from None
    if facts is not None and facts.end > length:
        missing = size(facts.end - length)
        raise ModelError(f"the model {path} is incomplete: its last {missing} are missing; fetch it again")
    return facts
