import asyncio
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from slotproxy.instances.processes import records
from slotproxy.instances.processes.records import FILE, Record
from tests.instances.conftest import SOON

SLEEP = (sys.executable, "-c", "import time; print(flush=True); time.sleep(60)")
DEAF = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)",
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "instances" / "0"
    directory.mkdir(parents=True)
    return directory


def leftover(place: Path, command: tuple[str, ...] = SLEEP) -> "subprocess.Popen[bytes]":
    child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()  # before that it may not have become the command it is told to be
    records.write(place, pid=child.pid, port=1, command=command)
    return child


def change(place: Path, **changes: object) -> None:
    record = msgspec.json.decode((place / FILE).read_bytes(), type=Record)
    (place / FILE).write_bytes(msgspec.json.encode(msgspec.structs.replace(record, **changes)))


def ended(child: "subprocess.Popen[bytes]") -> bool:
    """Whether it was ended; if not, end it now."""
    try:
        child.wait(0.2)
    except subprocess.TimeoutExpired:
        return False
    finally:
        child.kill()
        child.communicate()
    return True


async def test_a_leftover_is_ended_and_forgotten(place: Path) -> None:
    child = leftover(place)
    await records.end_leftovers(place.parent)
    assert ended(child)
    assert not (place / FILE).exists()


async def test_a_leftover_that_does_not_listen_is_killed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "PATIENCE", 0.2)
    child = leftover(place, DEAF)
    await records.end_leftovers(place.parent)
    assert ended(child)


@pytest.mark.parametrize("change_to", [{"started": 1.0}, {"command": ("engine", "--port", "1")}])
async def test_a_process_that_is_not_the_recorded_one_is_left_alone(place: Path, change_to: dict[str, object]) -> None:
    child = leftover(place)
    change(place, **change_to)
    await records.end_leftovers(place.parent)
    assert not ended(child)
    assert not (place / FILE).exists()


async def test_a_script_is_recognised_behind_its_interpreter(place: Path, tmp_path: Path) -> None:
    script = tmp_path / "engine"
    script.write_text(f"#!{sys.executable}\nimport time\nprint(flush=True)\ntime.sleep(60)\n")
    script.chmod(0o755)
    child = leftover(place, (str(script), "--port", "7"))
    assert psutil.Process(child.pid).cmdline()[0] == sys.executable
    await records.end_leftovers(place.parent)
    assert ended(child)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}'])
async def test_a_record_that_is_no_record_is_forgotten(place: Path, content: bytes) -> None:
    (place / FILE).write_bytes(content)
    async with asyncio.timeout(SOON):
        await records.end_leftovers(place.parent)
    assert not (place / FILE).exists()


def test_a_record_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records.write(tmp_path / "nowhere", pid=os.getpid(), port=1, command=("x",))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
