import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slotproxy.instances.processes import results
from slotproxy.instances.profiles.launch import Launch
from slotproxy.instances.readings import Total
from slotproxy.instances.scaling import calibration
from slotproxy.instances.scaling.calibration import Calibration, fingerprint
from slotproxy.instances.settings import MemoryLimit, SupplySettings
from tests.instances.conftest import stub_launch

RESULT = Calibration(
    instances=2,
    reason="no-gain",
    sentence="3 instances make as much as 2",
    metric="resident",
    cost=5,
    used=20,
    limit=80,
    rates=(1.0, 1.9),
    at=100.0,
)
TOTAL = Total(size=100, source="physical memory")


def settings(path: Path, **changes: Any) -> SupplySettings:
    return SupplySettings(model=path / "model.gguf", state_dir=path, **changes)


@pytest.fixture
def plan(gguf: Path) -> Launch:
    return stub_launch(gguf)


def test_a_result_is_found_again_under_its_fingerprint_only(tmp_path: Path) -> None:
    assert calibration.load(tmp_path, "a") is None
    calibration.keep(tmp_path, "a", RESULT)
    calibration.keep(tmp_path, "b", replaced(instances=1))
    assert calibration.load(tmp_path, "a") == RESULT
    assert calibration.load(tmp_path, "b") == replaced(instances=1)
    assert calibration.load(tmp_path, "c") is None


def test_an_editor_may_have_put_a_byte_order_mark_before_the_results(tmp_path: Path) -> None:
    calibration.keep(tmp_path, "a", RESULT)
    path = tmp_path / calibration.FILE
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert calibration.load(tmp_path, "a") == RESULT


def replaced(**changes: Any) -> Calibration:
    return Calibration(**({name: getattr(RESULT, name) for name in RESULT.__struct_fields__} | changes))


def test_only_the_newest_results_are_kept(tmp_path: Path) -> None:
    for number in range(results.KEPT + 1):
        calibration.keep(tmp_path, str(number), replaced(at=float(number)))
    assert calibration.load(tmp_path, "0") is None
    assert calibration.load(tmp_path, "1") is not None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": {"instances": "two"}}'])
def test_a_file_that_is_broken_or_of_another_version_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / calibration.FILE).write_bytes(content)
    assert calibration.load(tmp_path, "a") is None
    calibration.keep(tmp_path, "a", RESULT)
    assert calibration.load(tmp_path, "a") == RESULT


def test_a_directory_that_cannot_be_written_is_only_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calibration.keep(tmp_path / "missing", "a", RESULT)
    assert "the next start will measure again" in caplog.text


def test_equal_circumstances_have_the_equal_fingerprint(plan: Launch, tmp_path: Path) -> None:
    assert fingerprint(plan, settings(tmp_path), TOTAL) == fingerprint(replace(plan), settings(tmp_path), TOTAL)


@pytest.mark.parametrize(
    "changes",
    [
        {"memory_limit": MemoryLimit(percent=70)},
        {"memory_metric": "resident"},
        {"max_instances": 3},
        {"min_gain": 0.2},
    ],
)
def test_other_rules_are_another_fingerprint(plan: Launch, tmp_path: Path, changes: dict[str, Any]) -> None:
    assert fingerprint(plan, settings(tmp_path), TOTAL) != fingerprint(plan, settings(tmp_path, **changes), TOTAL)


def test_another_context_argument_engine_or_machine_is_another_fingerprint(plan: Launch, tmp_path: Path) -> None:
    options = settings(tmp_path)
    same = fingerprint(plan, options, TOTAL)
    others = [
        fingerprint(replace(plan, ctx=8192), options, TOTAL),
        fingerprint(replace(plan, extra_args=("--quality",)), options, TOTAL),
        fingerprint(replace(plan, program=("/bin/true",)), options, TOTAL),
        fingerprint(plan, options, Total(size=200, source="physical memory")),
    ]
    assert same not in others


def test_a_model_file_that_was_replaced_is_another_fingerprint(plan: Launch, tmp_path: Path) -> None:
    before = fingerprint(plan, settings(tmp_path), TOTAL)
    os.utime(plan.model, (1, 1))
    assert fingerprint(plan, settings(tmp_path), TOTAL) != before


def test_a_limit_that_comes_to_the_same_bytes_is_the_same(plan: Launch, tmp_path: Path) -> None:
    percent, size = MemoryLimit(percent=80), MemoryLimit(size=80)
    one, other = (fingerprint(plan, settings(tmp_path, memory_limit=limit), TOTAL) for limit in (percent, size))
    assert one == other
