from pathlib import Path

import msgspec
import pytest

from slotproxy.instances.processes import results
from slotproxy.instances.processes.results import KEPT


class Found(msgspec.Struct, frozen=True):
    at: float


KIND = dict[str, Found]


def keep(path: Path, key: str, at: float = 1.0) -> None:
    results.keep(path, KIND, key, Found(at), otherwise="so what")


def test_a_result_is_found_again_and_a_new_one_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    assert results.read(path, KIND) == {}
    keep(path, "a", 1.0)
    keep(path, "b", 2.0)
    keep(path, "a", 3.0)
    assert results.read(path, KIND) == {"b": Found(2.0), "a": Found(3.0)}


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for number in range(KEPT + 1):
        keep(tmp_path / "found.json", str(number), -float(number))
    assert "0" in results.read(tmp_path / "found.json", KIND)
    assert str(KEPT - 1) in results.read(tmp_path / "found.json", KIND)
    assert str(KEPT) not in results.read(tmp_path / "found.json", KIND)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": {"at": "now"}}'])
def test_a_file_that_is_broken_or_of_another_version_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "found.json").write_bytes(content)
    assert results.read(tmp_path / "found.json", KIND) == {}


def test_an_editor_may_have_put_a_byte_order_mark_before_them(tmp_path: Path) -> None:
    (tmp_path / "found.json").write_bytes(b'\xef\xbb\xbf{"a": {"at": 1}}')
    assert results.read(tmp_path / "found.json", KIND) == {"a": Found(1.0)}


def test_a_directory_that_cannot_be_written_is_only_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(tmp_path / "missing" / "found.json", "a")
    assert "cannot be written (No such file or directory): so what" in caplog.text
