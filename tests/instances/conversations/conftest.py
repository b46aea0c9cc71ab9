"""An engine that saves slots as llama-server does and computes nothing, with a number of tokens for each text."""

import json
from collections.abc import AsyncIterator
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
    """What it is told in `answers` it says instead, by action. `reuses`: tokens of a restored text that it can use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reuses = TOKENS - 1
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[str] = []
        self.cached = 0
        self.upstream = Upstream(instance="0", host="127.0.0.1", port=1)

    async def answer(self, request: web.Request) -> web.Response:
        what = request.query.get("action", request.path)
        self.asked.append(what)
        body = await request.json()
        usual = self._do(what, body)
        status, document = self.answers.get(what, (200, usual))
        text = document if isinstance(document, str) else json.dumps(document)
        return web.Response(status=status, text=text)

    def _do(self, what: str, body: dict[str, Any]) -> Any:
        if what == "save":
            written = (self.folder / body["filename"]).write_bytes(b"kv" * 50)
            return {"n_saved": TOKENS, "n_written": written}
        if what == "restore":
            self.cached = self.reuses
            read = (self.folder / body["filename"]).stat().st_size
            return {"n_restored": TOKENS, "n_read": read}
        cached, self.cached = self.cached, 0
        if what == "erase":
            return {"n_erased": cached}
        return {"timings": {"cache_n": cached, "prompt_n": TOKENS - cached}}


@pytest.fixture
async def probe() -> AsyncIterator[Probe]:
    async with Probe() as probe:
        yield probe


@pytest.fixture
async def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "kv-store")
    assert await folder.open(keep=False) == ()
    return folder


@pytest.fixture
async def stub(folder: Folder) -> AsyncIterator[StubEngine]:
    engine = StubEngine(folder.path)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", engine.answer)
    async with TestServer(app) as server:
        engine.upstream = Upstream(instance="0", host="127.0.0.1", port=server.port or 0)
        yield engine
