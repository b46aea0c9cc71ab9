"""Who serves, on engines of the same kind: slotproxy, HAProxy, or a client that knows where everything is.

Every site has two engines of its own, which a slotproxy starts, so that their arguments are the product's and no cache
is carried from one site to the next. HAProxy and the clients that pin their conversations go past that slotproxy to the
engines themselves.
"""

import asyncio
import json
import os
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil

from slotproxy.instances.models import demo
from tests.benchmarks.peers import PEERS, ours
from tests.benchmarks.processes import NotStarted, Program, ended, free_port, start
from tests.conversations.talk import Body, Client, Turn

SLOTPROXY, HAPROXY, ORACLE = "slotproxy", "HAProxy", "pinned by hand"
INSTANCES = 2
PATIENCE = 120.0  # seconds until engines must be there

CONFIGURATION = """
global
  nbthread 1
  log stdout format raw local0
defaults
  mode http
  log global
  log-format "%Tw %ST %[capture.req.hdr(0)]"
  option http-no-delay
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout queue 1h
frontend clients
  bind 127.0.0.1:{port} backlog 4096
  http-request capture req.hdr(x-client) len 32
  default_backend engines
backend engines
  balance leastconn
{servers}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What all sites of a run have in common. `options` of slotproxy, whatever stands before its engines."""

    folder: Path
    ctx: int = 2048
    instances: int = INSTANCES
    options: tuple[str, ...] = ()
    engine: tuple[str, ...] = ()  # arguments for every engine
    key: str = ""  # that slotproxy asks for


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A running slotproxy and the engines it has started."""

    program: Program
    state_dir: Path
    key: str = ""

    @property
    def port(self) -> int:
        return self.program.port

    def get(self, path: str) -> Any:
        """JSON of one of its own answers. Raises OSError."""
        asked = urllib.request.Request(self.program.url + path, headers={"Authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return json.load(answer)

    def slots(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/slots")
        return found

    def engine_ports(self) -> list[int]:
        """Of its engines, by instance."""
        return [_listening(slot["pid"]) for slot in sorted(self.slots(), key=lambda slot: str(slot["instance"]))]

    def wait_ready(self, instances: int, replaced: frozenset[int] = frozenset()) -> None:
        """Until so many instances are ready, none of them one of the processes `replaced`. Raises `NotStarted`."""
        deadline = monotonic() + PATIENCE
        while self._ready(replaced) < instances:
            if self.program.process.poll() is not None or monotonic() > deadline:
                raise NotStarted(f"slotproxy did not have {instances} ready instances within {PATIENCE:g} s")
            sleep(0.1)

    def _ready(self, replaced: frozenset[int]) -> int:
        return sum(slot["state"] == "ready" and slot["pid"] not in replaced for slot in self.slots())

    def pids(self) -> frozenset[int]:
        return frozenset(slot["pid"] for slot in self.slots() if slot["pid"] is not None)

    def restart(self) -> None:
        """All instances, one after the other, through the operator's page; returns when all are new."""
        old = self.pids()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        url = f"{self.program.url}/slotproxy/api/instances/restart"
        urllib.request.urlopen(urllib.request.Request(url, b"{}", headers, method="POST"), timeout=30).close()
        self.wait_ready(len(self.slots()), old)


def _listening(pid: int) -> int:
    (port,) = {one.laddr.port for one in psutil.Process(pid).net_connections("tcp") if one.status == "LISTEN"}
    return int(port)


@dataclass(slots=True, kw_only=True)
class Site:
    """Where conversations are held. `alone`: clients take care themselves that an engine has one request at a time."""

    name: str
    ports: Sequence[int]
    proxy: Proxy
    log: Path | None = None
    alone: bool = False

    @asynccontextmanager
    async def doors(self) -> AsyncIterator["Doors"]:
        """For the clients of one event loop."""
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client.at(port)) for port in self.ports]
            yield Doors(clients, alone=self.alone)


