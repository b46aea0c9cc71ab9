"""KV cache per token, against what follows by hand from the headers of known models."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.models.shape import Shape

LLAMA_3_8B = Shape(layers=32, embedding=4096, heads=32, kv_heads=8)
QWEN3_4B = Shape(layers=36, embedding=2560, heads=32, kv_heads=8, key_length=128, value_length=128)
SMOLLM2_135M = Shape(layers=30, embedding=576, heads=9, kv_heads=3)
DEEPSEEK_V3 = Shape(
    layers=61, embedding=7168, heads=128, kv_heads=1, key_length=576, value_length=512, latent=True
)  # 61 layers of 512 latent and 64 position numbers


@pytest.mark.parametrize(
    ("shape", "kv_token"),
    [
        (LLAMA_3_8B, 128 << 10),
        (QWEN3_4B, 144 << 10),
        (SMOLLM2_135M, 23040),
        (DEEPSEEK_V3, 61 * 576 * 2),
        (Shape(layers=2, embedding=64, heads=4), 2 * 4 * 32 * 2),  # without groups every head has keys of its own
        (Shape(layers=3, embedding=64, heads=4, kv_heads=(2, 0, 1)), 3 * 32 * 2),  # a layer without attention
        (Shape(layers=8, embedding=64, heads=4, kv_heads=4, full_attention_interval=4), 2 * 4 * 32 * 2),
    ],
)
def test_keys_and_values_of_every_head_of_every_layer_count(shape: Shape, kv_token: int) -> None:
    assert shape.kv_token == kv_token


@pytest.mark.parametrize(
    "shape",
    [
        Shape(),
        Shape(layers=2, embedding=64),
        Shape(layers=2, heads=4),
        Shape(layers=3, embedding=64, heads=4, kv_heads=(1, 1)),  # fewer numbers than layers
        Shape(layers=2, embedding=64, heads=0),
        Shape(layers=1 << 40, embedding=64, heads=4),
        Shape(layers=2, embedding=64, heads=4, kv_heads=-1),
    ],
)
def test_numbers_that_do_not_suffice_give_none(shape: Shape) -> None:
    assert shape.kv_token in (None, 0)


ANYTHING = st.none() | st.integers(-10, 1 << 33) | st.lists(st.integers(-10, 100), max_size=5).map(tuple)
NUMBER = st.none() | st.integers(-10, 1 << 33)


@given(
    st.builds(
        Shape,
        layers=NUMBER,
        embedding=NUMBER,
        heads=ANYTHING,
        kv_heads=ANYTHING,
        key_length=NUMBER,
        value_length=NUMBER,
        latent=st.booleans(),
        full_attention_interval=NUMBER,
        window=NUMBER,
        recurrent=st.booleans(),
    )
)
def test_whatever_a_header_says_the_answer_is_a_size_or_none(shape: Shape) -> None:
    assert shape.kv_token is None or shape.kv_token >= 0
    assert shape.at_most is None or shape.at_most


def test_layers_that_keep_less_make_it_an_upper_bound() -> None:
    assert SMOLLM2_135M.at_most is None
    assert "128 tokens" in (Shape(window=128).at_most or "")
    assert "fixed size" in (Shape(recurrent=True).at_most or "")
    assert Shape(recurrent=True, full_attention_interval=4).at_most is None
    assert Shape(recurrent=True, kv_heads=(0, 4)).at_most is None
