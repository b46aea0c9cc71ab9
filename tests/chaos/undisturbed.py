"""A real engine that nothing is done to: it tells the right answers, and serves behind a relay that misbehaves."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self

from tests.chaos.orders import real_body, real_questions
from tests.clients import ask, eventually, post


@asynccontextmanager
async def engine(model: Path) -> AsyncIterator[int]:
    """A llama.cpp server that no proxy has started. Its port."""
    # One thread: several spin while they wait for each other, and starve where others need the cores too.
    options = ("--model", str(model), "--port", "0", "--ctx-size", "1024", "--threads", "1")
    command = (sys.executable, "-m", "slotproxy.instances.profiles.embedded", *options)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL, stderr=pipe)
    assert process.stderr is not None
    try:
        async with asyncio.TaskGroup() as tasks:
            port = await _listening(process.stderr)
            tasks.create_task(process.stderr.read())  # a full pipe would stop the engine

            async def healthy() -> bool:
                return (await ask(port, "GET", "/health")).status == 200

            await eventually(healthy, 60)
            yield port
            process.terminate()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _listening(log: asyncio.StreamReader) -> int:
    async for line in log:
        if found := re.search(rb"listening on http://127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise AssertionError("the engine ended before it listened")


async def answers(port: int, prompts: int) -> dict[tuple[str, int], tuple[str, str]]:
    """Text and finish reason for every question, as the engine itself gives them."""
    found = {}
    for prompt, tokens in real_questions(prompts):
        (choice,) = (await post(port, real_body(prompt, tokens, stream=False))).json()["choices"]
        found[prompt, tokens] = choice["message"]["content"], choice["finish_reason"]
    return found


class Relay:
    """Passes connections on to a port, until it is told to reset them or to refuse."""

    def __init__(self, to: int) -> None:
        self.port = 0
        self.refusing = False
        self._to = to
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self.refusing:
                writer.transport.abort()
                return
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
            self._writers |= {writer, back}
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(_pass_on(reader, back))
                    tasks.create_task(_pass_on(there, writer))
            finally:
                self._writers -= {writer, back}
        except OSError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction, until either side ends; then both ends are closed."""
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
