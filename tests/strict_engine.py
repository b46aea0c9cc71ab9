"""An engine that reads requests as strictly as RFC 9112 has it and notes what a proxy should not have let through."""

import asyncio
import re
from dataclasses import dataclass, field

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
CHUNK = re.compile(rb"[0-9a-fA-F]{1,15}(;[^\r\n\0]*)?\r\n")
PROBES = (b"/health", b"/v1/models")  # the proxy's own questions, not a client's
MODELS = b'{"object":"list","data":[{"id":"strict"}]}'


@dataclass(kw_only=True)
class Seen:
    """One request as it reached the engine."""

    head: bytes
    target: bytes = b""
    body: bytes = b""
    whole: bool = True
    faults: list[str] = field(default_factory=list)


class StrictEngine:
    """`seen` is what came since it was last cleared."""

    def __init__(self) -> None:
        self.port = 0
        self.seen: list[Seen] = []
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while (one := await _read(reader)) is not None:
                if one.target not in PROBES:
                    self.seen.append(one)
                if not one.whole:
                    break
                body = MODELS if one.target == b"/v1/models" else self.body(one)
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                writer.write(head if one.head.startswith(b"HEAD ") else head + body)
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def body(self, one: Seen) -> bytes:
        """Of the answer to this request."""
        return b'{"ok":true}'

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


class EchoEngine(StrictEngine):
    """Answers with the start line and the body it got, so that an answer shows whose it is."""

    def body(self, one: Seen) -> bytes:
        return echo(one.head.partition(b"\r\n")[0], one.body)


def echo(line: bytes, body: bytes) -> bytes:
    """What EchoEngine answers to a request with this start line and body."""
    return line + b"\n" + body


async def _read(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        return Seen(head=error.partial, whole=False, faults=[f"half a head: {error.partial[:80]!r}"])
    first, *lines = head[:-4].split(b"\r\n")
    one = Seen(head=head, faults=[*_line_faults(first), *(fault for line in lines for fault in _field_faults(line))])
    one.target = first.partition(b" ")[2].rpartition(b" ")[0]
    fields = [(name.lower(), value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines)]
    one.faults += _framing_faults(fields)
    await _read_body(reader, fields, one)
    return one


def _line_faults(line: bytes) -> list[str]:
    words = line.split(b" ")
    if len(words) != 3 or not TOKEN.fullmatch(words[0]) or not words[1] or words[2] != b"HTTP/1.1":
        return [f"request line {line[:80]!r}"]
    return [f"control byte in target {words[1][:80]!r}"] if re.search(rb"[\x00-\x20\x7f]", words[1]) else []


def _field_faults(line: bytes) -> list[str]:
    name, colon, _ = line.partition(b":")
    if not colon or not TOKEN.fullmatch(name):
        return [f"field name {line[:60]!r}"]
    return [f"CR, LF or NUL in {line[:60]!r}"] if re.search(rb"[\r\n\0]", line) else []


def _framing_faults(fields: list[tuple[bytes, bytes]]) -> list[str]:
    lengths, codings, hosts = ([value for name, value in fields if name == wanted] for wanted in FRAMING)
    faults = []
    if len(hosts) != 1:
        faults.append(f"{len(hosts)} Host fields")
    if len(lengths) + len(codings) > 1:
        faults.append(f"more than one framing: {lengths} {codings}")
    if codings and codings[0].lower() != b"chunked":
        faults.append(f"transfer coding {codings}")
    if lengths and not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
        faults.append(f"content length {lengths}")
    return faults


FRAMING = (b"content-length", b"transfer-encoding", b"host")


async def _read_body(reader: asyncio.StreamReader, fields: list[tuple[bytes, bytes]], one: Seen) -> None:
    known = dict(fields)
    try:
        if b"transfer-encoding" in known:
            one.body = await _chunked(reader, one)
        elif b"content-length" in known:
            one.body = await reader.readexactly(int(known[b"content-length"]))
    except (asyncio.IncompleteReadError, ValueError):
        one.whole = False


async def _chunked(reader: asyncio.StreamReader, one: Seen) -> bytes:
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        if not CHUNK.fullmatch(line):
            one.faults.append(f"chunk line {line[:40]!r}")
            raise ValueError(line)
        size = int(line.split(b";")[0], 16)
        if size == 0:
            break
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            one.faults.append("a chunk without its end")
            raise ValueError(line)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return body
