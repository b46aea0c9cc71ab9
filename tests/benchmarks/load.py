"""The loads: what is asked of a proxy, how it answered, and what that cost it."""

import asyncio
import gc
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic, monotonic_ns
from typing import Any

import uvloop

from tests.benchmarks import wire
from tests.benchmarks.client import Answer, Client, Lost
from tests.benchmarks.family import Family

LATE = 15.0  # seconds a stream may end after it would have without a proxy; then it is lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """`clients`, each with `repeats` streams one after another, the first of each begun within `ramp` seconds."""

    clients: int
    repeats: int = 1
    events: int
    gap: float  # seconds between events
    ramp: float

    @property
    def request(self) -> bytes:
        return wire.request(stream=True, max_tokens=self.events, seed=round(self.gap * 1000))

    @property
    def seconds(self) -> float:
        return self.ramp + self.repeats * (self.events - 1) * self.gap

    @property
    def total(self) -> int:
        return self.clients * self.repeats


@dataclass(slots=True)
class Outcome:
    """What came of a load. Durations are seconds."""

    cpu: float = 0.0
    seconds: float = 0.0
    resident: int = 0  # bytes, halfway
    whole: int = 0  # answers that came whole
    lost: int = 0
    altered: int = 0  # not what the engine sent, byte for byte; told for the replay only
    events: int = 0
    size: int = 0  # bytes of bodies, both ways
    first_byte: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)

    @contextmanager
    def charged_to(self, family: Family | None) -> Iterator[None]:
        """Measure what `family` uses meanwhile."""
        before = family.cpu() if family else 0.0
        yield
        self.cpu = family.cpu() - before if family else 0.0

    def look_at(self, family: Family | None) -> None:
        self.resident = family.resident() if family else 0

    def add_stream(self, answer: Answer, events: int, since: int, until: int) -> None:
        """Account for a stream of so many events; its delays count between the two moments (nanoseconds)."""
        self.events += len(answer.stamps)
        self.first_byte.append((answer.first - answer.sent) / 1e9)
        self.delays += ((came - sent) / 1e9 for sent, came in answer.stamps if since <= sent <= until)
        self.whole += answer.done and len(answer.stamps) == events


def run(load: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Run one load on a loop of its own, with the collector still: its pauses would count as the proxy's delay."""
    gc.collect()
    gc.disable()
    try:
        return uvloop.run(load)
    finally:
        gc.enable()


async def streams(port: int, plan: Streams, family: Family | None) -> Outcome:
    """Timed streams; delays are those of the time when every client has its stream."""
    outcome = Outcome()
    async with _clients(port, plan.clients) as clients:
        now = monotonic_ns()
        window = now + int(plan.ramp * 1e9), now + int((plan.seconds - plan.ramp) * 1e9)
        with outcome.charged_to(family):
            halfway = asyncio.get_running_loop().call_later(plan.seconds / 2, outcome.look_at, family)
            workers = (_streams(client, plan, place, outcome, window) for place, client in enumerate(clients))
            await _all(workers, plan.seconds + LATE)
            halfway.cancel()
    outcome.lost = plan.total - outcome.whole
    return outcome


async def _streams(client: Client, plan: Streams, place: int, outcome: Outcome, window: tuple[int, int]) -> None:
    await asyncio.sleep(plan.ramp * place / plan.clients)
    request = plan.request
    for _ in range(plan.repeats):
        with suppress(Lost):
            outcome.add_stream(await client.ask(request, streamed=True), plan.events, *window)


async def replay(port: int, clients: int, family: Family | None) -> Outcome:
    """The recorded stream to every client at once, compared byte for byte."""
    outcome = Outcome()
    recording, request = wire.recording(), wire.request(stream=True)

    async def one(client: Client) -> None:
        with suppress(Lost):
            answer = await client.ask(request, keep=True)
            outcome.whole += 1
            outcome.events += recording.events
            outcome.altered += b"".join(answer.body) != recording.body

    async with _clients(port, clients) as ready:
        with outcome.charged_to(family):
            await _all(map(one, ready), sum(recording.gaps) + LATE)
    outcome.lost = clients - outcome.whole
    return outcome


async def requests(port: int, clients: int, seconds: float, request: bytes, family: Family | None) -> Outcome:
    """The same request again and again, each client's next as soon as it has its answer."""
    outcome = Outcome()

    async def one(client: Client) -> None:
        while monotonic() < deadline:
            try:
                outcome.size += (await client.ask(request)).size + len(request)
                outcome.whole += 1
            except Lost:
                outcome.lost += 1

    async with _clients(port, clients) as ready:
        deadline = monotonic() + seconds
        with outcome.charged_to(family):
            await _all(map(one, ready), seconds + LATE)
    return outcome


async def times(port: int, number: int, request: bytes) -> Outcome:
    """The same request so many times, by one client."""
    outcome = Outcome()
    async with _clients(port, 1) as (client,):
        for _ in range(number):
            try:
                await client.ask(request)
                outcome.whole += 1
            except Lost:
                outcome.lost += 1
    return outcome


async def generations(ports: Sequence[int], request: bytes) -> Outcome:
    """A client at each port, each with one answer.

    Each on a connection of its own: llama.cpp closes one after a stream, when it likes.
    """
    outcome = Outcome()
    began = monotonic()

    async def one(port: int) -> None:
        client = Client(port)
        try:
            answer = await client.ask(request)
            outcome.first_byte.append((answer.first - answer.sent) / 1e9)
            outcome.whole += 1
        except Lost:
            outcome.lost += 1
        client.close()

    async with asyncio.TaskGroup() as tasks:
        for port in ports:
            tasks.create_task(one(port))
    outcome.seconds = monotonic() - began
    return outcome


@asynccontextmanager
async def _clients(port: int, number: int) -> AsyncIterator[list[Client]]:
    """Clients that are connected already, so that connecting is not measured."""
    clients = [Client(port) for _ in range(number)]
    try:
        for client in clients:
            await client.open()
        yield clients
    finally:
        for client in clients:
            client.close()


async def _all(workers: Iterable[Coroutine[Any, Any, None]], limit: float) -> None:
    """Until all are done, or the limit has passed and the rest is lost."""
    with suppress(TimeoutError):
        async with asyncio.timeout(limit), asyncio.TaskGroup() as tasks:
            for worker in workers:
                tasks.create_task(worker)
