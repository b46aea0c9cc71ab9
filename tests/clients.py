"""A raw HTTP client for tests: sends any bytes, shows every byte that came back, and reads answers strictly."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

LONG = 60.0  # seconds until a test gives up on an answer


class Unframed(Exception):
    """The bytes are no whole, strictly framed answer; `body` is what came of it until then."""

    def __init__(self, message: str, body: bytes = b"") -> None:
        super().__init__(message)
        self.body = body


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    version: str
    status: int
    fields: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        first, *lines = data.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        match = re.fullmatch(r"HTTP/(1\.[01]) (\d{3})( .*)?", first)
        if match is None:
            raise Unframed(f"status line {first!r}")
        pairs = [line.partition(":") for line in lines]
        return cls(version=match[1], status=int(match[2]), fields=tuple((n.lower(), v.strip()) for n, _, v in pairs))

    def __getitem__(self, name: str) -> str:
        return dict(self.fields)[name]

    def get(self, name: str) -> str | None:
        return dict(self.fields).get(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer; `body` is without framing."""

    head: Head
    body: bytes

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def instance(self) -> str:
        return self.head["x-slotproxy-instance"]

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of the OpenAI error object this answer must be."""
        error = self.json()["error"]
        assert set(error) >= {"message", "type", "param", "code"}, error
        assert self.head["content-type"].startswith("application/json")
        return str(error["code"])

    def events(self) -> list[Any]:
        """The JSON of the stream's data lines."""
        lines = [line[6:] for line in self.body.split(b"\n") if line.startswith(b"data: ")]
        return [json.loads(line) for line in lines if line != b"[DONE]"]


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._events: AsyncIterator[bytes] | None = None

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> Head:
        return Head.parse(await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), LONG))

    async def rest(self) -> bytes:
        """What is left of a chunked body. Raises Unframed as `chunks` does."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def answer(self, *, to_head: bool = False) -> Answer:
        """The next final answer. Raises Unframed when the connection ends before the answer does."""
        try:
            async with asyncio.timeout(LONG):
                head = await self.head()
                while head.status < 200:
                    head = await self.head()
                bodiless = to_head or head.status in (204, 304)
                return Answer(head=head, body=b"" if bodiless else await self._body(head))
        except asyncio.IncompleteReadError as error:
            raise Unframed("the connection ended first", error.partial) from None

    async def _body(self, head: Head) -> bytes:
        if head.get("transfer-encoding") == "chunked":
            assert head.get("content-length") is None
            return await self.rest()
        if head.get("content-length") is not None:
            return await self.reader.readexactly(int(head["content-length"]))
        assert head.get("connection") == "close" or head.version == "1.0", "nothing says where the body ends"
        return await self.reader.read()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body's chunks as they come. Raises Unframed when the last one never comes."""
        body = b""
        try:
            while True:
                size = await asyncio.wait_for(self.reader.readuntil(b"\r\n"), LONG)
                if re.fullmatch(rb"[0-9a-fA-F]{1,8}\r\n", size) is None:
                    raise Unframed(f"chunk size {size!r}", body)
                chunk = await self.reader.readexactly(int(size, 16) + 2)
                if not chunk.endswith(b"\r\n"):
                    raise Unframed("chunk without its end", body)
                if chunk == b"\r\n":
                    return
                body += chunk[:-2]
                yield chunk[:-2]
        except (asyncio.IncompleteReadError, ConnectionError):
            raise Unframed("the stream was cut", body) from None

    def events(self) -> AsyncIterator[bytes]:
        """The events of a chunked stream as they come; the same iterator at every call."""
        if self._events is None:
            self._events = self._split()
        return self._events

    async def _split(self) -> AsyncIterator[bytes]:
        pending = b""
        async for chunk in self.chunks():
            pending += chunk
            *whole, pending = pending.split(b"\n\n")
            for event in whole:
                yield event

    async def next_event(self) -> bytes:
        return await anext(self.events())

    async def closed(self) -> bool:
        """Waits for the other side to close; False when it sends something instead."""
        try:
            return await asyncio.wait_for(self.reader.read(1), LONG) == b""
        except ConnectionError:
            return True

    def abort(self) -> None:
        """Leave without a word: a reset."""
        self.writer.transport.abort()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


def request(method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a request; a body that is not bytes goes as JSON."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Host": "127.0.0.1", **(headers or {})}
    if body is not None:
        fields = {"Content-Type": "application/json", "Content-Length": str(len(data))} | fields
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + data


async def ask(
    port: int, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """One request on a connection of its own."""
    async with connected(port) as client:
        client.send(request(method, path, body, headers))
        return await client.answer(to_head=method == "HEAD")


def chat(prompt: str = "Say hi.", *, max_tokens: int = 8, stream: bool = False, **more: Any) -> dict[str, Any]:
    """A chat completion's body, greedy and seeded."""
    messages = [{"role": "user", "content": prompt}]
    return {"messages": messages, "max_tokens": max_tokens, "stream": stream, "temperature": 0, "seed": 42} | more


async def post(port: int, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> Answer:
    """A chat completion on a connection of its own."""
    return await ask(port, "POST", "/v1/chat/completions", body, headers)


@asynccontextmanager
async def streaming(port: int, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> AsyncIterator[Client]:
    """A connection on which a streamed chat completion has been asked for."""
    async with connected(port) as client:
        client.send(request("POST", "/v1/chat/completions", {**body, "stream": True}, headers))
        yield client


async def eventually(look: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> float:
    """Waits until `look` says yes; the seconds that took. A test that needs this fails by time, never passes by it."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not await look():
        if loop.time() - began > seconds:
            raise AssertionError(f"did not happen within {seconds:g} s")
        await asyncio.sleep(0.01)
    return loop.time() - began
