"""Plays raw requests at a proxy whose only engine is a strict recorder, and says what went wrong with each.

As a program, at any proxy:  python -m tests.vector_runner --front PORT --back PORT [--bytewise] [--only ID ...]
The cases and the meaning of their fields are in vectors.json.
"""

import argparse
import asyncio
import contextlib
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.strict_engine import StrictEngine

VECTORS = Path(__file__).parent / "vectors.json"
ANSWERED = re.compile(rb"(?:^|\n|\}|>)HTTP/1\.[01] (\d\d\d)")
SILENCE = 0.6  # seconds without a byte, an end or the expected answers: the proxy waits for more
CLOSING = 2.0  # seconds a proxy may take to close after a refusal
BETWEEN_BYTES = 0.0001  # long enough that the proxy reads each byte on its own
BYTEWISE_UNDER = 1500  # longer requests go in one write


@dataclass(kw_only=True)
class Outcome:
    """What the client saw of one case."""

    data: bytearray = field(default_factory=bytearray)
    closed: bool = False

    @property
    def finals(self) -> list[int]:
        """Status codes, interim ones left out."""
        return [int(code) for code in ANSWERED.findall(self.data) if not code.startswith(b"1")]

    def is_error_object(self) -> bool:
        """Whether the last body is one in OpenAI's shape."""
        try:
            return "code" in json.loads(self.data.rpartition(b"\r\n\r\n")[2])["error"]
        except (ValueError, KeyError, TypeError):
            return False

    @property
    def kind(self) -> str:
        if not self.finals:
            return "refused" if self.closed else "hang"
        return "refused" if self.finals[0] >= 400 else "served"


def load() -> list[dict[str, Any]]:
    vectors: list[dict[str, Any]] = json.loads(VECTORS.read_text())["vectors"]
    return vectors


async def play(vector: dict[str, Any], front: int, engine: StrictEngine, *, bytewise: bool = False) -> list[str]:
    """What is wrong with how the proxy on port `front` treats this case; nothing if it is right."""
    engine.seen.clear()
    outcome = Outcome()
    reader, writer = await asyncio.open_connection("127.0.0.1", front)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_listen(reader, outcome))
        # RuntimeError: what uvloop says to a write on a connection that the proxy has closed.
        with contextlib.suppress(ConnectionError, TimeoutError, RuntimeError):
            await asyncio.wait_for(_send(vector, writer, bytewise=bytewise), 10)
        await _settle(vector, outcome)
        writer.transport.abort()
    await _flush(front)
    return list(_faults(vector, outcome, engine))


async def _listen(reader: asyncio.StreamReader, outcome: Outcome) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            outcome.data += data
    outcome.closed = True


async def _send(vector: dict[str, Any], writer: asyncio.StreamWriter, *, bytewise: bool) -> None:
    pending = b""
    for part in vector.get("parts", [vector.get("raw")]):
        if isinstance(part, str):
            pending += part.encode("latin-1")
        elif isinstance(part, list):
            pending += part[0].encode("latin-1") * part[1]
        else:
            writer.write(pending)
            pending = b""
            await writer.drain()
            await asyncio.sleep(part.get("sleep_ms", 0) / 1000)
            if "shutdown" in part:
                writer.write_eof()
    pieces = [bytes([byte]) for byte in pending] if bytewise and len(pending) < BYTEWISE_UNDER else [pending]
    for piece in filter(None, pieces):
        writer.write(piece)
        await writer.drain()
        if bytewise:
            await _pause(BETWEEN_BYTES)


async def _pause(seconds: float) -> None:
    """Shorter than the milliseconds in which timers of the loop count."""
    due = time.perf_counter() + seconds
    while time.perf_counter() < due:
        await asyncio.sleep(0)


async def _settle(vector: dict[str, Any], outcome: Outcome) -> None:
    """Until the proxy has said all it will: it closed, gave as many answers as may come, or fell silent."""
    loop = asyncio.get_running_loop()
    size, since = -1, loop.time()
    while not outcome.closed:
        if len(outcome.data) != size:
            size, since = len(outcome.data), loop.time()
        closing = vector.get("close") or b"\r\nconnection: close\r\n" in bytes(outcome.data).lower()
        refused = outcome.is_error_object()
        served = outcome.kind == "served" and len(outcome.finals) >= max(1, vector["n"])
        if not closing and (refused or served):
            return
        if loop.time() - since > (CLOSING if refused else SILENCE):
            return
        await asyncio.sleep(0.002)


