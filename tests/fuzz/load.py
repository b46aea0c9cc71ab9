"""Keep-alive load of every manner at once: `python -m tests.fuzz.load --seconds 60 --seed 1`.

Clients pipeline, leave in the middle, read slowly, and send what is no request; the engine echoes what it got, so that
each answer shows whose it is. Exit code 1: an answer was another request's, was missing, or did not come in time; the
engine got what is no sound request; or the proxy, left alone, holds more descriptors or memory than before.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from random import Random

import psutil
import uvloop

from tests.acceptance.standing import Standing, standing
from tests.clients import Client, Unframed, connected
from tests.strict_engine import echo

CLIENTS = 24
WARM_UP = 0.2  # of the seconds: what is allocated once is then allocated
PATIENCE = 20.0  # seconds for one batch
UNUSED = 7.0  # seconds; by then connections to the engine that were kept for reuse are closed
GROWTH = 16 << 20  # bytes of resident memory, at most
GARBAGE = (
    *(b"\0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX Y: 1\r\n\r\n", b"G@T / HTTP/1.1\r\n\r\n"),
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    *(b"GET / RTSP/1.0\r\n\r\n", b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n"),
)

EXTRA = ("", "traceparent: 00-{:032x}-00f067aa0ba902b7-01\r\n", "Connection: upgrade\r\nUpgrade: h2c\r\n")
TRAILERS = b"X-Request-Id: 0\r\nX-Trailer: {}\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One request, and the answer that is due."""

    data: bytes
    answer: bytes


class Wrong(Exception):
    """An answer that is not the one that is due."""


class Load:
    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._numbers = iter(range(10**9))
        self._seed = seed

    async def run(self, seconds: float, requests: int) -> None:
        """Until so many seconds are over, or so many more requests were sent."""
        until, most = time.monotonic() + seconds, self.seen["requests"] + requests

        async def client(number: int) -> None:
            dice = Random(self._seed * 1000 + number)
            while time.monotonic() < until and self.seen["requests"] < most:
                manner = dice.choice(MANNERS)
                await self._judged(manner.__name__.strip("_"), manner(self, dice))

        async with asyncio.TaskGroup() as tasks:
            for number in range(CLIENTS):
                tasks.create_task(client(number))

    async def _judged(self, name: str, connection: Awaitable[None]) -> None:
        self.seen[name] += 1
        try:
            async with asyncio.timeout(PATIENCE):
                await connection
        except TimeoutError:
            self.wrong.append(f"{name}: nothing came for {PATIENCE:g} s")
        except (Wrong, Unframed, ConnectionError) as error:
            self.wrong.append(f"{name}: {error!r}")

    def orders(self, dice: Random, count: int, size: int) -> list[Order]:
        self.seen["requests"] += count
        return [_order(dice, next(self._numbers), dice.randrange(size)) for _ in range(count)]


def _order(dice: Random, number: int, size: int) -> Order:
    target, body = f"/{number}", dice.randbytes(size)
    head = f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-Id: {number}\r\n"
    head += dice.choice(EXTRA).format(number)
    if dice.random() < 0.3:
        cut = dice.randrange(size + 1)
        chunks = b"".join(b"%x;n=1\r\n%b\r\n" % (len(one), one) for one in (body[:cut], body[cut:]) if one)
        framed = b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + TRAILERS + b"\r\n"
    else:
        framed = b"Content-Length: %d\r\n\r\n" % size + body
    return Order(data=head.encode() + framed, answer=echo(f"POST {target} HTTP/1.1".encode(), body))


async def _check(client: Client, order: Order) -> None:
    answer = await client.answer()
    if answer.status != 200:
        raise Wrong(f"{answer.status} {answer.body[:200]!r}")
    if answer.body != order.answer:
        raise Wrong(f"{answer.body[:80]!r} instead of {order.answer[:80]!r}")
    number = order.answer.split(b" ")[1].decode().removeprefix("/")
    if answer.head["x-request-id"] != number:
        raise Wrong(f"the id {answer.head['x-request-id']} instead of {number}")


def _cut(dice: Random, data: bytes) -> list[bytes]:
    place = dice.randrange(len(data))
    return [data] if dice.random() < 0.7 else [data[:place], data[place:]]


