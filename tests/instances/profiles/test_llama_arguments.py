"""llama-server's command line as the embedded engine reads it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.profiles import llama_arguments
from slotproxy.instances.profiles.llama_arguments import KNOWN, ArgumentError
from slotproxy.instances.profiles.llama_values import Content, Lora, Member

MEAN = Member("llama_pooling_type", "LLAMA_POOLING_TYPE_MEAN")
Q8 = Member("ggml_type", "GGML_TYPE_Q8_0")


def read(*arguments: str) -> list[tuple[str, Any]]:
    return [(setting.field, setting.value) for setting in llama_arguments.settings(arguments)]


def wrong(*arguments: str) -> str:
    with pytest.raises(ArgumentError) as caught:
        read(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (["-c", "9"], [("n_ctx", 9)]),
        (["--ctx-size=9"], [("n_ctx", 9)]),
        (["--ctx_size", "9"], [("n_ctx", 9)]),
        (["--embeddings", "--pooling", "mean"], [("embedding", True), ("pooling_type", MEAN)]),
        (["-ctk", "q8_0"], [("cache_type_k", Q8)]),
        (["--no-jinja"], [("use_jinja", False)]),
        (["--no-kv-offload"], [("no_kv_offload", True)]),
        (["--kv-offload"], [("no_kv_offload", False)]),
        (["-fa", "on"], [("flash_attn_type", Member("llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_ENABLED"))]),
        (["-ngl", "all"], [("n_gpu_layers", -2)]),
        (["-ngl", "0"], [("n_gpu_layers", 0)]),
        (["--seed", "-1"], [("sampling.seed", 2**32 - 1)]),
        (["--chat-template", "{{ '-x' }}"], [("chat_template", "{{ '-x' }}")]),
        (["--chat-template-file", "t"], [("chat_template", Content("t"))]),
        (["--lora", "a,b"], [("lora_adapters", [Lora("a", 1.0), Lora("b", 1.0)])]),
        (["--lora-scaled", "a:b:0.5"], [("lora_adapters", [Lora("a:b", 0.5)])]),
        (["--chat-template-kwargs", '{"x": [1]}'], [("default_template_kwargs", {"x": "[1]"})]),
        (["-c", "1", "-c", "2"], [("n_ctx", 1), ("n_ctx", 2)]),
    ],
)
def test_an_option_sets_the_field_that_it_sets_in_llama_server(
    arguments: list[str], settings: list[tuple[str, Any]]
) -> None:
    assert read(*arguments) == settings


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--cache-typ-k", "q8_0"], "unrecognized arguments: --cache-typ-k; did you mean --cache-type-k?"),
        (["--zzzzzzzz"], "unrecognized arguments: --zzzzzzzz"),
        (["stray"], "'stray' belongs to no option"),
        (["--lora"], "--lora needs a value"),
        (["--temp", "--jinja"], "--temp needs a value, and --jinja follows it"),
        (["--jinja=1"], "--jinja takes no value, and '1' was given"),
        (["-c", "x"], "-c needs a whole number, not 'x'"),
        (["-c", "-1"], "-c needs a whole number at least 0, not -1"),
        (["--port", "65536"], "--port needs a whole number from 0 to 65535, not 65536"),
        (["--temp", "nan"], "--temp needs a number, not 'nan'"),
        (["--rope-scale", "0"], "--rope-scale needs a number above 0, not 0"),
        (["--pooling", "x"], "--pooling needs one of none, mean, cls, last, rank, not 'x'"),
        (["--lora-scaled", "a"], "--lora-scaled needs FILE:SCALE, not 'a'"),
        (["--cpu-range", "3-1"], "--cpu-range needs a range within 0-511, not 3-1"),
        (["--cpu-range", "0-512"], "--cpu-range needs a range within 0-511, not 0-512"),
        (["--chat-template-kwargs", "[]"], "--chat-template-kwargs needs a JSON object, not '[]'"),
        (["--models-dir", "x"], "--models-dir cannot be used: an engine of slotproxy serves one model"),
    ],
)
def test_a_wrong_argument_is_one_sentence_that_names_it(arguments: list[str], sentence: str) -> None:
    assert wrong(*arguments) == sentence


def test_what_the_wheel_has_no_setting_for_is_refused_with_the_engine_that_takes_it() -> None:
    assert "--engine llama-server takes it" in wrong("--device", "CPU")


def test_every_option_is_in_the_usage() -> None:
    assert all(flag in llama_arguments.usage() for flag in KNOWN)


@given(st.lists(st.one_of(st.sampled_from(sorted(KNOWN)), st.text(max_size=6)), max_size=5))
def test_whatever_is_given_ends_with_settings_or_one_short_sentence(arguments: list[str]) -> None:
    said = ""
    try:
        read(*arguments)
    except ArgumentError as error:
        said = str(error) or "nothing"
    assert said != "nothing"
    assert len(said) < 500
