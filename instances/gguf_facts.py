"""`python -m slotproxy.instances.gguf_facts PATH`: what the header of a GGUF file says, as one line of JSON.

`end` is where the last tensor ends: a shorter file is incomplete. With `error` the header itself is broken.
"""

import json
import sys
from pathlib import Path
from typing import Any

from gguf import GGUFReader


def facts(path: Path) -> dict[str, Any]:
    """Raises whatever the reader raises for a broken header."""
    reader = GGUFReader(path)
    architecture = _value(reader, "general.architecture")

    def of_architecture(name: str) -> Any:
        return _value(reader, f"{architecture}.{name}")

    return {
        "architecture": architecture,
        "layers": of_architecture("block_count"),
        "context": of_architecture("context_length"),
        "heads": of_architecture("attention.head_count"),
        "kv_heads": of_architecture("attention.head_count_kv"),
        "embedding": of_architecture("embedding_length"),
        "end": max((int(t.data_offset) + int(t.n_bytes) for t in reader.tensors), default=0),
    }


def _value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def main() -> None:
    path = Path(sys.argv[1])
    try:
        found = facts(path)
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError, UnicodeDecodeError, OSError) as error:
        found = {"error": f"its header does not fit the file ({type(error).__name__})"}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
