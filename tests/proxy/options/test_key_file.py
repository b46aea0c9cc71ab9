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
    assert key_file.read(path) == [(label, "sk")]


@pytest.mark.parametrize("key", ["team:sk", "a:b:c", ":sk", "sk:", "sk#x", "::"])
def test_a_colon_without_a_blank_belongs_to_the_key(path: Path, key: str) -> None:
    path.write_text(f"{key}\nme: {key}\n{key} # me")
    assert key_file.read(path) == [("", key), ("me", key), ("me", key)]


@pytest.mark.parametrize("comment", ["of the laptop", "", "é", "x" * 65, "a:b", "a, b"])
def test_a_comment_that_is_no_label_is_a_comment(path: Path, comment: str) -> None:
    path.write_text(f"# {comment}\nsk # {comment}\n")
    assert key_file.read(path) == [("", "sk")]


@pytest.mark.parametrize(
    "line", ["é: hunter2", "x" * 65 + ": hunter2", ": hunter2", "a b: hunter2", "a: hunter2 x", "a : hunter2"]
)
def test_a_line_with_a_label_that_is_none_is_refused_without_its_text(path: Path, line: str) -> None:
    path.write_text(f"sk\n{line}\n")
    with pytest.raises(ConfigurationError, match=r"^line 2 of --api-key-file .* is no key: it ") as caught:
        key_file.read(path)
    assert "hunter" not in str(caught.value)
