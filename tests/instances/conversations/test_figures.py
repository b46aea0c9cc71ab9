"""What work is reckoned to cost, from what the answers told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.conversations.figures import LEAST, SMOOTHING, Figures, Rate

values = st.floats(0.0, 1e6)


def answered(figures: Figures, **changes: object) -> None:
    """A stream: 1000 tokens in ten seconds, then 11 tokens in one."""
    told: dict[str, object] = {
        "size": 4000, "prompt": 1000, "completion": 11, "computed": 1000, "prefill": 10.0, "total": 11.0,
    }  # fmt: skip
    figures.answered(**(told | changes))  # type: ignore[arg-type]


def test_the_first_measurement_takes_the_place_of_the_guess() -> None:
    rate = Rate(5.0)
    assert (rate.value, rate.is_measured) == (5.0, False)
    rate.observe(1.0)
    assert (rate.value, rate.is_measured) == (1.0, True)
    rate.observe(2.0)
    assert rate.value == pytest.approx(1.0 + SMOOTHING)


@given(values, st.lists(values, min_size=1))
def test_a_figure_is_never_beyond_what_was_measured(guess: float, measured: list[float]) -> None:
    rate = Rate(guess)
    for value in measured:
        rate.observe(value)
    assert min(measured) - 1e-6 <= rate.value <= max(measured) + 1e-6


def test_a_stream_tells_what_tokens_of_its_prompt_and_of_its_answer_cost() -> None:
    figures = Figures()
    answered(figures, size=5000, prefill=20.0, total=22.0)
    assert figures.prefill.value == pytest.approx(0.02)
    assert figures.token.value == pytest.approx(0.2)
    assert figures.decode.value == pytest.approx(2.0)
    assert figures.text.value == pytest.approx(5.0)
    assert figures.computing(100) == pytest.approx(2.0)


def test_what_was_cached_took_no_time() -> None:
    figures = Figures()
    answered(figures, computed=500)
    assert figures.prefill.value == pytest.approx(0.02)
    assert figures.text.value == pytest.approx(4.0)  # of all of the prompt


def test_where_there_was_no_stream_the_time_of_the_answer_is_taken_off() -> None:
    figures = Figures()
    figures.token.observe(0.1)
    answered(figures, prefill=None, completion=10, total=11.0)
    assert figures.prefill.value == pytest.approx(0.01)
    assert (figures.decode.is_measured, figures.token.value) == (False, 0.1)
    answered(figures, prefill=None, completion=400, total=11.0)  # 400 tokens take longer than that
    assert figures.prefill.value == pytest.approx(0.01)


def test_where_there_was_no_stream_and_no_token_was_timed_nothing_is_learned_of_prompts() -> None:
    figures = Figures()
    answered(figures, prefill=None, completion=10, total=0.3)
    assert not figures.prefill.is_measured


def test_where_it_is_not_known_how_much_was_computed_nothing_is_learned_of_prompts() -> None:
    figures = Figures()
    answered(figures, computed=None)
    assert not figures.prefill.is_measured
    assert figures.token.is_measured


def test_a_short_prompt_tells_nothing_of_prompts() -> None:
    figures = Figures()
    answered(figures, size=9 * LEAST, prompt=LEAST - 1, computed=LEAST - 1)
    assert [figures.prefill.is_measured, figures.text.is_measured] == [False, False]
    answered(figures, size=9 * LEAST, prompt=LEAST, computed=LEAST)
    assert figures.prefill.is_measured
    assert figures.text.value == pytest.approx(9.0)


def test_a_prompt_that_is_short_beside_its_answer_tells_nothing_of_prompts() -> None:
    figures = Figures()
    seen = []
    for computed in (199, 200):
        answered(figures, computed=computed, completion=100)
        seen.append(figures.prefill.is_measured)
    assert seen == [False, True]


def test_an_answer_of_one_token_tells_nothing_of_tokens() -> None:
    figures = Figures()
    answered(figures, completion=1)
    assert not figures.token.is_measured


def test_a_prompt_without_text_tells_nothing_of_text() -> None:
    figures = Figures()
    answered(figures, size=0)
    assert not figures.text.is_measured


def test_nothing_computed_costs_nothing() -> None:
    assert Figures().computing(-5.0) == 0.0


def test_saving_costs_as_much_as_there_is_to_write() -> None:
    figures = Figures()
    assert figures.saving(10_000) == 0.0  # until it is known what a token takes
    figures.kv.observe(1000.0)
    figures.write.observe(1e-6)
    assert figures.saving(100) == pytest.approx(0.1)


def test_it_is_worth_saving_what_costs_four_times_as_much_to_compute_as_to_write_and_read() -> None:
    figures = Figures()
    assert figures.is_worth_saving(LEAST)
    assert not figures.is_worth_saving(LEAST - 1)
    figures.kv.observe(1000.0)
    figures.prefill.observe(0.01)
    figures.write.observe(1e-6)
    figures.read.observe(1.4e-6)
    assert figures.is_worth_saving(1000)
    figures.read.value = 1.6e-6
    assert not figures.is_worth_saving(1000)
