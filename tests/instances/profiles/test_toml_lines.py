import pytest

from slotproxy.instances.profiles.toml_lines import line_of

TEXT = """name = "x"
warm-up.body = { a = 1 }

[stop] # how it ends
term = 1

[[fatal]]
pattern = "a"

[[fatal]]
"pattern" = "b"
args = [
    "--port", "{prot}",
]
"""


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("name",), 1),
        (("warm-up", "body"), 2),
        (("warm-up", "body", "a"), 2),
        (("stop",), 4),
        (("stop", "term"), 5),
        (("stop", "trem"), 4),
        (("fatal", 0, "pattern"), 8),
        (("fatal", 1, "pattern"), 11),
        (("fatal", 1, "kind"), 10),
        (("{prot}",), 13),
        (("{other}",), None),
        (("elsewhere",), None),
        ((), None),
    ],
)
def test_a_key_is_found_or_else_what_contains_it(keys: tuple[str | int, ...], line: int | None) -> None:
    assert line_of(TEXT, keys) == line
