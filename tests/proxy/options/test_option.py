"""One option: how its tokens become a value, and how it is shown in the table."""

from dataclasses import dataclass
from typing import Annotated

import pytest
from cyclopts import Token

from slotproxy.instances.errors import ConfigurationError
from slotproxy.proxy.options.option import Option, option, options, quoted, table
from slotproxy.proxy.options.values import TEXT, choice, number


def tokens(*values: str) -> list[Token]:
    return [Token(keyword="--it", value=value) for value in values]


def test_the_last_of_several_values_counts_where_one_is_wanted() -> None:
    assert Option(kind=number(0), help="")(int, tokens("1", "2")) == 2


def test_all_values_count_where_several_are_wanted() -> None:
    assert Option(kind=number(0), help="", many=True)(tuple, tokens("1", "2")) == (1, 2)


def test_a_refusal_names_the_option_the_value_and_what_is_allowed() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Option(kind=choice(["a", "b"]), help="")(str, tokens("c"))
    assert str(caught.value) == "--it is 'c', but must be one of a, b"


def test_an_empty_value_is_refused() -> None:
    for value in ("", "  "):
        with pytest.raises(ConfigurationError, match=r"^--it is empty"):
            Option(kind=TEXT, help="")(str, tokens(value))


def test_an_engine_may_be_given_an_empty_argument() -> None:
    assert Option(kind=TEXT, help="", many=True, tail=True)(tuple, tokens("-p", "")) == ("-p", "")


def test_a_secret_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Option(kind=choice(["a"]), help="", secret=True)(str, tokens("hunter2"))
    assert str(caught.value) == "--it must be one of a"


def test_a_long_value_is_shortened_in_a_sentence() -> None:
    assert len(quoted("x" * 10_000)) < 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    first_one: Annotated[int, option(number(1, metavar="A|B"), "One.")] = 3
    second: Annotated[tuple[str, ...], option(TEXT, "Two.", unset="none", many=True)] = ()


def test_the_options_of_a_class_are_its_fields() -> None:
    assert [(name, found.help, value) for name, found, value in options(Sample)] == [
        ("first-one", "One.", 3),
        ("second", "Two.", ()),
    ]


def test_the_table_has_a_row_for_each_option() -> None:
    assert table(Sample).splitlines() == [
        "| option | default | meaning |",
        "|---|---|---|",
        "| `--first-one A\\|B` | `3` | One. |",
        "| `--second TEXT` | none | Two. Repeatable. |",
    ]
