"""The application without processes: a supply made of values, and a supply side that remembers what it was asked."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient

from slotproxy.instances.errors import NoSuchInstance, OperationRefused
from slotproxy.instances.lifecycle import State
from slotproxy.instances.snapshot import Kind, Member, Snapshot
from slotproxy.proxy.operator.application import application
from slotproxy.proxy.operator.serving import Connect
from slotproxy.proxy.operator.stopping import Stopping
from tests.clients import Client

PAGE = b"# the metrics\n"


@dataclass
class Operator:
    """Remembers what it is asked; does not know an instance "9", and refuses to take the first one out."""

    asked: list[tuple[str, ...]] = field(default_factory=list)

    def add(self) -> None:
        self.asked.append(("add",))

    def remove(self, name: str | None = None) -> str:
        self._known(name)
        if name == "0":
            raise OperationRefused("it is the last one")
        self.asked.append(("remove", name or "newest"))
        return name or "1"

    def restart(self, name: str | None = None) -> None:
        self._known(name)
        self.asked.append(("restart", "all" if name is None else name))

    def log(self, name: str) -> tuple[str, ...]:
        self._known(name)
        return ("one", "two")

    def _known(self, name: str | None) -> None:
        if name in ("9", ""):
            raise NoSuchInstance(f"there is no instance {name!r}")


def member(name: str, **differently: Any) -> Member:
    """A ready instance with one slot."""
    usual: dict[str, Any] = {
        "kind": Kind.INSTANCE,
        "state": State.READY,
        "pid": 100,
        "host": "127.0.0.1",
        "port": 9000,
        "n_ctx": 2048,
        "slots": 1,
        "leased": 0,
        "memory": None,
        "restarts": 0,
        "reason": "",
        "since": 0.0,
    }
    return Member(id=name, **{**usual, **differently})


def snapshot_of(*members: Member, **differently: Any) -> Snapshot:
    usual: dict[str, Any] = {
        "memory_used": 0,
        "memory_limit": 1,
        "memory_source": "physical memory",
        "decisions": (),
        "models": ({"id": "demo", "meta": {"n_ctx": 8192}},),
        "settled": True,
        "hopeless": None,
    }
    return Snapshot(members=members, **{**usual, **differently})


@dataclass
class Supply:
    """What the application is built on. Tests change it while it is served."""

    snapshot: Snapshot = field(default_factory=lambda: snapshot_of(member("0"), member("1")))
    queued: int = 0
    operator: Operator = field(default_factory=Operator)
    stopping: Stopping = field(default_factory=Stopping)
    looked: int = 0  # how often somebody asked for the snapshot

    def look(self) -> Snapshot:
        self.looked += 1
        return self.snapshot

    def lease(self, slots: int) -> None:
        """The first member has so many leased slots now."""
        first, *others = self.snapshot.members
        self.snapshot = replace(self.snapshot, members=(replace(first, leased=slots), *others))

    def application(self, version: str = "0") -> web.Application:
        return application(
            snapshot=lambda: self.look(),
            queued=lambda: self.queued,
            page=lambda: PAGE,
            operations=self.operator,
            version=version,
            stopping=self.stopping,
        )


Asking = TestClient[web.Request, web.Application]


@pytest.fixture
def supply() -> Supply:
    return Supply()


@pytest.fixture
async def pages(supply: Supply, aiohttp_client: AiohttpClient) -> Asking:
    """A client of the application on `supply`."""
    return await aiohttp_client(supply.application())


@asynccontextmanager
async def over(connect: Connect) -> AsyncIterator[Client]:
    """A raw client on a socket pair of its own."""
    reader, writer = await asyncio.open_connection(sock=await connect(), limit=1 << 26)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


def code_of(document: Mapping[str, Any]) -> str:
    """The code of what must be an OpenAI error object."""
    error = document["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["code"])
