"""What the text behind an option of llama-server stands for, in terms that need neither llama.cpp nor a file. Pure.

Every reader takes the text and returns a value or raises ValueError with a clause that follows the option's name.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

ON = ("on", "enabled", "true", "1")
OFF = ("off", "disabled", "false", "0")
AUTO = ("auto", "-1")
CPU_MASK_BITS = 512  # llama.cpp's GGML_MAX_N_THREADS
DEVICES = 128  # values that the wheel's tensor_split has
LARGEST = 2**31 - 1
EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
DENSE = r"\.ffn_(up|down|gate)\."


class Member(NamedTuple):
    """Of an enumeration of the wheel."""

    enum: str
    name: str


class Content(NamedTuple):
    """Of a text file."""

    path: str


class Directory(NamedTuple):
    """One that exists, to be given with a slash at its end."""

    path: str


class Lora(NamedTuple):
    path: str
    scale: float


class Grammar(NamedTuple):
    text: "str | Content"
    schema: bool  # the text is a JSON schema to make a grammar of


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One field of the wheel's `CommonParams`, as a dotted path, and its value."""

    field: str
    value: Any
    added: bool = False  # to what the field has: appended, merged, or joined bit by bit
    flag: str = ""  # where it was given


def whole(least: int = -LARGEST - 1, most: int = LARGEST) -> Callable[[str], int]:
    """A reader of whole numbers in these bounds."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ValueError(f"needs a whole number, not {text!r}") from None
        if not least <= number <= most:
            bounds = f"at least {least}" if most == LARGEST else f"from {least} to {most}"
            raise ValueError(f"needs a whole number {bounds}, not {text}")
        return number

    return read


def real(text: str) -> float:
    """A number that is one."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"needs a number, not {text!r}")
    return number


def choice(enum: str, prefix: str, *names: str, **others: str) -> Callable[[str], Member]:
    """A reader of names that are the members' own in lower case, with dashes; `others` are spelt another way."""
    members = {name: Member(enum, prefix + re.sub(r"\W", "_", name).upper()) for name in names}
    members |= {name: Member(enum, prefix + member) for name, member in others.items()}

    def read(text: str) -> Member:
        if text not in members:
            raise ValueError(f"needs one of {', '.join(members)}, not {text!r}")
        return members[text]

    return read


def switch(text: str) -> bool:
    """On or off."""
    if text not in ON + OFF:
        raise ValueError(f"needs on or off, not {text!r}")
    return text in ON


def flash_attention(text: str) -> Member:
    if text not in ON + OFF + AUTO:
        raise ValueError(f"needs on, off or auto, not {text!r}")
    name = "ENABLED" if text in ON else "DISABLED" if text in OFF else "AUTO"
    return Member("llama_flash_attn_type", f"LLAMA_FLASH_ATTN_TYPE_{name}")


def layers(text: str) -> int:
    """Layers on the GPU."""
    return {"auto": -1, "all": -2}.get(text) or whole()(text)


def items(text: str) -> list[str]:
    """What stands between commas, without blanks and empty ones."""
    return [item.strip() for item in text.split(",") if item.strip()]


def set_of_items(text: str) -> set[str]:
    return set(items(text))


def rates(text: str) -> list[float]:
    return [real(item) for item in items(text)]


def shares(text: str) -> list[float]:
    """How the model is split among devices: one number for each, the rest 0."""
    given = [real(item) for item in re.split("[,/]+", text)]
    if len(given) > DEVICES:
        raise ValueError(f"needs at most {DEVICES} numbers")
    return given + [0.0] * (DEVICES - len(given))


def mebibytes(text: str) -> list[int]:
    """Bytes for each device; a single number is for all."""
    given = [whole(0)(item) << 20 for item in re.split("[,/]+", text)]
    if len(given) > DEVICES:
        raise ValueError(f"needs at most {DEVICES} numbers")
    return given * DEVICES if len(given) == 1 else given + [0] * (DEVICES - len(given))


def cpu_mask(text: str) -> list[bool]:
    try:
        bits = int(text.removeprefix("0x"), 16)
    except ValueError:
        raise ValueError(f"needs a hexadecimal number, not {text!r}") from None
    if bits < 0 or bits.bit_length() > CPU_MASK_BITS:
        raise ValueError(f"needs a mask of at most {CPU_MASK_BITS} bits")
    return [bool(bits >> number & 1) for number in range(CPU_MASK_BITS)]


def cpu_range(text: str) -> list[bool]:
    found = re.fullmatch(r"(\d*)-(\d*)", text)
    if found is None:
        raise ValueError(f"needs two numbers with a dash between them, not {text!r}")
    first, last = int(found[1] or 0), int(found[2] or CPU_MASK_BITS - 1)
    if not first <= last < CPU_MASK_BITS:
        raise ValueError(f"needs a range within 0-{CPU_MASK_BITS - 1}, not {text}")
    return [first <= number <= last for number in range(CPU_MASK_BITS)]


def loras(text: str) -> list[Lora]:
    """Adapters with commas between them."""
    return [Lora(item, 1.0) for item in items(text)]


def scaled_loras(text: str) -> list[Lora]:
    """FILE:SCALE,..."""
    pairs = [item.rpartition(":") for item in items(text)]
    if any(not path for path, _, _ in pairs):
        raise ValueError(f"needs FILE:SCALE, not {text!r}")
    return [Lora(path, real(scale)) for path, _, scale in pairs]


def speculative_types(text: str) -> list[Member]:
    read = choice(
        "common_speculative_type",
        "COMMON_SPECULATIVE_TYPE_",
        "none",
        *("draft-simple", "draft-eagle3", "draft-mtp", "draft-dflash", "draft-dspark"),
        *("ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache"),
    )
    return [read(item) for item in items(text)]


def experts_on_cpu(text: str) -> str:
    """Of the first so many layers, as patterns of tensor names."""
    return ",".join(f"blk\\.{number}{EXPERTS}=CPU" for number in range(whole(0, 10_000)(text)))


def dense_on_cpu(text: str) -> str:
    """Of the first so many layers, as patterns of tensor names."""
    return ",".join(f"blk\\.{number}{DENSE}=CPU" for number in range(whole(0, 10_000)(text)))


def above_nothing(text: str) -> float:
    """A number above 0."""
    number = real(text)
    if number <= 0:
        raise ValueError(f"needs a number above 0, not {text}")
    return number


def probabilistic(text: str) -> bool:
    """How a draft is sampled."""
    if text not in {"greedy", "probabilistic"}:
        raise ValueError(f"needs greedy or probabilistic, not {text!r}")
    return text == "probabilistic"
