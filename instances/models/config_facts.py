"""What the config.json of a model directory says, in the words of the transformers library."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotproxy.instances.models.shape import Shape

LARGEST = 4 << 20  # bytes; a config is a few KiB
WITHOUT_KEYS = ("linear_attention", "mamba", "recurrent", "conv")  # layer types that keep a state of fixed size


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFacts:
    """None where the config does not say it."""

    architecture: str | None
    context: int | None  # tokens it was trained for
    shape: Shape


def read(path: Path) -> ConfigFacts | None:
    """None where it is not understood, which is the engine's business. Raises OSError."""
    with path.open("rb") as file:
        data = file.read(LARGEST)
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(config, dict):
        return None
    inner = config.get("text_config")  # of a model that sees images, too
    return _facts(inner if isinstance(inner, dict) else config, config.get("model_type"))


def _facts(config: Mapping[str, Any], architecture: Any) -> ConfigFacts:
    def number(name: str) -> int | None:
        value = config.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    latent, rope = number("kv_lora_rank"), number("qk_rope_head_dim")
    head = number("head_dim") if latent is None else latent + (rope or 0)
    kv_heads = number("num_key_value_heads") if latent is None else 1
    return ConfigFacts(
        architecture=architecture if isinstance(architecture, str) else None,
        context=number("max_position_embeddings"),
        shape=Shape(
            layers=number("num_hidden_layers"),
            embedding=number("hidden_size"),
            heads=number("num_attention_heads"),
            kv_heads=_by_layer(kv_heads, config.get("layer_types")),
            key_length=head,
            value_length=head,
            latent=latent is not None,
            full_attention_interval=number("full_attention_interval") if not config.get("layer_types") else None,
            window=number("sliding_window") if config.get("use_sliding_window", True) else None,
        ),
    )


def _by_layer(kv_heads: int | None, types: Any) -> int | tuple[int, ...] | None:
    if kv_heads is None or not isinstance(types, list):
        return kv_heads
    return tuple(0 if kind in WITHOUT_KEYS else kv_heads for kind in types)
