"""Random bytes at the front of a proxy and at aiohttp's own parser: `python -m tests.fuzz --seconds 60 --seed 1`.

Both should read the same requests out of them; where they do not, a rule of `tests.fuzz.rules` has to say why. The
proxy is the installed command, its engine a strict one that echoes. Exit code 1: nothing explains a difference, which
is printed; `--replay HEX` plays its bytes once more.
"""

import argparse
import asyncio
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.acceptance.messages import cut
from tests.acceptance.standing import Standing, standing
from tests.clients import Answer, Unframed, connected
from tests.fuzz import grammar, reference
from tests.fuzz.reference import Reading
from tests.fuzz.rules import BLANK_AFTER_CODING, METHODS, Difference, Kind, explain
from tests.strict_engine import Seen

PATIENCE = 3.0  # seconds for all answers of a connection
BETWEEN_PIECES = 0.001  # seconds
LEFT = 0.1  # seconds in which what was left behind reaches the engine
SHOWN = 10  # unexplained differences, after which there is no point in going on


@dataclass(kw_only=True)
class Heard:
    """What a client got on one connection."""

    answers: list[Answer] = field(default_factory=list)
    silent: bool = False  # neither an answer nor an end came in time
    cut: bool = False  # the end came in the middle of an answer
    ended: bool = False  # by the proxy, in order: nothing of it is still on its way to the engine


async def talk(port: int, pieces: list[bytes], reading: Reading) -> Heard:
    """Send all, wait for as many answers as there are requests, then say that nothing more will come."""
    heard = Heard()
    async with connected(port) as client:
        with suppress(OSError):  # a reset; then writing fails, too
            for number, piece in enumerate(pieces):
                if number:
                    await asyncio.sleep(BETWEEN_PIECES)
                client.send(piece)
            try:
                async with asyncio.timeout(PATIENCE):
                    for message in reading.messages:
                        to_head = message.method == "HEAD"
                        heard.answers.append(await client.answer(to_head=to_head))
                        if to_head and heard.answers[-1].status >= 400:
                            return heard  # it may have a body or none, and nobody can tell what follows
                    client.writer.write_eof()
                    while True:
                        heard.answers.append(await client.answer())
            except TimeoutError:
                heard.silent = True
            except Unframed as end:
                heard.cut = end.body != b""
                heard.ended = True
    return heard


def compare(reading: Reading, heard: Heard, seen: list[Seen]) -> Iterator[Difference]:
    """Up to the first request after which the two need no longer be in step."""
    engine, answers = iter(seen), iter(heard.answers)
    yield from (Difference(kind=Kind.UNSOUND, seen=one) for one in seen if one.faults)
    if heard.cut and b"HEAD " not in reading.rest:  # of answers beyond those nobody can tell what they answer
        yield Difference(kind=Kind.CUT)
    for message in reading.messages:
        if BLANK_AFTER_CODING.search(message.raw):
            yield Difference(kind=Kind.SERVED, rest=message.raw)  # they may disagree about its end
            return
        answer = next(answers, None)
        if answer is None:
            yield Difference(kind=Kind.SILENT if heard.silent else Kind.UNANSWERED, message=message)
            return
        if answer.status >= 400:
            yield Difference(kind=Kind.REFUSED, message=message, answer=answer)
            if answer.head.get("connection") == "close" or message.method == "HEAD" or message.method not in METHODS:
                return  # where a CONNECT ends, for one, is told by no standard once it is refused
            continue
        if answer.head.get("x-slotproxy-instance") is None:
            continue  # the proxy's own answer, as to OPTIONS *
        one = next(engine, None)
        if one is None:
            yield Difference(kind=Kind.UNSOUND, message=message, answer=answer)
            return
        yield from _compare_one(message, answer, one)
    for answer in answers:
        if answer.status < 400:
            yield Difference(
                kind=Kind.SERVED, answer=answer, seen=next(engine, None), error=reading.error, rest=reading.rest
            )
    if heard.silent:
        yield Difference(kind=Kind.SILENT, error=reading.error, rest=reading.rest)