class Doors:
    """The ways into a site: conversation `who` always takes the same one."""

    def __init__(self, clients: Sequence[Client], *, alone: bool) -> None:
        self._ways = [(client, asyncio.Lock() if alone else nullcontext()) for client in clients]

    async def turn(self, who: int, path: str, body: Body, headers: dict[str, str] | None = None) -> Turn:
        """As `Client.turn`; the wait for an engine of one's own counts."""
        client, lock = self._ways[who % len(self._ways)]
        began = monotonic()
        async with lock:
            waited = monotonic() - began
            turn = await client.turn(path, body, headers)
        return _later(turn, waited)


def _later(turn: Turn, waited: float) -> Turn:
    return replace(turn, first=turn.first + waited, seconds=turn.seconds + waited)


@contextmanager
def slotproxy(conditions: Conditions, name: str) -> Iterator[Proxy]:
    """The installed command with engines of its own, all of them ready. Raises `NotStarted`, `Missing`."""
    folder = conditions.folder / name.replace(" ", "-")
    folder.mkdir(exist_ok=True)
    port, state = free_port(), folder / "state"
    options = ["--model", str(demo.fetch()), "--instances", str(conditions.instances), *conditions.options]
    options += ["--ctx-size", str(conditions.ctx), "--port", str(port), "--state-dir", str(state)]
    options += ["--", *conditions.engine] if conditions.engine else []
    program = start([ours(), *options], port, folder, path="/ready")
    with ended(program.process):
        proxy = Proxy(program=program, state_dir=state, key=conditions.key)
        proxy.wait_ready(conditions.instances)
        yield proxy


def versions() -> dict[str, str]:
    """Of the proxies, by name. Raises `Missing`."""
    return {peer.name: peer.version(peer.find()) for peer in PEERS if peer.name in (SLOTPROXY, HAPROXY)}


@contextmanager
def in_front(name: str, proxy: Proxy) -> Iterator[Site]:
    """What conversations are held through, for the engines that this slotproxy has now. Raises `NotStarted`."""
    if name == SLOTPROXY:
        yield Site(name=name, ports=[proxy.port], proxy=proxy)
    elif name == ORACLE:
        yield Site(name=name, ports=proxy.engine_ports(), proxy=proxy, alone=True)
    else:
        with haproxy(proxy.engine_ports(), proxy.state_dir.parent) as (program, log):
            yield Site(name=name, ports=[program.port], proxy=proxy, log=log)


@contextmanager
def haproxy(engines: Sequence[int], folder: Path) -> Iterator[tuple[Program, Path]]:
    """HAProxy before these engines, a request at a time for each, and its log. Raises `NotStarted`, `Missing`."""
    (peer,) = (peer for peer in PEERS if peer.name == HAPROXY)
    port = free_port()
    servers = "\n".join(f"  server engine{n} 127.0.0.1:{engine} maxconn 1" for n, engine in enumerate(engines))
    configuration = folder / f"haproxy-{port}.cfg"
    configuration.write_text(CONFIGURATION.format(port=port, servers=servers))
    program = start([peer.find(), "-db", "-f", str(configuration)], port, folder)
    with ended(program.process):
        yield program, folder / f"haproxy-{port}.log"


@contextmanager
def site(name: str, conditions: Conditions) -> Iterator[Site]:
    """A site with fresh engines. Raises `NotStarted`, `Missing`."""
    with slotproxy(conditions, name) as proxy, in_front(name, proxy) as found:
        yield found


@contextmanager
def engine(folder: Path, ctx: int, *options: str) -> Iterator[int]:
    """An engine that no slotproxy knows, as slotproxy would start it. Its port. Raises `NotStarted`."""
    port, threads = free_port(), max(1, (os.cpu_count() or 1) // 2)
    command = [sys.executable, "-m", "slotproxy.instances.profiles.embedded", "--model", str(demo.fetch())]
    command += ["--port", str(port), "--ctx-size", str(ctx), "--threads", str(threads), *options]
    with ended(start(command, port, folder).process):
        yield port
