"""What the header of a GGUF file says. Reads the header only, however large the file is.

Own code although there is the package `gguf`: that one makes objects of every word of the vocabulary, which takes
seconds at each start, needs numpy, and refuses tensor types that are younger than itself but not than the engine.
"""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from slotproxy.instances.models.shape import Shape

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9
MAX_DIMENSIONS = 4
ALIGNMENT = 32
LONGEST_ARRAY = 4096  # values kept of an array: one for each layer, not one for each word
# Tensor type: elements and bytes of a block, as in ggml.h.
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip
POOLINGS = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}
_BUFFER = 1 << 20

Value = int | float | str | tuple[int | float, ...] | None


class HeaderError(Exception):
    """The header is broken; the message is a clause about the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFacts:
    """None where the header does not say it."""

    architecture: str | None
    context: int | None  # tokens it was trained for
    shape: Shape
    end: int  # where the last tensor ends: a shorter file is incomplete
    parts: int = 1  # files that the model is split into
    pooling: str | None = None  # how it makes one embedding of its tokens' states


def read(path: Path) -> GgufFacts | None:
    """None for a GGUF version that is not known here. Raises HeaderError and OSError."""
    with path.open("rb", buffering=_BUFFER) as file:
        header = _Header(file)
        if header.take(len(MAGIC)) != MAGIC:
            raise HeaderError("it does not begin with 'GGUF'")
        if header.number("I") not in VERSIONS:
            return None
        tensors, entries = header.number("Q"), header.number("Q")
        values = {header.text(): header.value(header.number("I")) for _ in range(entries)}
        return _facts(values, header.end_of_tensors(tensors, values.get("general.alignment", ALIGNMENT)))


def _facts(values: Mapping[str, Value], end: int) -> GgufFacts:
    architecture, parts = values.get("general.architecture"), values.get("split.count")

    def number(name: str) -> int | None:
        value = values.get(f"{architecture}.{name}")
        return value if isinstance(value, int) else None

    def by_layer(name: str) -> int | tuple[int, ...] | None:
        value = values.get(f"{architecture}.{name}")
        if isinstance(value, tuple) and all(isinstance(each, int) for each in value):
            return tuple(map(int, value))
        return number(name)

    return GgufFacts(
        architecture=architecture if isinstance(architecture, str) else None,
        context=number("context_length"),
        shape=Shape(
            layers=number("block_count"),
            embedding=number("embedding_length"),
            heads=by_layer("attention.head_count"),
            kv_heads=by_layer("attention.head_count_kv"),
            key_length=number("attention.key_length"),
            value_length=number("attention.value_length"),
            latent=number("attention.key_length_mla") is not None,
            full_attention_interval=number("full_attention_interval"),
            window=number("attention.sliding_window"),
            recurrent=number("ssm.state_size") is not None,
        ),
        end=end,
        parts=parts if isinstance(parts, int) and parts > 1 else 1,
        pooling=None if (pooling := number("pooling_type")) is None else POOLINGS.get(pooling),
    )


class _Header:
    """A place in the header, moving forward. Every method raises HeaderError at the end of the file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._length = os.fstat(file.fileno()).st_size

    def take(self, count: int) -> bytes:
        if count > self._length:  # or a broken length would ask for memory that nobody has
            raise HeaderError("it ends within its header")
        data = self._file.read(count)
        if len(data) < count:
            raise HeaderError("it ends within its header")
        return data

    def skip(self, count: int) -> None:
        if count > self._length:
            raise HeaderError("it ends within its header")
        self._file.seek(count, os.SEEK_CUR)

    def number(self, code: str) -> int:
        return int(self._scalar(code))

    def text(self) -> str:
        return self.take(self.number("Q")).decode(errors="replace")

    def value(self, kind: int) -> Value:
        """The next value; None for an array of texts or a long one, which is skipped."""
        if kind in SCALARS:
            return self._scalar(SCALARS[kind])
        if kind == TEXT:
            return self.text()
        if kind == ARRAY:
            return self._array()
        raise HeaderError("its header is damaged")

    def end_of_tensors(self, count: int, alignment: Value) -> int:
        """Of a tensor of unknown type only the beginning counts. Raises HeaderError."""
        if not isinstance(alignment, int) or alignment <= 0:
            raise HeaderError("its header is damaged")
        ends = [self._tensor() for _ in range(count)]
        here = self._file.tell()
        return here + -here % alignment + max(ends) if ends else 0

    def _tensor(self) -> int:
        """Where the next tensor ends, from the beginning of the weights."""
        self.skip(self.number("Q"))  # its name
        dimensions = self.number("I")
        if dimensions > MAX_DIMENSIONS:
            raise HeaderError("its header is damaged")
        elements = 1
        for _ in range(dimensions):
            elements *= self.number("Q")
        per_block, size = BLOCKS.get(self.number("I"), (1, 0))
        return self.number("Q") + elements * size // per_block

    def _array(self) -> tuple[int | float, ...] | None:
        kind, count = self.number("I"), self.number("Q")
        if kind in SCALARS and count <= LONGEST_ARRAY:
            return tuple(self._scalar(SCALARS[kind]) for _ in range(count))
        if kind in SCALARS:
            self.skip(count * struct.calcsize(SCALARS[kind]))
        elif kind == TEXT:
            for _ in range(count):
                self.skip(self.number("Q"))
        else:
            raise HeaderError("its header is damaged")
        return None

    def _scalar(self, code: str) -> int | float:
        value: int | float = struct.unpack("=" + code, self.take(struct.calcsize("=" + code)))[0]
        return value
