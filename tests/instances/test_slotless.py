import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.slotless import METHODS, NO_REQUESTS, Slotless, is_entry

paths = st.sampled_from(["/", "/a", "/ab", "/a/b", "/b"])
entries = st.builds("{}{}{}".format, st.sampled_from(["", *(f"{method} " for method in METHODS)]), paths,
                    st.sampled_from(["", "*"]))  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "method", "path", "beside"),
    [
        ("POST /tokenize", "POST", "/tokenize", True),
        ("POST /tokenize", "GET", "/tokenize", False),
        ("POST /tokenize", "POST", "/tokenize/x", False),
        ("POST /tokenize", "POST", "/v1/tokenize", False),
        ("/tokenize", "POST", "/tokenize", True),
        ("/tokenize", "DELETE", "/tokenize", True),
        ("/tokenize", "POST", "/tokenizer", False),
        ("GET /", "GET", "/", True),
        ("GET /", "HEAD", "/", True),
        ("GET /", "POST", "/", False),
        ("GET /", "GET", "/x", False),
        ("HEAD /", "GET", "/", False),
        ("GET /v1/models/*", "GET", "/v1/models/org/name", True),
        ("GET /v1/models/*", "GET", "/v1/models", False),
        ("GET /v1/models/*", "POST", "/v1/models/x", False),
        ("GET /*", "GET", "/whatever/there/is", True),
        ("GET /*", "POST", "/completion", False),
        ("GET /*", "OPTIONS", "*", False),
    ],
)
def test_an_entry_names_a_method_or_all_and_a_path_or_its_beginning(
    entry: str, method: str, path: str, *, beside: bool
) -> None:
    assert Slotless([entry]).has(method, path) is beside
    assert not NO_REQUESTS.has(method, path)


@given(st.lists(entries, max_size=4), st.lists(entries, max_size=4), st.sampled_from(METHODS), paths)
def test_two_together_are_what_either_is(one: list[str], other: list[str], method: str, path: str) -> None:
    both = Slotless(one) | Slotless(other)
    assert both.has(method, path) is (Slotless(one).has(method, path) or Slotless(other).has(method, path))
    assert both.entries == {*one, *other}


@given(entries)
def test_every_entry_of_this_form_is_allowed(entry: str) -> None:
    assert is_entry(entry)


@pytest.mark.parametrize(
    "entry", ["", "tokenize", "GET", "GET tokenize", "get /x", "GET  /x", "FETCH /x", "/a*b", "/a b", "/a\n"]
)
def test_what_is_no_entry_is_found_out(entry: str) -> None:
    assert not is_entry(entry)


def test_its_repr_tells_its_entries() -> None:
    assert repr(Slotless(["GET /b", "/a"])) == "Slotless(['/a', 'GET /b'])"


def test_paths_that_are_posted_are_told_where_they_are_all_there_is() -> None:
    assert Slotless(["POST /a", "/b", "GET /c"]).posted == frozenset({"/a", "/b"})
    assert Slotless(["GET /c*"]).posted == frozenset()
    assert Slotless(["POST /a", "/b*"]).posted is None
