"""The benchmark's own rules: it counts what came, compares like with like, and touches only its place in a document."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.benchmarks import load, results, tables, wire
from tests.benchmarks.client import Connection, Lost
from tests.benchmarks.load import Streams
from tests.benchmarks.rounds import Run
from tests.benchmarks.stand_in import Clock
from tests.benchmarks.stand_in import Connection as EngineConnection


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Of a stand-in engine in the test's own loop."""
    clock = Clock()
    server = await asyncio.get_running_loop().create_server(lambda: EngineConnection(clock), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


class Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    def write(self, data: object) -> None:
        pass


def stream(events: int) -> bytes:
    stamped = [wire.BEFORE_STAMP + b"%016d" % number + wire.AFTER_STAMP for number in range(1, events + 1)]
    return wire.STREAM_HEAD + wire.STREAM_OPENING + b"".join(stamped) + wire.STREAM_END


@pytest.mark.parametrize("size", [1, 7, 100, 100_000])
async def test_every_event_is_counted_once_wherever_the_stream_was_cut(size: int) -> None:
    connection, data = Connection(), stream(5)
    connection.connection_made(Wire())
    waiter = connection.ask(b"", streamed=True)
    for start in range(0, len(data), size):
        connection.data_received(data[start : start + size])
    answer = await waiter
    assert [sent for sent, _ in answer.stamps] == [1, 2, 3, 4, 5]
    assert answer.done


async def test_asking_on_a_closed_connection_is_a_lost_answer() -> None:
    with pytest.raises(Lost, match="closed"):
        await Connection().ask(b"")


async def test_streams_come_whole_with_their_times(port: int) -> None:
    plan = Streams(clients=3, repeats=2, events=4, gap=0.001, ramp=0.0)
    outcome = await load.streams(port, plan, None)
    assert (outcome.whole, outcome.lost, outcome.events) == (6, 0, 24)
    assert all(delay >= 0 for delay in outcome.delays)


async def test_a_stream_without_its_end_is_lost(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "STREAM_END", b"0\r\n\r\n")
    outcome = await load.streams(port, Streams(clients=2, events=2, gap=0.001, ramp=0.0), None)
    assert (outcome.whole, outcome.lost) == (0, 2)


async def test_the_recorded_stream_is_compared_byte_for_byte(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = wire.recording()
    short = wire.Recording(chunks=recording.chunks[:3], gaps=(0.0,) * 3)
    monkeypatch.setattr(wire, "recording", lambda: short)
    assert (await load.replay(port, 2, None)).altered == 0
    other = wire.Recording(chunks=(*short.chunks[:2], short.chunks[2].replace(b"}", b" }", 1)), gaps=short.gaps)
    sent = iter([short, other])  # told to the client, then to the engine
    monkeypatch.setattr(wire, "recording", lambda: next(sent))
    assert (await load.replay(port, 1, None)).altered == 1


async def test_a_refusal_is_a_lost_answer(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SHORT", wire.SHORT.replace(b"200 OK", b"503 No", 1))
    outcome = await load.times(port, 3, wire.request())
    assert (outcome.whole, outcome.lost) == (0, 3)


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    rounds = [
        {"nginx": {"us_per_event": base}, "x": {"us_per_event": own}}
        for base, own in [(10.0, 20.0), (40.0, 60.0), (9.0, 27.0)]
    ]
    summary = results.medians(Run(versions={}, missing={}, stolen=0.0, rounds=rounds))
    assert summary["x"]["us_per_event_ratio"] == 2.0
    assert "us_per_event_ratio" not in summary["nginx"]


def test_an_unknown_figure_is_a_dash_and_never_part_of_a_median() -> None:
    rounds = [{"x": {"us_per_event": value}} for value in (math.nan, 4.0, 6.0)]
    summary = results.medians(Run(versions={}, missing={}, stolen=0.0, rounds=rounds))
    assert results.rows(summary, results.COST[:2]) == [["x", "5.0", "-"]]


def test_what_was_lost_in_any_round_is_told() -> None:
    rounds = [{"x": {"us_per_event": 1.0, "stream_lost": lost, "big_lost": 1}} for lost in (0, 2, 0)]
    assert results.medians(Run(versions={}, missing={}, stolen=0.0, rounds=rounds))["x"]["lost"] == 5


def test_a_missing_proxy_is_named_with_the_reason() -> None:
    run = Run(versions={}, missing={"nginx": "not installed"}, stolen=0.0, rounds=[])
    assert results.notes(run, {}) == ["nginx: not measured, not installed."]


def test_a_table_goes_between_its_markers_and_nowhere_else(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- bench:cost -->\nold\n<!-- /bench:cost -->\nafter\n")
    tables.put(document, "cost", tables.markdown(["", "a"], [["x", "1"]]))
    assert tables.between(document.read_text(), "cost") == "|  | a |\n| --- | --: |\n| x | 1 |"
    assert document.read_text().startswith("before\n")
    assert document.read_text().endswith("\nafter\n")


def test_a_document_without_a_place_is_refused_with_what_to_write(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("nothing")
    with pytest.raises(tables.NoPlace, match="bench:cost"):
        tables.check([document], ["cost"])
