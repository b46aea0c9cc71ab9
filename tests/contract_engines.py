"""The engines of the contracts as the installed command finds them: executables on PATH, and models they can load."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from slotproxy.instances.profiles import catalog
from tests.stubs.contracts import CONTRACTS

STUB = Path(__file__).parent / "stubs" / "engine.py"
TRAINED = 8192


@dataclass(kw_only=True)
class Played:
    """One engine, played by the stub."""

    name: str
    folder: Path
    model: str

    @classmethod
    def prepare(cls, name: str, folder: Path) -> "Played":
        """Its executable, a model for it and a place for its records, all in `folder`."""
        executable = catalog.load(name).executable
        assert executable is not None
        (folder / "bin").mkdir()
        (folder / "record").mkdir()
        (folder / "bin" / executable).symlink_to(STUB)
        return cls(name=name, folder=folder, model=_model(name, folder))

    @property
    def options(self) -> tuple[str, ...]:
        return "--engine", self.name, "--model", self.model

    def environment(self, **script: float) -> dict[str, str]:
        return {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "STUB_RECORD": str(self.folder / "record"),
            "STUB_SCRIPT": json.dumps(script),
            # What a shell may hold and no engine must hear of.
            "LLAMA_ARG_CTX_SIZE": "512",
            "LLAMA_ARG_N_PARALLEL": "4",
            "OLLAMA_HOST": "0.0.0.0:11434",
            "OLLAMA_NUM_PARALLEL": "9",
            "DS4_LOCK_FILE": "/tmp/ds4.lock",
        }

    def events(self, event: str) -> list[Mapping[str, Any]]:
        """What its processes wrote down of that kind."""
        files = (self.folder / "record").glob("*.jsonl")
        return [line for file in files for line in self.events_of(int(file.stem)) if line["event"] == event]

    def events_of(self, pid: int) -> list[Mapping[str, Any]]:
        """All that one of its processes wrote down, in turn."""
        return [json.loads(line) for line in (self.folder / "record" / f"{pid}.jsonl").read_text().splitlines()]


def _model(name: str, folder: Path) -> str:
    kind = CONTRACTS[name].model
    if kind == "name":
        return "llama3.2:3b"
    if kind == "gguf":
        path = folder / "m.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_context_length(TRAINED)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return str(path)
    path = folder / "models" / "m"
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": TRAINED}))
    return str(path)
