"""The data plane without processes: a front on a free port, leases on engines that are scripts of bytes."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from slotproxy.instances.decisions import DecisionCount, Move
from slotproxy.instances.errors import InstanceError, NoSuchInstance, OperationRefused
from slotproxy.instances.lifecycle import State
from slotproxy.instances.slotless import Slotless
from slotproxy.instances.slots.lease import Answered, KnownLease, Lease
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.slots.pool import Pool
from slotproxy.instances.slots.routing import least_busy
from slotproxy.instances.snapshot import Kind, Member, Snapshot
from slotproxy.instances.upstream import Field, Observer, Upstream
from slotproxy.proxy.accounts.metrics import Metrics
from slotproxy.proxy.clients.access import Access
from slotproxy.proxy.clients.front import Front
from slotproxy.proxy.exchange.deadlines import Limits
from slotproxy.proxy.exchange.forward import Forwarder
from slotproxy.proxy.exchange.gate import Gate
from slotproxy.proxy.operator.application import application
from slotproxy.proxy.operator.serving import served
from slotproxy.proxy.operator.stopping import Stopping

SOON = 5.0
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Script:
    """An engine that is a function of one connection's streams. Remembers what it was sent."""

    talk: Talk
    port: int = 0
    connections: int = 0
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        """One whole request; its head."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        self.heads.append(head)
        self.bodies.append(await reader.readexactly(length))
        return head


def answering(*answers: bytes) -> Script:
    """An engine that gives these answers in turn, the last for ever, and keeps its connections."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await script.request(reader)
            writer.write(answers[min(len(script.heads), len(answers)) - 1])

    script = Script(talk)
    return script


@dataclass
class Owner:
    """Remembers what the data plane reports; gives abandoned slots back only when told."""

    lost: list[Lease] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    vain: InstanceError | None = None
    answers: list[tuple[str, int | None, tuple[Field, ...], bytes]] = field(default_factory=list)

    async def prepare(self, lease: KnownLease) -> None:
        pass

    def answered(self, lease: KnownLease, answered: Answered) -> None:
        lease.release()

    def abandoned(self, lease: Lease) -> None:
        self.lost.append(lease)

    def failed(self, upstream: Upstream, reason: str) -> None:
        self.failures.append((upstream.instance, reason))

    def observer(self, upstream: Upstream) -> Observer:
        return lambda status, fields, body: self.answers.append((upstream.instance, status, fields, body))

    def why_no_slot_within(self, seconds: float) -> InstanceError | None:
        return self.vain


@dataclass
class Operator:
    """Remembers what it is asked; does not know an instance "9", and refuses to take the last one out."""

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
        self.asked.append(("restart", name or "all"))

    def log(self, name: str) -> tuple[str, ...]:
        self._known(name)
        return ("one", "two")

    def _known(self, name: str | None) -> None:
        if name == "9":
            raise NoSuchInstance("there is no instance '9'")


@dataclass
class Stack:
    port: int
    leases: Leases
    owner: Owner
    forwarder: Forwarder
    metrics: Metrics
    gate: Gate
    stopping: Stopping
    front: Front
    upstreams: list[Upstream]
    operations: "Operator"

    def stop(self) -> None:
        """As when a signal has come: who comes now is told so."""
        self.gate.stop()
        self.stopping.begin()

    async def client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, request: bytes) -> bytes:
        """Send `request` on a connection of its own; everything that came back until the proxy closed it."""
        reader, writer = await self.client()
        writer.write(request)
        try:
            return await asyncio.wait_for(reader.read(), SOON)
        finally:
            writer.close()

    def metric(self, line: str) -> float:
        for found in self.metrics.page().decode().splitlines():
            if found.startswith(line + " "):
                return float(found.rpartition(" ")[2])
        return 0.0


MakeStack = Callable[..., Awaitable[Stack]]


