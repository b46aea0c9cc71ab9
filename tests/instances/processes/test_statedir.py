import stat
from pathlib import Path

import pytest

from slotproxy.instances.errors import ConfigurationError, StartupError
from slotproxy.instances.processes.statedir import StateDir


async def test_a_second_proxy_is_told_who_uses_the_directory(tmp_path: Path) -> None:
    first = StateDir(tmp_path / "state")
    await first.occupy()
    with pytest.raises(
        StartupError, match=r"already used by process \d+ \(.*\); stop it or choose another --state-dir"
    ):
        await StateDir(tmp_path / "state").occupy()
    first.leave()
    again = StateDir(tmp_path / "state")
    await again.occupy()
    again.leave()


async def test_only_its_owner_can_look_into_it(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    state_dir = StateDir(tmp_path / "state")
    await state_dir.occupy()
    state_dir.leave()
    for directory in (tmp_path / "state", tmp_path / "state" / "instances"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_a_place_that_cannot_be_a_directory_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"cannot be used .*; choose another --state-dir"):
        await StateDir(tmp_path / "file").occupy()


def test_engines_get_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert StateDir(Path("state")).instance(3) == tmp_path / "state" / "instances" / "3"
