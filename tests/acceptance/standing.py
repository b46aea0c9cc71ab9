"""A proxy that stands for a whole test module, in front of an engine that notes what reaches it and answers with it.

The engine has a thread and an event loop of its own: the loop of a test ends with the test.
"""

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.clients import Answer, Client, Unframed, connected
from tests.running import Running
from tests.strict_engine import EchoEngine, Seen, StrictEngine
from tests.vector_runner import strict_engine

PATIENCE = 3.0  # seconds a connection may take
LIBRARY = re.compile(rb"aiohttp|python|uvicorn|httptools", re.IGNORECASE)


@dataclass(kw_only=True)
class Standing:
    proxy: Running
    engine: StrictEngine
    port: int

    def take(self) -> list[Seen]:
        """What reached the engine since the last call. None of it may be anything but a sound request."""
        seen, self.engine.seen = self.engine.seen, []
        assert not [one.faults for one in seen if one.faults]
        return seen


@contextmanager
def standing(folder: Path, *options: str) -> Iterator[Standing]:
    """A ready proxy with these options. At the end it must stop with exit code 0 and must not have logged a bug."""
    with engine_of_its_own() as engine:
        proxy = Running.start(folder, "--upstream", f"http://127.0.0.1:{engine.port},slots=4", *options)
        try:
            proxy.wait_ready()
            yield Standing(proxy=proxy, engine=engine, port=proxy.port)
            assert proxy.stop() == 0, proxy.log
            assert "Traceback" not in proxy.log
        finally:
            proxy.kill()


@contextmanager
def engine_of_its_own() -> Iterator[StrictEngine]:
    engines: list[StrictEngine] = []
    started, over = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        async with strict_engine(kind=EchoEngine) as engine:
            engines.append(engine)
            started.set()
            await over.wait()

    def serve() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(run())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert started.wait(10), "the engine did not start"
        yield engines[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


async def until_the_end(client: Client) -> list[Answer]:
    """Every answer until the proxy closes the connection, which it must."""
    found = []
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                found.append(await client.answer())
            except Unframed as end:
                if end.body:
                    raise AssertionError("the connection ended in the middle of an answer") from end
                return found


async def talk(bench: Standing, *pieces: bytes) -> list[Answer]:
    """The answers of one connection on which these were sent, each read by the proxy on its own if it is quick."""
    async with connected(bench.port) as client:
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(0.005)
            client.send(piece)
        return await until_the_end(client)


def statuses(answers: list[Answer]) -> list[int]:
    return [answer.status for answer in answers]


def assert_refused(answer: Answer, *allowed: int) -> None:
    """It is the proxy's own refusal, and shows nothing of the library below."""
    assert answer.status in allowed
    assert answer.code
    assert answer.head["x-request-id"]
    assert answer.head["connection"].lower() == "close"
    assert not LIBRARY.search(repr(answer).encode()), answer
