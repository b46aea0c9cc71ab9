"""The folder of saved conversations, on a real file system."""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from slotproxy.instances.conversations import disk
from slotproxy.instances.conversations.disk import Trouble
from slotproxy.instances.conversations.files import MANIFEST, Folder, Settled
from slotproxy.instances.conversations.store import Saved, default_limit
from slotproxy.instances.slots.claim import Prefix
from tests.instances.conversations.conftest import mounted

TEXT = b"keys and values"
BIG = (1 << 64) - 1


async def saved(folder: Folder, text: bytes = TEXT) -> Saved:
    draft = folder.draft()
    (folder.path / draft).write_bytes(text)
    settled = await folder.settle(draft, len(text))
    assert isinstance(settled, Settled)
    prefix = Prefix(numbers=(1, BIG), ends=(5, 9), turn_numbers=(7,), turn_ends=(4,))
    return Saved(name=settled.name, principal="key 1", prefix=prefix, tokens=3, build="b", stamp=settled.stamp)


def names(folder: Folder) -> set[str]:
    return {path.name for path in folder.path.iterdir()}


def refused(*args: object, **more: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


async def test_the_folder_and_what_is_in_it_are_for_nobody_else(folder: Folder) -> None:
    folder.path.chmod(0o755)
    await folder.open(keep=False)
    old_mask = os.umask(0)
    try:
        one = await saved(folder)
        await folder.close([one])
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.path.iterdir()] == [0o600, 0o600]


async def test_a_draft_that_is_whole_gets_a_name_that_nobody_has(folder: Folder) -> None:
    one, other = await saved(folder), await saved(folder)
    assert names(folder) == {one.name, other.name}
    assert one.size == len(TEXT)
    assert await folder.intact(one)


@pytest.mark.parametrize("written", [len(TEXT) + 1, len(TEXT) - 1, 0])
async def test_a_draft_that_is_not_what_the_engine_wrote_is_deleted(folder: Folder, written: int) -> None:
    draft = folder.draft()
    (folder.path / draft).write_bytes(TEXT)
    assert isinstance(await folder.settle(draft, written), Trouble)
    assert names(folder) == set()


async def test_an_empty_file_is_no_saved_conversation(folder: Folder) -> None:
    draft = folder.draft()
    (folder.path / draft).touch()
    assert isinstance(await folder.settle(draft, 0), Trouble)
    assert names(folder) == set()


async def test_a_draft_that_the_engine_did_not_write_is_told(folder: Folder) -> None:
    trouble = await folder.settle(folder.draft(), 5)
    assert trouble == Trouble(sentence="a saved conversation is not used: the engine wrote no file")


