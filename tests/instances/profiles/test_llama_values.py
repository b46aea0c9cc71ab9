"""What the text behind an option stands for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.profiles import llama_values


def test_masks_and_ranges_name_the_same_cores() -> None:
    assert llama_values.cpu_mask("0xE") == llama_values.cpu_range("1-3")
    assert sum(llama_values.cpu_range("-")) == llama_values.CPU_MASK_BITS


def test_one_number_of_mebibytes_is_for_all_devices() -> None:
    assert set(llama_values.mebibytes("2")) == {2 << 20}
    assert llama_values.mebibytes("1,2")[:3] == [1 << 20, 2 << 20, 0]


@given(st.integers(0, 511), st.integers(0, 511))
def test_a_range_has_its_two_ends_and_what_lies_between(one: int, other: int) -> None:
    first, last = sorted((one, other))
    cores = llama_values.cpu_range(f"{first}-{last}")
    assert [number for number, wanted in enumerate(cores) if wanted] == list(range(first, last + 1))


@given(st.integers(-5, 15))
def test_a_whole_number_is_taken_within_its_bounds_and_at_them(number: int) -> None:
    read = llama_values.whole(0, 10)
    if 0 <= number <= 10:
        assert read(str(number)) == number
    else:
        with pytest.raises(ValueError, match="from 0 to 10"):
            read(str(number))


@pytest.mark.parametrize(("text", "layers"), [("0", 0), ("7", 7), ("auto", -1), ("all", -2)])
def test_layers_on_the_gpu_have_names_too(text: str, layers: int) -> None:
    assert llama_values.layers(text) == layers


def test_shares_are_filled_up_with_nothing() -> None:
    assert llama_values.shares("3,1")[:3] == [3.0, 1.0, 0.0]
    assert len(llama_values.shares("3/1")) == llama_values.DEVICES


def test_the_experts_of_the_first_layers_are_named_one_by_one() -> None:
    patterns = llama_values.experts_on_cpu("2").split(",")
    assert [pattern.partition(".ffn")[0] for pattern in patterns] == ["blk\\.0\\", "blk\\.1\\"]
    assert llama_values.experts_on_cpu("0") == ""
