"""A proxy that stands for a whole test module, in front of an engine that notes what reaches it and answers with it.

The engine has a thread and an event loop of its own: the loop of a test ends with the test.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.running import Running
from tests.strict_engine import EchoEngine, Seen, StrictEngine
from tests.vector_runner import strict_engine


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
