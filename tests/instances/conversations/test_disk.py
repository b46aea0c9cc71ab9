import errno
import os
from pathlib import Path

import pytest

from slotproxy.instances.conversations import disk
from slotproxy.instances.conversations.disk import Trouble

MOUNTS = """\
24 30 0:22 / /proc rw,nosuid shared:5 - proc proc rw
30 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
31 30 0:26 / /run/user/1000 rw,nosuid - tmpfs tmpfs rw,size=100k
32 30 8:16 / /mnt/a\\040b rw shared:7 master:1 - xfs /dev/sdb rw
nonsense
"""


@pytest.mark.parametrize(
    ("device", "kind"),
    [((0, 26), "tmpfs"), ((259, 2), "ext4"), ((8, 16), "xfs"), ((8, 17), None), ((2, 6), None)],
)
def test_the_file_system_of_a_device_is_found_among_the_mounts(device: tuple[int, int], kind: str | None) -> None:
    assert disk.file_system(MOUNTS, os.makedev(*device)) == kind


@pytest.mark.parametrize(("kind", "found"), [("tmpfs", "tmpfs"), ("ramfs", "ramfs"), ("ext4", None)])
def test_only_some_file_systems_are_in_memory(
    kind: str, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"30 1 {os.major(device)}:{os.minor(device)} / / rw - {kind} none rw\n")
    monkeypatch.setattr(disk, "MOUNTS", mounts)
    assert disk.kind_in_memory(tmp_path) == found


def test_where_no_mounts_are_listed_nothing_is_said_to_be_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "MOUNTS", tmp_path / "none")
    assert disk.kind_in_memory(tmp_path) is None


def test_only_a_regular_file_of_our_own_has_a_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"abc")
    link.symlink_to(file)
    found = disk.stamp(file)
    assert found is not None
    assert (found.size, found.inode) == (3, file.stat().st_ino)
    assert [disk.stamp(path) for path in (link, tmp_path, tmp_path / "none")] == [None] * 3
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    assert disk.stamp(file) is None


@pytest.mark.parametrize(
    ("number", "full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False), (errno.EACCES, False)]
)
def test_a_full_disk_is_told_from_other_trouble(number: int, full: bool) -> None:
    assert disk.trouble("it failed", OSError(number, "so")) == Trouble(sentence="it failed: so", full=full)


def test_free_space_is_not_known_where_nothing_is(tmp_path: Path) -> None:
    assert disk.free(tmp_path / "none") is None
    assert (disk.free(tmp_path) or 0) > 0
