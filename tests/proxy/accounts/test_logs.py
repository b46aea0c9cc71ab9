"""What stands in the log, and that nothing about it can stop the proxy."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from slotproxy.proxy.accounts import logs
from slotproxy.proxy.accounts.meter import Usage
from slotproxy.proxy.accounts.outcome import Outcome

logger = logging.getLogger("slotproxy.proxy.sample")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    names = ("", "asyncio", "aiohttp")
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = list(logging.getLogger().handlers)
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger().handlers[:] = handlers
    logs.catch_up()  # of lines that could not be written: the next test shall not hear of them


def lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return capfd.readouterr().err.splitlines()


def objects(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(capfd)]


def outcome(**more: Any) -> Outcome:
    made = Outcome("r-1", "POST", "127.0.0.1", 10.0, "/v1/chat/completions")
    for name, value in ({"finished": 11.25, "status": 200} | more).items():
        setattr(made, name, value)
    return made


def test_a_text_line_is_time_and_message_and_names_unusual_levels(capfd: pytest.CaptureFixture[str]) -> None:
    logs.set_up("text", "info")
    logger.info("instance %d: starting -> warming", 0)
    logger.warning("it is late")
    first, second = lines(capfd)
    datetime.strptime(first[:8], "%H:%M:%S")
    assert first[8:] == " instance 0: starting -> warming"
    assert second[8:] == " warning: it is late"


def test_a_json_line_has_time_level_logger_message_and_what_came_with_it(capfd: pytest.CaptureFixture[str]) -> None:
    logs.set_up("json", "info")
    logger.warning("it is %s", "late", extra={"instance": "0", "cause": ValueError("x")})
    (line,) = objects(capfd)
    moment = datetime.fromisoformat(line.pop("ts").removesuffix("Z") + "+00:00")
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 60
    assert line == {
        "level": "warning",
        "logger": "slotproxy.proxy.sample",
        "message": "it is late",
        "instance": "0",
        "cause": "x",
    }


def test_lines_under_the_level_are_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    logs.set_up("text", "warning")
    logger.info("no")
    logger.warning("yes")
    assert [line[8:] for line in lines(capfd)] == [" warning: yes"]


def test_setting_up_again_replaces_and_does_not_double(capfd: pytest.CaptureFixture[str]) -> None:
    logs.set_up("text", "info")
    logs.set_up("json", "info")
    logger.info("once")
    assert [line["message"] for line in objects(capfd)] == ["once"]


def test_libraries_are_heard_from_warnings_on_only(capfd: pytest.CaptureFixture[str]) -> None:
    logs.set_up("text", "debug")
    logging.getLogger("asyncio").info("using a selector")
    logging.getLogger("aiohttp.access").info("GET /")
    logging.getLogger("aiohttp.server").warning("odd")
    assert [line[8:] for line in lines(capfd)] == [" warning: odd"]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_traceback_is_shown_at_level_debug_only(log_format: str, capfd: pytest.CaptureFixture[str]) -> None:
    for level, shown in (("info", False), ("debug", True)):
        logs.set_up(log_format, level)
        try:
            raise ValueError("the cause")
        except ValueError:
            logger.exception("it went wrong")
        text = capfd.readouterr().err
        assert "it went wrong" in text
        assert "ValueError: the cause" in text
        assert ("Traceback" in text) is shown
        assert len(text.splitlines()) == 1 or (shown and log_format == "text")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_message_stays_on_its_line_and_cannot_steer_the_terminal(
    log_format: str, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.set_up(log_format, "info")
    logger.info("client said %s", "a\n12:00:00 all is well\x1b[2J\x9b\udcff")
    (line,) = lines(capfd)
    assert line.isprintable()


def test_a_wrong_call_is_told_without_a_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    handler = logs.StderrHandler()
    handler.setFormatter(logs.TextFormatter(tracebacks=True))
    handler.handle(logger.makeRecord(logger.name, logging.INFO, "/src/sample.py", 7, "%d instances", ("two",), None))
    (line,) = lines(capfd)
    assert "/src/sample.py:7" in line
    assert "cannot be formatted" in line


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk_does_not_stop_the_proxy() -> None:
    kept = os.dup(logs.STDERR)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        os.dup2(full, logs.STDERR)
        logs.write_line("x")
    finally:
        os.dup2(kept, logs.STDERR)
        os.close(kept)
        os.close(full)


def test_a_reader_that_went_away_does_not_stop_the_proxy() -> None:
    kept = os.dup(logs.STDERR)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        os.dup2(writer, logs.STDERR)
        logs.write_line("x")
    finally:
        os.dup2(kept, logs.STDERR)
        os.close(kept)
        os.close(writer)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_how_many_lines_were_dropped_is_told_in_the_form_of_the_others(log_format: str) -> None:
    kept = os.dup(logs.STDERR)
    reader, writer = os.pipe()
    try:
        os.dup2(writer, logs.STDERR)
        logs.set_up(log_format, "info")
        for number in range(5000):
            logger.info("line %d, and nobody reads it", number)
        data = os.read(reader, 1 << 20)
        while b"line 4999" not in data:
            logs.catch_up()
            data += os.read(reader, 1 << 20)
    finally:
        os.dup2(kept, logs.STDERR)
        logs.set_up("text", "info")
        for descriptor in (kept, reader, writer):
            os.close(descriptor)
    (line,) = [line for line in data.decode().splitlines() if "dropped" in line]
    if log_format == "json":
        assert json.loads(line)["level"] == "warning"
    else:
        assert line[8:].startswith(" warning: log lines dropped because they could not be written: ")


def test_a_closed_stderr_is_left_alone_because_its_number_may_be_a_socket(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    logs.write_line("x")
    assert capfd.readouterr().err == ""


def test_a_request_is_one_line_of_what_happened(capfd: pytest.CaptureFixture[str]) -> None:
    logs.set_up("text", "info")
    logs.log_access(
        outcome(instance="1", queue_wait=0.012, first_token=10.084, usage=Usage(prompt=20, completion=57), size=900)
    )
    logs.log_access(outcome(path="/health", finished=10.001))
    logs.log_access(outcome(status=429, error="queue_full", finished=10.0))
    logs.log_access(outcome(status=499, left="queued", finished=12.0, queue_wait=2.0))
    assert [line[9:] for line in lines(capfd)] == [
        "POST /v1/chat/completions 200 in 1.25 s, instance 1, queued 12 ms, first token after 84 ms, 20 + 57 tokens",
        "POST /health 200 in 1 ms",
        "POST /v1/chat/completions 429 in 0 ms, queue_full",
        "POST /v1/chat/completions 499 in 2.00 s, client left (queued), queued 2.00 s",
    ]


def test_a_request_has_its_figures_as_fields(capfd: pytest.CaptureFixture[str]) -> None:
    logs.set_up("json", "info")
    logs.log_access(
        outcome(
            instance="1",
            queue_wait=0.0123,
            first_token=10.084,
            usage=Usage(prompt=20, completion=57, cached=16),
            size=900,
            affinity="hit",
        )
    )
    (line,) = objects(capfd)
    assert line["logger"] == "slotproxy.proxy.clients.access"
    assert {name: value for name, value in line.items() if name not in ("ts", "level", "logger", "message")} == {
        "request_id": "r-1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "error": None,
        "left": None,
        "instance": "1",
        "queue_ms": 12.3,
        "ttft_ms": 84.0,
        "duration_ms": 1250.0,
        "bytes": 900,
        "prompt_tokens": 20,
        "completion_tokens": 57,
        "cached_tokens": 16,
        "affinity": "hit",
        "client": "127.0.0.1",
    }


def test_a_request_costs_nothing_where_its_line_is_not_wanted() -> None:
    logs.set_up("text", "warning")
    logs.log_access(None)  # type: ignore[arg-type]  # any look at the outcome would raise
