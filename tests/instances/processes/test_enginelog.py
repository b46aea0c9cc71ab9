import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slotproxy.instances.processes.enginelog import LINES, LONGEST_LINE, EngineLog


@given(st.lists(st.binary(max_size=40)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_the_lines_do_not_depend_on_where_the_output_was_cut(tmp_path: Path, pieces: list[bytes]) -> None:
    cut: list[str] = []
    whole: list[str] = []
    for lines, parts in ((cut, pieces), (whole, [b"".join(pieces)])):
        log = EngineLog(tmp_path / "log", lines.append)
        for part in parts:
            log.feed(part)
        log.close()
    assert cut == whole


def test_a_line_without_its_end_is_told_when_the_output_ends(tmp_path: Path) -> None:
    lines: list[str] = []
    log = EngineLog(tmp_path / "log", lines.append)
    log.feed(b"one\nlast words")
    assert lines == ["one"]
    log.close()
    assert lines == ["one", "last words"]


def test_the_file_and_its_predecessor_stay_within_the_bound_and_are_private(tmp_path: Path) -> None:
    log = EngineLog(tmp_path / "log", lambda line: None, size=1000)
    for number in range(100):
        log.feed(b"%050d\n" % number)
    log.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["log", "log.1"]
    assert all(file.stat().st_size <= 1000 for file in files)
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    assert files[0].read_bytes().endswith(b"99\n")


def test_it_goes_on_after_the_file_of_an_earlier_process(tmp_path: Path) -> None:
    for word in (b"first\n", b"second\n"):
        log = EngineLog(tmp_path / "log", lambda line: None)
        log.feed(word)
        log.close()
    assert (tmp_path / "log").read_bytes() == b"first\nsecond\n"


def test_a_full_disk_stops_neither_the_engine_nor_the_reading_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "write", full)
    log = EngineLog(tmp_path / "log", lambda line: None)
    for number in range(3):
        log.feed(b"%d\n" % number)
    assert list(log.lines) == ["0", "1", "2"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_only_the_last_lines_are_kept_and_none_is_longer_than_the_bound(tmp_path: Path) -> None:
    log = EngineLog(tmp_path / "log", lambda line: None)
    log.feed(b"".join(b"%d\n" % number for number in range(LINES + 10)) + b"x" * (3 * LONGEST_LINE))
    assert len(log.lines) == LINES
    assert max(map(len, log.lines)) <= LONGEST_LINE
    log.close()
