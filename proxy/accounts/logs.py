"""Logging: short lines for a terminal or JSON objects for a collector, on stderr; one record per request.

Nothing here raises, blocks or prints a traceback of its own: a proxy whose log disk is full, whose log nobody reads or
whose terminal is gone keeps serving.
"""

import json
import logging
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from slotproxy.proxy.accounts.log_output import LogOutput
from slotproxy.proxy.accounts.outcome import Outcome

access_logger = logging.getLogger("slotproxy.proxy.clients.access")

STDERR = 2
_ORDINARY = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_CHATTY = ("asyncio", "aiohttp")


def set_up(log_format: str, level: str) -> None:
    """Log to stderr from now on. May be called again with other choices. Tracebacks are shown at level `debug` only."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, StderrHandler)]:
        root.removeHandler(handler)
    number: int = getattr(logging, level.upper())
    handler = StderrHandler()
    handler.setFormatter((JsonFormatter if log_format == "json" else TextFormatter)(tracebacks=number <= logging.DEBUG))
    root.addHandler(handler)
    if sys.stderr is not None:
        _output.open()
    root.setLevel(number)
    # What no line of ours shows need not be found out for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def write_line(line: str) -> None:
    """One line to stderr, when that can be written; nothing if it is closed."""
    if sys.stderr is not None:  # else number 2 may be a client's socket by now
        _output.write(line)


def catch_up() -> None:
    """Write the lines that wait because stderr was full, as far as that is possible now."""
    _output.catch_up()


def flush(seconds: float) -> None:
    """Before the process ends: write the lines that wait, and wait so long at most for somebody to read."""
    _output.flush(seconds)


def log_access(outcome: Outcome) -> None:
    """One record about one request, at level info."""
    if access_logger.isEnabledFor(logging.INFO):
        # Made here, because logger.info() walks the stack for the caller: a third of the cost of the line.
        record = logging.LogRecord(access_logger.name, logging.INFO, __file__, 0, _sentence(outcome), (), None)
        record.outcome = outcome
        access_logger.handle(record)


class StderrHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # a bug in the call that logs; serving goes on
            line = f"{record.pathname}:{record.lineno} logged what cannot be formatted: {type(error).__name__}"
        write_line(line)


class TextFormatter(logging.Formatter):
    """`12:34:56 message`, the level named unless it is info."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"{_clock(int(record.created))} {level}{printable(record.getMessage())}"
        exception = _exception(record)
        if exception is None:
            return text
        return f"{text}\n{self.formatException(exception)}" if self._tracebacks else f"{text}: {_named(exception[1])}"


class JsonFormatter(logging.Formatter):
    """One object per line: ts (RFC 3339, UTC), level, logger, message, and what the call gave as `extra`."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__()
        self._tracebacks = tracebacks
        self._encode = json.JSONEncoder(default=str).encode

    def format(self, record: logging.LogRecord) -> str:
        return self._encode(dict(self._members(record)))

    def _members(self, record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
        yield (
            "ts",
            datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        )
        yield "level", record.levelname.lower()
        yield "logger", record.name
        yield "message", record.getMessage()
        for name in sorted(vars(record).keys() - _ORDINARY):
            value = vars(record)[name]
            yield from _fields(value).items() if isinstance(value, Outcome) else ((name, value),)
        exception = _exception(record)
        if exception is not None:
            yield "exception", _named(exception[1])
            if self._tracebacks:
                yield "traceback", self.formatException(exception)


def printable(text: str) -> str:
    """Without control characters: what clients and engines send may reach the log, and must not steer a terminal."""
    return text if text.isprintable() else text.translate(_CONTROL)


def _dropped(count: int) -> str:
    """In the form of the other lines."""
    text = "log lines dropped because they could not be written: %d"
    record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (count,), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, StderrHandler):
            return handler.format(record)
    return record.getMessage()


_output = LogOutput(STDERR, _dropped)


@lru_cache(maxsize=1)
def _clock(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))


def _exception(record: logging.LogRecord) -> Any:
    """The record's exc_info, if there is an exception in it."""
    return record.exc_info if record.exc_info and record.exc_info[1] is not None else None


def _named(error: BaseException) -> str:
    return printable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _fields(outcome: Outcome) -> dict[str, Any]:
    first = outcome.time_to_first_token
    return {
        "request_id": outcome.request_id,
        "method": outcome.method,
        "path": outcome.path,
        "status": outcome.status,
        "error": outcome.error,
        "left": outcome.left,
        "instance": outcome.instance,
        "queue_ms": _milliseconds(outcome.queue_wait),
        "ttft_ms": None if first is None else _milliseconds(first),
        "duration_ms": _milliseconds(outcome.duration),
        "bytes": outcome.size,
        "prompt_tokens": outcome.usage.prompt,
        "completion_tokens": outcome.usage.completion,
        "cached_tokens": outcome.usage.cached,
        "affinity": outcome.affinity,
        "client": outcome.client,
    }


def _sentence(outcome: Outcome) -> str:
    return f"{outcome.method} {outcome.path} {outcome.status} in {_spoken(outcome.duration)}" + "".join(
        f", {part}" for part in _details(outcome)
    )


def _details(outcome: Outcome) -> Iterator[str]:
    """What is worth a reader's time: not what did not happen."""
    if outcome.error is not None:
        yield outcome.error
    if outcome.left is not None:
        yield f"client left ({outcome.left})"
    if outcome.instance is not None:
        yield f"instance {outcome.instance}"
    if outcome.queue_wait >= 0.0005:
        yield f"queued {_spoken(outcome.queue_wait)}"
    if outcome.time_to_first_token is not None:
        yield f"first token after {_spoken(outcome.time_to_first_token)}"
    if outcome.usage.completion is not None:
        yield f"{outcome.usage.prompt or 0} + {outcome.usage.completion} tokens"
    if outcome.affinity is not None:
        cached = outcome.usage.cached
        yield outcome.affinity if cached is None else f"{outcome.affinity}, {cached} cached"


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _spoken(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
