"""A TCP relay between proxy and engine that keeps every byte of both directions."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.clients import Answer, Client


@dataclass(kw_only=True)
class Tape:
    """One connection."""

    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)

    def request_ids(self) -> list[str]:
        """The x-request-id of each request on this connection, in order."""
        lines = bytes(self.up).split(b"\r\n")
        return [line.partition(b":")[2].strip().decode() for line in lines if line.lower().startswith(b"x-request-id:")]

    async def answers(self) -> list[tuple[str, Answer]]:
        """Request id and answer, read strictly, of each request that the engine answered before it closed."""
        reader = asyncio.StreamReader(limit=1 << 26)
        reader.feed_data(bytes(self.down))
        reader.feed_eof()
        client = Client(reader, None)  # type: ignore[arg-type]  # a tape is only read
        found: list[tuple[str, Answer]] = []
        for request_id in self.request_ids():
            if reader.at_eof():  # the engine had closed a reused connection; the request went out again on another
                break
            found.append((request_id, await client.answer()))
        return found


@dataclass(kw_only=True)
class Recorder:
    """Listens on `port`, passes everything on to `target` on this machine."""

    target: int
    port: int = 0
    tapes: list[Tape] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def bodies(self) -> dict[str, bytes]:
        """The body the engine sent for each request id."""
        return {request_id: answer.body for tape in self.tapes for request_id, answer in await tape.answers()}

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tape = Tape()
        self.tapes.append(tape)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_pump(reader, far_writer, tape.up))
            tasks.create_task(_pump(far_reader, writer, tape.down))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tape: bytearray) -> None:
    try:
        while data := await reader.read(1 << 16):
            tape += data
            writer.write(data)
            await writer.drain()
    except (ConnectionError, asyncio.CancelledError):
        pass  # the end of the test, or of one side
    finally:
        writer.close()


@asynccontextmanager
async def recording(target: int) -> AsyncIterator[Recorder]:
    recorder = Recorder(target=target)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await recorder.relay(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    recorder.port = server.sockets[0].getsockname()[1]
    try:
        yield recorder
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
