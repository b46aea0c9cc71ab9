import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.profiles import catalog, context
from slotproxy.instances.profiles.profile import Context, Profile

TOKENS = st.integers(min_value=512, max_value=1 << 20)


def profile_with(**rule: object) -> Profile:
    given = msgspec.convert(rule, Context)
    return msgspec.structs.replace(catalog.load("llama-server"), name="it", ctx=4096, context=given)


def test_the_users_word_comes_first_then_the_profiles() -> None:
    assert context.wanted(profile_with(), 2048, None) == 2048
    assert context.wanted(profile_with(), None, None) == 4096


def test_the_default_is_never_more_than_a_capping_engine_gives() -> None:
    assert context.wanted(profile_with(capped=True), None, 1024) == 1024
    assert context.wanted(profile_with(capped=False), None, 1024) == 4096


def test_asking_a_capping_engine_for_more_than_the_model_was_trained_for_is_refused_with_both_numbers() -> None:
    with pytest.raises(
        ConfigurationError, match=r"--ctx-size 4096 is more than the 2048 tokens .* give --ctx-size 2048"
    ):
        context.wanted(profile_with(capped=True), 4096, 2048)


def test_arguments_of_the_users_own_may_raise_the_cap() -> None:
    assert context.wanted(profile_with(capped=True), 4096, 2048, overridden=True) == 4096


@given(asked=TOKENS, multiple=st.integers(min_value=1, max_value=1024))
def test_what_was_asked_for_and_what_it_is_rounded_up_to_are_right(asked: int, multiple: int) -> None:
    profile = profile_with(multiple=multiple)
    rounded = next(tokens for tokens in range(asked, asked + multiple) if tokens % multiple == 0)
    assert context.discrepancy(profile, asked, asked, None) is None
    assert context.discrepancy(profile, asked, rounded, None) is None
    assert context.discrepancy(profile, asked, None, None) is None


@given(asked=TOKENS, found=TOKENS, capped=st.booleans(), divided=st.booleans(), trained=st.none() | TOKENS)
def test_any_other_number_is_an_error_that_names_both(
    asked: int, found: int, capped: bool, divided: bool, trained: int | None
) -> None:
    sentence = context.discrepancy(profile_with(capped=capped, divided=divided), asked, found, trained)
    assert (sentence is None) == (asked == found)
    if sentence is not None:
        assert f"{found} tokens" in sentence
        assert str(asked) in sentence


def test_the_reason_is_told_where_it_is_known() -> None:
    divided = profile_with(divided=True)
    assert "trained for no more; give --ctx-size 2048" in str(context.discrepancy(divided, 4096, 2048, 2048))
    assert "divides its context among slots" in str(context.discrepancy(divided, 4096, 2048, 8192))
    assert "not in its own arguments" in str(context.discrepancy(divided, 2048, 4096, 8192))
