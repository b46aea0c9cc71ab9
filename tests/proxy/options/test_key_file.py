from pathlib import Path

import pytest

from slotproxy.instances.errors import ConfigurationError
from slotproxy.proxy.options import key_file

LABELS = ["a", "Team.7_x-", "x" * 64]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("line", ["{}: sk", "  {}:\t sk \r", "{}: sk # not this", "sk # {}", "sk\t#{}", "sk # {} \r"])
def test_a_label_stands_before_a_colon_and_a_blank_or_is_the_comment(path: Path, label: str, line: str) -> None:
    path.write_bytes(f"{line.format(label)}\n".encode())
    assert key_file.read(path) == [(label, "sk", 1.0)]


@pytest.mark.parametrize("key", ["team:sk", "a:b:c", ":sk", "sk:", "sk#x", "::"])
def test_a_colon_without_a_blank_belongs_to_the_key(path: Path, key: str) -> None:
    path.write_text(f"{key}\nme: {key}\n{key} # me")
    assert key_file.read(path) == [("", key, 1.0), ("me", key, 1.0), ("me", key, 1.0)]


@pytest.mark.parametrize("comment", ["of the laptop", "", "é", "x" * 65, "a:b", "a, b"])
def test_a_comment_that_is_no_label_is_a_comment(path: Path, comment: str) -> None:
    path.write_text(f"# {comment}\nsk # {comment}\n")
    assert key_file.read(path) == [("", "sk", 1.0)]


@pytest.mark.parametrize(
    "line", ["é: hunter2", "x" * 65 + ": hunter2", ": hunter2", "a b: hunter2", "a: hunter2 x", "a : hunter2"]
)
def test_a_line_with_a_label_that_is_none_is_refused_without_its_text(path: Path, line: str) -> None:
    path.write_text(f"sk\n{line}\n")
    with pytest.raises(ConfigurationError, match=r"^line 2 of --api-key-file .* is no key: it ") as caught:
        key_file.read(path)
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "label", "weight"),
    [
        ("me: sk # weight=2", "me", 2.0),
        ("sk # me weight=0.25", "me", 0.25),
        ("sk # weight=3 me", "me", 3.0),
        ("sk # weight=10", "", 10.0),
        ("sk # two words weight=2", "", 2.0),
        ("sk # weight2", "weight2", 1.0),
    ],
)
def test_a_weight_stands_in_the_comment(path: Path, line: str, label: str, weight: float) -> None:
    path.write_text(line)
    assert key_file.read(path) == [(label, "sk", weight)]


@pytest.mark.parametrize("comment", ["weight=0", "weight=0.0", "weight=1 weight=2"])
def test_a_weight_that_is_none_is_refused(path: Path, comment: str) -> None:
    path.write_text(f"hunter2 # {comment}\n")
    with pytest.raises(ConfigurationError, match="has a weight that is not one number above 0") as caught:
        key_file.read(path)
    assert "hunter" not in str(caught.value)