async def _send(dice: Random, client: Client, orders: list[Order]) -> None:
    for piece in _cut(dice, b"".join(order.data for order in orders)):
        client.send(piece)
        await asyncio.sleep(0)


async def pipelining(load: Load, dice: Random) -> None:
    async with connected(load.port) as client:
        for _ in range(dice.randint(1, 20)):
            orders = load.orders(dice, dice.randint(1, 8), 2000)
            await _send(dice, client, orders)
            for order in orders:
                await _check(client, order)


async def leaving(load: Load, dice: Random) -> None:
    """With requests half sent, unanswered, or answered in part."""
    async with connected(load.port) as client:
        orders = load.orders(dice, dice.randint(1, 8), 50_000)
        ends = list(accumulate(len(order.data) for order in orders))
        sent = dice.randint(1, ends[-1])
        client.send(b"".join(order.data for order in orders)[:sent])
        whole = sum(end <= sent for end in ends)
        for order in orders[: dice.randrange(whole + 1)]:
            await _check(client, order)
        client.abort()


async def reading_slowly(load: Load, dice: Random) -> None:
    async with connected(load.port) as client:
        orders = load.orders(dice, dice.randint(1, 4), 400_000)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a Transport, typed as its base
        await _send(dice, client, orders)
        await asyncio.sleep(dice.random() * 0.3)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for order in orders:
            await _check(client, order)


async def malformed(load: Load, dice: Random) -> None:
    """Good requests, answered first or pipelined, then something else: a refusal, and the end."""
    async with connected(load.port) as client:
        orders = load.orders(dice, dice.randint(0, 3), 2000)
        await _send(dice, client, orders) if orders else None
        for order in orders:
            await _check(client, order)
        client.send(dice.choice(GARBAGE))
        answer = await client.answer()
        if not 400 <= answer.status < 600:
            raise Wrong(f"{answer.status} to what is no request")
        if not await client.closed():
            raise Wrong("it goes on after what is no request")


async def own_pages(load: Load, dice: Random) -> None:
    async with connected(load.port) as client:
        for path, status in dice.sample((("/health", 200), ("/metrics", 200), ("/slotproxy/nothing", 404)), 3):
            (order,) = load.orders(dice, 1, 2000)
            client.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode() + order.data)
            answer = await client.answer()
            if answer.status != status:
                raise Wrong(f"{answer.status} for {path}")
            await _check(client, order)


MANNERS: tuple[Callable[[Load, Random], Awaitable[None]], ...] = (
    *(pipelining, pipelining, pipelining),
    *(leaving, reading_slowly, malformed, own_pages),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The proxy, left alone."""

    descriptors: int
    resident: int  # bytes


async def at_rest(bench: Standing) -> Reading:
    await asyncio.sleep(UNUSED)
    process = psutil.Process(bench.proxy.pid)
    return Reading(descriptors=process.num_fds(), resident=process.memory_info().rss)


async def forget(bench: Standing) -> None:
    """What the engine notes would fill the memory."""
    while True:
        bench.take()
        await asyncio.sleep(0.2)


async def run(bench: Standing, seconds: float, requests: int, seed: int) -> bool:
    """Whether all was well."""
    load = Load(bench.port, seed)
    async with asyncio.TaskGroup() as tasks:
        forgetting = tasks.create_task(forget(bench))
        await load.run(seconds * WARM_UP, requests)
        before = await at_rest(bench)
        await load.run(seconds * (1 - WARM_UP), requests)
        after = await at_rest(bench)
        forgetting.cancel()
    print("\n".join(load.wrong[:20]), file=sys.stderr)
    print(
        json.dumps(
            {
                "seed": seed,
                **dict(sorted(load.seen.items())),
                "wrong": len(load.wrong),
                "descriptors": [before.descriptors, after.descriptors],
                "resident MiB": [round(one.resident / 2**20, 1) for one in (before, after)],
            },
            indent=2,
        )
    )
    kept = after.descriptors <= before.descriptors and after.resident <= before.resident + GROWTH
    return kept and not load.wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.load", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--requests", type=int, default=1_000_000, help="no more than so many")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slotproxy-load-") as scratch, standing(Path(scratch)) as bench:
        sound = uvloop.run(run(bench, options.seconds, options.requests, options.seed))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
