"""An engine that saves slots as llama-server does and computes nothing, with a number of tokens for each text."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from slotproxy.instances.conversations.files import Folder
from slotproxy.instances.profiles.profile import Kv
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.upstream import Upstream

SLOTS = Kv(how="slots")
TOKENS = 64


class StubEngine:
    """What it is told in `answers` it says instead, by action. `reuses`: tokens of a restored text that it can use.

    At what is in `gates` it waits before it answers, at what is in `dies_at` it closes the connection instead.
    """

    def __init__(self, folder: Path, instance: str = "0") -> None:
        self.folder = folder
        self.tokens = TOKENS
        self.gates: dict[str, asyncio.Event] = {}
        self.dies_at: set[str] = set()
        self.reuses = TOKENS - 1
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[str] = []
        self.paths: set[str] = set()
        self.cached = 0
        self.restored: list[str] = []
        self.upstream = Upstream(instance=instance, host="127.0.0.1", port=1)

    async def was_asked(self, what: str, times: int = 1) -> None:
        """Return once it was."""
        async with asyncio.timeout(20.0):
            while self.asked.count(what) < times:
                await asyncio.sleep(0.001)

    async def answer(self, request: web.Request) -> web.Response:
        what = request.query.get("action", request.path)
        self.asked.append(what)
        self.paths.add(request.path)
        body = await request.json()
        if what in self.gates:
            await self.gates[what].wait()
        usual = self._do(what, body)
        if what in self.dies_at:
            assert request.transport is not None
            request.transport.close()
        status, document = self.answers.get(what, (200, usual))
        text = document if isinstance(document, str) else json.dumps(document)
        return web.Response(status=status, text=text)

    def _do(self, what: str, body: dict[str, Any]) -> Any:
        if what == "save":
            written = (self.folder / body["filename"]).write_bytes(b"kv" * 50)
            return {"n_saved": self.tokens, "n_written": written}
        if what == "restore":
            self.cached = self.reuses
            read = (self.folder / body["filename"]).stat().st_size
            self.restored.append(body["filename"])
            return {"n_restored": self.tokens, "n_read": read}
        cached, self.cached = self.cached, 0
        if what == "erase":
            return {"n_erased": cached}
        return {"timings": {"cache_n": cached, "prompt_n": TOKENS - cached}}


@contextmanager
def mounted(path: Path, size: int = 2) -> Iterator[Path]:
    """A file system at `path`, in memory, of so many MiB. Skips the test where that takes rights it does not have."""
    path.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        done = False
    if not done:
        pytest.skip("only root may mount")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)  # an engine may still have it open


@pytest.fixture
async def probe() -> AsyncIterator[Probe]:
    async with Probe() as probe:
        yield probe


@pytest.fixture
async def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "kv-store")
    assert await folder.open(keep=False) == ()
    return folder


@asynccontextmanager
async def serving(folder: Path, instance: str = "0") -> AsyncIterator[StubEngine]:
    engine = StubEngine(folder, instance)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", engine.answer)
    async with TestServer(app) as server:
        engine.upstream = Upstream(instance=instance, host="127.0.0.1", port=server.port or 0)
        yield engine


@pytest.fixture
async def stub(folder: Folder) -> AsyncIterator[StubEngine]:
    async with serving(folder.path) as engine:
        yield engine


@pytest.fixture
async def stubs(folder: Folder) -> AsyncIterator[tuple[StubEngine, StubEngine]]:
    """Two of them, of one folder."""
    async with AsyncExitStack() as exits:
        one, other = [await exits.enter_async_context(serving(folder.path, name)) for name in "01"]
        yield one, other