async def test_a_link_in_place_of_a_draft_is_not_followed(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(TEXT)
    draft = folder.draft()
    (folder.path / draft).symlink_to(tmp_path / "elsewhere")
    assert isinstance(await folder.settle(draft, len(TEXT)), Trouble)
    assert names(folder) == set()
    assert (tmp_path / "elsewhere").read_bytes() == TEXT


def truncate(path: Path) -> None:
    os.truncate(path, len(TEXT) - 1)


def write_again(path: Path) -> None:
    path.write_bytes(TEXT.upper())
    os.utime(path, ns=(1, 1))


def replace_by_another(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(TEXT)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)


def replace_by_a_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


@pytest.mark.parametrize("harm", [truncate, write_again, replace_by_another, replace_by_a_link, Path.unlink])
async def test_a_file_that_is_not_as_it_was_saved_is_not_used_and_is_deleted(folder: Folder, harm: object) -> None:
    one, other = await saved(folder), await saved(folder)
    assert callable(harm)
    harm(folder.path / one.name)
    assert not await folder.intact(one)
    assert names(folder) == {other.name}
    assert await folder.intact(other)


async def test_a_file_that_cannot_be_looked_at_is_not_used(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await saved(folder)
    monkeypatch.setattr(Path, "lstat", refused)
    assert not await folder.intact(one)


async def test_deleting_what_is_gone_is_no_error_and_what_cannot_be_deleted_is_said(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = await saved(folder)
    await folder.delete([one.name, one.name])
    assert (names(folder), caplog.text) == (set(), "")
    monkeypatch.setattr(Path, "unlink", refused)
    await folder.delete([one.name])
    assert "cannot be deleted: Permission denied" in caplog.text


async def test_at_the_start_only_files_that_look_like_ours_are_removed(folder: Folder, tmp_path: Path) -> None:
    await saved(folder)
    (folder.path / folder.draft()).write_bytes(b"cut off")
    (folder.path / f"{MANIFEST}.new").write_bytes(b"{")
    (folder.path / "notes.txt").touch()
    (folder.path / f"{'a' * 32}.kv").mkdir()
    (tmp_path / "elsewhere").write_bytes(TEXT)
    (folder.path / f"{'b' * 32}.kv").symlink_to(tmp_path / "elsewhere")
    assert await folder.open(keep=False) == ()
    assert names(folder) == {"notes.txt", f"{'a' * 32}.kv", f"{'b' * 32}.kv"}
    assert (tmp_path / "elsewhere").exists()


async def test_at_a_stop_nothing_is_left(folder: Folder) -> None:
    await saved(folder)
    (folder.path / folder.draft()).touch()
    assert await folder.close() is None
    assert names(folder) == set()


async def test_what_is_kept_is_there_at_the_next_start_in_the_same_order(folder: Folder) -> None:
    one, other, left_out = [await saved(folder, text) for text in (b"one", b"other", b"third")]
    assert await folder.close([other, one]) is None
    assert names(folder) == {one.name, other.name, MANIFEST}
    assert await Folder(folder.path).open(keep=True) == (other, one)
    assert left_out.name not in names(folder)


async def test_what_was_kept_survives_a_proxy_that_was_killed(folder: Folder) -> None:
    one = await saved(folder)
    await folder.close([one])
    await folder.open(keep=True)
    assert await folder.open(keep=True) == (one,)


async def test_a_start_that_is_not_to_keep_them_removes_kept_ones(folder: Folder) -> None:
    await folder.close([await saved(folder)])
    assert await folder.open(keep=False) == ()
    assert names(folder) == set()


async def test_of_kept_ones_those_are_taken_over_that_are_as_they_were(folder: Folder) -> None:
    one, other = await saved(folder), await saved(folder)
    await folder.close([one, other])
    truncate(folder.path / one.name)
    assert await folder.open(keep=True) == (other,)
    assert names(folder) == {other.name, MANIFEST}


async def test_a_file_that_was_harmed_before_the_stop_is_not_kept(folder: Folder) -> None:
    one, other = await saved(folder), await saved(folder)
    write_again(folder.path / one.name)
    assert await folder.close([one, other]) is None
    assert names(folder) == {other.name, MANIFEST}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 1, "saved": [{"name": 5}]}', None])
async def test_without_a_manifest_that_can_be_read_nothing_is_taken_over(folder: Folder, content: bytes | None) -> None:
    await folder.close([await saved(folder)])
    manifest = folder.path / MANIFEST
    manifest.write_bytes(manifest.read_bytes().replace(b'"version":1', b'"version":2') if content is None else content)
    assert await folder.open(keep=True) == ()
    assert names(folder) == set()


async def test_a_manifest_names_no_file_outside_the_folder(folder: Folder, tmp_path: Path) -> None:
    one = await saved(folder)
    (folder.path / one.name).rename(tmp_path / "elsewhere")
    outside = replace(one, name="../elsewhere")
    assert await folder.close([outside]) is None
    assert await folder.open(keep=True) == ()
    assert (tmp_path / "elsewhere").exists()


async def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "kv-store").touch()
    trouble = await Folder(tmp_path / "kv-store").open(keep=True)
    assert isinstance(trouble, Trouble)
    assert "cannot be used: File exists" in trouble.sentence


async def test_what_cannot_be_written_down_is_not_kept(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await saved(folder)
    monkeypatch.setattr(os, "fsync", refused)
    trouble = await folder.close([one])
    assert isinstance(trouble, Trouble)
    assert "cannot be kept: Permission denied" in trouble.sentence
    assert names(folder) == set()


async def test_a_draft_that_cannot_be_renamed_is_told_and_deleted(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = folder.draft()
    (folder.path / draft).write_bytes(TEXT)
    monkeypatch.setattr(Path, "rename", refused)
    assert await folder.settle(draft, len(TEXT)) == Trouble(
        sentence="a saved conversation is not used: Permission denied"
    )
    assert names(folder) == set()


async def test_after_a_failed_save_the_draft_is_gone_and_a_disk_with_room_is_not_called_full(folder: Folder) -> None:
    draft = folder.draft()
    (folder.path / draft).write_bytes(b"half")
    assert await folder.drop(draft) == Trouble(sentence="the engine could not write its file")
    assert names(folder) == set()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk") as path:
        yield path


async def test_a_full_disk_is_known_by_what_a_failed_save_has_left(small_disk: Path) -> None:
    folder = Folder(small_disk / "kv-store")
    await folder.open(keep=False)
    draft = folder.draft()
    with pytest.raises(OSError, match="No space"):
        (folder.path / draft).write_bytes(bytes(3 << 20))
    trouble = await folder.drop(draft)
    assert trouble == Trouble(sentence=f"the disk of {folder.path} is full", full=True)
    assert names(folder) == set()


async def test_a_folder_in_memory_is_said_to_count_as_memory(small_disk: Path, tmp_path: Path) -> None:
    note = await Folder(small_disk).memory_note(1 << 30)
    assert note == f"{small_disk} is in memory (tmpfs): saved conversations, at most 1.0 GiB, count as memory in use"


async def test_a_folder_on_a_disk_does_not_count_as_memory(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "kind_in_memory", lambda path: None)
    assert await folder.memory_note(1) is None


async def test_the_limit_is_what_the_user_says_or_a_share_of_what_is_free_without_the_saved_ones(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await folder.limit(5) == 5
    assert await folder.limit(0) == 0
    monkeypatch.setattr(disk, "free", lambda path: 900)
    assert await folder.limit(None, saved=100) == default_limit(1000) == 100
    monkeypatch.setattr(disk, "free", lambda path: None)
    assert await folder.limit(None) == 0
