import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from slotproxy.instances.conversations.hard_links import Linked, OwnFolders, link_missing

NAME, OTHER = f"{'a' * 40}.kv", f"{'b' * 40}.kv"
Folders = tuple[Path, Path]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    source, target = tmp_path / "0", tmp_path / "1"
    source.mkdir()
    target.mkdir()
    (source / NAME).write_bytes(b"one")
    (source / OTHER).write_bytes(b"other")
    return source, target


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def without_links(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)


def test_files_of_one_folder_are_links_in_the_other(folders: Folders) -> None:
    source, target = folders
    assert link_missing(source, target) == Linked(names=(NAME, OTHER))
    assert (target / NAME).samefile(source / NAME)


def test_nothing_is_overwritten(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = folders
    (target / NAME).write_bytes(b"its own")
    assert link_missing(source, target) == Linked(names=(OTHER,))
    (target / OTHER).unlink()
    without_links(errno.EXDEV, monkeypatch)
    assert link_missing(source, target) == Linked(names=(OTHER,))
    assert (target / NAME).read_bytes() == b"its own"


def test_what_is_being_written_and_what_is_no_kv_file_is_left_out(folders: Folders) -> None:
    source, target = folders
    for name in (f".tmp.{'1' * 5}", f".tmp.{NAME}", "notes.txt", f"{'a' * 39}.kv", f"{NAME}.bak"):
        (source / name).write_bytes(b"x")
    (source / f"{'c' * 40}.kv").symlink_to(source / NAME)
    (source / f"{'d' * 40}.kv").mkdir()
    assert link_missing(source, target).names == (NAME, OTHER)


def test_across_disks_it_is_a_private_copy(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = folders
    without_links(errno.EXDEV, monkeypatch)
    assert link_missing(source, target) == Linked(names=(NAME, OTHER))
    assert names(target) == [NAME, OTHER]
    assert (target / OTHER).read_bytes() == b"other"
    assert not (target / OTHER).samefile(source / OTHER)
    assert stat.S_IMODE((target / OTHER).stat().st_mode) == 0o600


def test_a_copy_that_fails_leaves_nothing(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = folders
    without_links(errno.EXDEV, monkeypatch)

    def full(file: object, copy: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    linked = link_missing(source, target)
    assert linked.names == ()
    assert linked.trouble is not None
    assert linked.trouble.full
    assert names(target) == []


@pytest.mark.parametrize("missing", [0, 1])
def test_a_folder_that_is_not_there_is_told(folders: Folders, missing: int) -> None:
    source, target = (path.with_name("none") if which == missing else path for which, path in enumerate(folders))
    linked = link_missing(source, target)
    assert linked.names == ()
    assert linked.trouble is not None
    assert "No such file or directory" in linked.trouble.sentence


def test_what_its_engine_deletes_meanwhile_is_left_out(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = folders
    link = os.link

    def deleted_before(path: Path, other: Path, **more: bool) -> None:
        if path.name == NAME:
            path.unlink()
        link(path, other, **more)

    monkeypatch.setattr(os, "link", deleted_before)
    assert link_missing(source, target) == Linked(names=(OTHER,))


def test_other_trouble_ends_it_and_says_what_was_done(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = folders
    link = os.link

    def broken_at_the_second(path: Path, other: Path, **more: bool) -> None:
        if path.name == OTHER:
            raise OSError(errno.EIO, "Input/output error")
        link(path, other, **more)

    monkeypatch.setattr(os, "link", broken_at_the_second)
    linked = link_missing(source, target)
    assert linked.names == (NAME,)
    assert linked.trouble is not None
    assert linked.trouble.sentence.endswith("Input/output error")


async def test_an_engine_that_begins_finds_what_all_others_have_written(tmp_path: Path) -> None:
    folders = OwnFolders()
    for name in "012":
        (tmp_path / name).mkdir()
    (tmp_path / "0" / NAME).write_bytes(b"kv")
    for name in "01":
        await folders.join(name, tmp_path / name)
    assert (tmp_path / "1" / NAME).read_bytes() == b"kv"
    (tmp_path / "1" / OTHER).write_bytes(b"more")
    assert not (tmp_path / "0" / OTHER).exists()
    await folders.gather("0")
    assert (tmp_path / "0" / OTHER).read_bytes() == b"more"
    assert "1" in folders
    assert "2" not in folders


async def test_what_cannot_be_linked_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = OwnFolders()
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / NAME).write_bytes(b"kv")
    await folders.join("0", tmp_path / "0")
    for _ in range(2):
        await folders.join("1", tmp_path / "nowhere")
    assert len(caplog.records) == 1