def _compare_one(message: reference.Message, answer: Answer, seen: Seen) -> Iterator[Difference]:
    line = seen.head.partition(b"\r\n")[0]
    pairs = [pair.partition(b":") for pair in seen.head.removesuffix(b"\r\n\r\n").split(b"\r\n")[1:]]
    same = {
        Kind.METHOD: line.partition(b" ")[0] == message.method.encode(),
        Kind.TARGET: seen.target == message.target,
        Kind.FIELDS: [(name, value.strip(b" \t")) for name, _, value in pairs] == list(message.fields),
        Kind.BODY: seen.body == message.body,
    }
    yield from (
        Difference(kind=kind, message=message, answer=answer, seen=seen) for kind, equal in same.items() if not equal
    )


async def case(bench: Standing, pieces: list[bytes]) -> list[Difference]:
    bench.engine.seen.clear()
    reading = reference.read(b"".join(pieces))
    heard = await talk(bench.port, pieces, reading)
    if not heard.ended:
        await asyncio.sleep(LEFT)
    return list(compare(reading, heard, list(bench.engine.seen)))


def show(data: bytes, differences: list[Difference]) -> None:
    print(f"\nunexplained: {_short(data, 1500)}\n  --replay {data.hex()}")
    for one in differences:
        if one.message is not None:
            own = one.message
            print(f"  {one.kind}\n    aiohttp reads {own.method} {own.target!r} {_short(own.body)}")
        else:
            print(f"  {one.kind}\n    aiohttp says {one.error!r} of {_short(one.rest)}")
        if one.answer is not None:
            print(f"    the client gets {one.answer.status} {_short(one.answer.body)}")
        if one.seen is not None:
            print(f"    the engine gets {_short(one.seen.head, 1000)} {_short(one.seen.body)}")
    sys.stdout.flush()


def _short(data: bytes, size: int = 300) -> str:
    """Long repetitions as their number."""
    told = re.sub(rb"(.)\1{30,}", lambda run: b"%b{%d}" % (run[1], len(run[0])), data, flags=re.DOTALL)
    return f"{told[:size]!r}" + (f" and {len(told) - size} bytes" if len(told) > size else "")


async def confirmed(bench: Standing, pieces: list[bytes], differences: list[Difference]) -> list[Difference]:
    """Those that nothing explains, if they show a second time: the engine may have noted a request of the connection
    before, which its client left.
    """
    if all(explain(one) for one in differences):
        return []
    await asyncio.sleep(LEFT)
    return [one for one in await case(bench, pieces) if explain(one) is None]


async def run(bench: Standing, seconds: float, seed: int) -> int:
    dice, until = Random(seed), time.monotonic() + seconds
    explained: Counter[str] = Counter()
    cases = served = unexplained = 0
    while time.monotonic() < until and unexplained < SHOWN:
        data = grammar.connection(dice)
        places = [dice.randrange(1, len(data) + 1) for _ in range(dice.choice((0, 0, 0, 1, 3)))] if data else []
        differences = await case(bench, cut(data, places))
        cases, served = cases + 1, served + len(bench.engine.seen)
        explained.update(filter(None, map(explain, differences)))
        if left := await confirmed(bench, cut(data, places), differences):
            unexplained += 1
            show(data, left)
    print(f"seed {seed}: {cases} connections, {served} requests served, {unexplained} unexplained")
    print("\n".join(f"  {count:7} {name}" for name, count in explained.most_common()))
    return 1 if unexplained else 0


async def replay(bench: Standing, data: bytes) -> int:
    differences = await case(bench, [data])
    for one in differences:
        print(f"{one.kind}: {explain(one) or 'nothing explains it'}")
    return 1 if any(explain(one) is None for one in differences) else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", help="the bytes of one connection, in hexadecimal")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slotproxy-fuzz-") as scratch, standing(Path(scratch)) as bench:
        if options.replay is not None:
            return asyncio.run(replay(bench, bytes.fromhex(options.replay)))
        return asyncio.run(run(bench, options.seconds, options.seed))


if __name__ == "__main__":
    sys.exit(main())