@pytest.fixture
async def stack() -> AsyncIterator[MakeStack]:
    async with AsyncExitStack() as exits:

        async def start(
            *scripts: Script,
            queue: int = 4,
            per_client: int | None = None,
            queue_timeout: float = SOON,
            prefill_timeout: float = SOON,
            stall_timeout: float = SOON,
            sse_ping: float | None = None,
            keepalive: float = 4.0,
            write_stall: float = 0.0,
            max_body: int = 1 << 20,
            keys: tuple[str, ...] = (),
            loopback: bool = True,
            kind: Kind = Kind.INSTANCE,
            slotless: tuple[str, ...] = (),
            observed: bool = False,
            model: str | None = None,
        ) -> Stack:
            upstreams = []
            for number, script in enumerate(scripts):
                script.port = await _engine(exits, script)
                upstreams.append(
                    Upstream(
                        instance=str(number),
                        host="127.0.0.1",
                        port=script.port,
                        keepalive=keepalive,
                        write_stall=write_stall,
                        slotless=Slotless(slotless),
                        observed=observed,
                        model=model,
                    )
                )
            leases = Leases(Pool(queue))
            leases.reconfigure(queue, least_busy, per_client)
            leases.owner = owner = Owner()
            for upstream in upstreams:
                leases.add(upstream)
            metrics = Metrics(lambda: snapshot_of(leases, upstreams), lambda: leases.queued)
            limits = Limits(
                queue=queue,
                queue_timeout=queue_timeout,
                prefill_timeout=prefill_timeout,
                stall_timeout=stall_timeout,
                sse_ping=sse_ping,
            )
            operations, stopping = Operator(), Stopping()
            pages = await exits.enter_async_context(
                served(
                    application(
                        snapshot=lambda: snapshot_of(leases, upstreams, kind),
                        queued=lambda: leases.queued,
                        page=metrics.page,
                        operations=operations,
                        version="0",
                        stopping=stopping,
                    )
                )
            )
            gate = Gate(Access(keys=keys, loopback=loopback), max_body, lambda: kind is Kind.UPSTREAM)
            forwarder = Forwarder(gate, leases, limits, metrics, pages, strip_credentials=bool(keys))
            exits.push_async_callback(forwarder.closed)
            exits.callback(forwarder.break_off)
            front = Front(forwarder)
            port = await exits.enter_async_context(listening(front))
            return Stack(port, leases, owner, forwarder, metrics, gate, stopping, front, upstreams, operations)

        yield start


@asynccontextmanager
async def listening(front: Front) -> AsyncIterator[int]:
    """`front` serves on this port."""
    sock = socket.create_server(("127.0.0.1", 0))
    await front.listen(sock)
    try:
        yield sock.getsockname()[1]
    finally:
        await front.closed(0.01)
        sock.close()


async def _engine(exits: AsyncExitStack, script: Script) -> int:
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script.talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except asyncio.CancelledError:
            pass  # the test is over; streams would report it as an error
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)

    async def stop() -> None:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    exits.push_async_callback(stop)
    port: int = server.sockets[0].getsockname()[1]
    return port


def snapshot_of(leases: Leases, upstreams: list[Upstream], kind: Kind = Kind.INSTANCE) -> Snapshot:
    members = tuple(
        Member(
            id=upstream.instance,
            kind=kind,
            state=State.READY,
            pid=None,
            host=upstream.host,
            port=upstream.port,
            n_ctx=2048,
            slots=upstream.slots,
            leased=leases.leased(upstream),
            memory=None,
            restarts=0,
            reason="",
            since=0.0,
        )
        for upstream in upstreams
    )
    return Snapshot(
        members=members,
        memory_used=0,
        memory_limit=1,
        memory_source="",
        decisions=(),
        decision_counts=(DecisionCount(decision=Move.ADD, reason="fits", count=2),),
        models=({"id": "demo", "meta": {"n_ctx": 8192}},),
        settled=True,
        hopeless=None,
    )
