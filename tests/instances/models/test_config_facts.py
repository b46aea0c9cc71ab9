"""Configs as the model hub has them, cut down to what is read."""

import json
from pathlib import Path
from typing import Any

import pytest

from slotproxy.instances.models.config_facts import ConfigFacts, read
from slotproxy.instances.models.shape import Shape


def facts(folder: Path, config: Any) -> ConfigFacts | None:
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return read(path)


QWEN3 = {
    "model_type": "qwen3",
    "num_hidden_layers": 36,
    "hidden_size": 2560,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "sliding_window": None,
    "use_sliding_window": False,
}


def test_a_config_gives_the_same_shape_as_the_header_of_the_same_model(tmp_path: Path) -> None:
    found = facts(tmp_path, QWEN3)
    assert found == ConfigFacts(
        architecture="qwen3",
        context=40960,
        shape=Shape(layers=36, embedding=2560, heads=32, kv_heads=8, key_length=128, value_length=128),
    )
    assert found.shape.kv_token == 144 << 10


def test_a_model_that_sees_keeps_its_numbers_one_level_down(tmp_path: Path) -> None:
    found = facts(tmp_path, {"model_type": "qwen3_vl", "text_config": QWEN3})
    assert found is not None
    assert (found.architecture, found.context) == ("qwen3_vl", 40960)


def test_latent_attention_keeps_one_vector_for_each_layer(tmp_path: Path) -> None:
    found = facts(
        tmp_path,
        {"num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512}
        | {"qk_rope_head_dim": 64, "hidden_size": 7168},
    )
    assert found is not None
    assert found.shape.kv_token == 61 * 576 * 2


def test_layers_of_fixed_state_keep_nothing_for_a_token(tmp_path: Path) -> None:
    types = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]
    config = QWEN3 | {"num_hidden_layers": 4, "layer_types": types, "full_attention_interval": 4}
    found = facts(tmp_path, config)
    assert found is not None
    assert found.shape.kv_token == 8 * 256 * 2


def test_a_window_that_is_switched_off_does_not_count(tmp_path: Path) -> None:
    on = facts(tmp_path, QWEN3 | {"sliding_window": 128, "use_sliding_window": True})
    off = facts(tmp_path, QWEN3 | {"sliding_window": 128})
    assert on is not None
    assert off is not None
    assert (on.shape.window, off.shape.window) == (128, None)


def test_a_config_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    plain = facts(tmp_path, QWEN3)
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(path) == plain is not None


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\xff", "[" * 100_000])
def test_what_is_no_config_is_left_to_the_engine(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="latin-1")
    assert read(path) is None


def test_values_of_a_wrong_type_count_as_not_said(tmp_path: Path) -> None:
    odd = {"model_type": 3, "num_hidden_layers": "36", "head_dim": True, "layer_types": "x", "text_config": []}
    assert facts(tmp_path, odd) == ConfigFacts(architecture=None, context=None, shape=Shape())