async def _flush(front: int) -> None:
    """One plain request, so that anything smuggled in before it has reached the engine too."""
    reader, writer = await asyncio.open_connection("127.0.0.1", front)
    writer.write(b"GET /flush HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    if not answer.startswith(b"HTTP/1.1 200"):
        raise AssertionError(f"the proxy no longer serves a plain request: {answer[:200]!r}")


def _faults(vector: dict[str, Any], outcome: Outcome, engine: StrictEngine) -> Iterator[str]:
    seen = [one for one in engine.seen if one.target != b"/flush"]
    for one in seen:
        yield from (f"the engine saw {fault}" for fault in one.faults)
        if b"smuggled" in one.target and not vector.get("allow_smuggled"):
            yield "a smuggled request reached the engine"
        for word in vector.get("must_not_see", []):
            if word.encode("latin-1").lower() in one.head.lower():
                yield f"the engine saw {word!r}"
    for word in vector.get("resp_must_not", []):
        if word.lower().encode() in bytes(outcome.data).lower():
            yield f"the client got {word!r}"
    yield from _JUDGES[vector["expect"]](vector, outcome, len(seen))
    if vector.get("close") and not outcome.closed and outcome.kind != "hang":
        yield "the connection was not closed"


def _reject(vector: dict[str, Any], outcome: Outcome, seen: int) -> Iterator[str]:
    if seen:
        yield f"{seen} requests reached the engine, none should"
    elif outcome.kind == "hang":
        if not vector.get("timeout_ok"):
            yield "no answer and no end"
    elif outcome.kind == "served":
        yield f"served with {outcome.finals}"
    elif outcome.finals:
        if outcome.finals[0] not in vector["status"]:
            yield f"status {outcome.finals[0]}, not one of {vector['status']}"
        if not outcome.is_error_object():
            yield "the refusal is no OpenAI error object"
        if outcome.finals[0] == 400 and vector["cat"] != "json" and not outcome.closed:
            yield "malformed HTTP, and the connection stays open"


def _forward(vector: dict[str, Any], outcome: Outcome, seen: int) -> Iterator[str]:
    if seen != vector["n"]:
        yield f"{seen} requests reached the engine, {vector['n']} should (client got {outcome.finals})"
    elif len(outcome.finals) != vector["n"] or outcome.kind != "served":
        yield f"the client got {outcome.finals}, should get {vector['n']} answers"


def _either(vector: dict[str, Any], outcome: Outcome, seen: int) -> Iterator[str]:
    if seen > vector["n"]:
        yield f"{seen} requests reached the engine, at most {vector['n']} may"
    if outcome.kind == "hang":
        yield "no answer and no end"
    allowed = vector.get("status")
    if outcome.kind == "refused" and outcome.finals and allowed and outcome.finals[0] not in [*allowed, 400]:
        yield f"status {outcome.finals[0]}, not one of {allowed}"


_JUDGES = {"reject": _reject, "forward": _forward, "either": _either}


@asynccontextmanager
async def strict_engine(port: int = 0, kind: type[StrictEngine] = StrictEngine) -> AsyncIterator[StrictEngine]:
    engine = kind()
    server = await asyncio.start_server(engine.serve, "127.0.0.1", port, limit=1 << 22)
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        server.close()
        engine.hang_up()


async def _program(options: argparse.Namespace) -> int:
    wrong = 0
    async with strict_engine(options.back) as engine:
        for vector in load():
            if options.only and vector["id"] not in options.only:
                continue
            faults = await play(vector, options.front, engine, bytewise=options.bytewise)
            wrong += bool(faults)
            if faults:
                print(vector["id"], *faults, sep="\n  ", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--front", type=int, required=True)
    parser.add_argument("--back", type=int, required=True)
    parser.add_argument("--bytewise", action="store_true")
    parser.add_argument("--only", nargs="*")
    sys.exit(asyncio.run(_program(parser.parse_args())))
