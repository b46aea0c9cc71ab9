"""Rows of the table, and the settings that follow from them."""

from slotproxy.instances.profiles import llama_option as row


def test_of_two_opposites_one_sets_the_field_and_the_other_clears_it() -> None:
    yes, no = row.either("--x -x", "--no-x", "field", reverse=True)
    assert (yes.flags, no.flags) == (("--x", "-x"), ("--no-x",))
    assert [setting.value for option in (yes, no) for setting in option.settings("")] == [False, True]


def test_what_a_user_chose_of_the_sampling_is_marked() -> None:
    value, mark = row.sampling("--top-k", "top_k", int, "TOP_K").settings("9")
    assert (value.field, value.value, value.added) == ("sampling.top_k", 9, False)
    assert (mark.value.name, mark.added) == ("COMMON_PARAMS_SAMPLING_CONFIG_TOP_K", True)


def test_the_longer_repetition_window_decides_how_many_tokens_are_kept() -> None:
    kept = [{setting.field: setting.value for setting in row.repetition(text)} for text in ("8", "99")]
    assert [each["sampling.n_prev"] for each in kept] == [64, 99]
    assert [each["sampling.penalty_last_n"] for each in kept] == [8, 99]
