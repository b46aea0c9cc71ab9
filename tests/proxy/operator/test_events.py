"""The stream of events: what is sent when, to how many, and how it ends."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from slotproxy.instances.snapshot import Snapshot
from slotproxy.proxy.operator import events
from slotproxy.proxy.operator.document import StateDocument
from slotproxy.proxy.operator.events import ALIVE, EVERY, KEEPALIVE, Event, Latest, Watcher
from slotproxy.proxy.operator.serving import Connect, served
from slotproxy.proxy.operator.state import state_of
from tests.clients import Client, Unframed, request
from tests.proxy.operator.conftest import Asking, Supply, code_of, over, snapshot_of

EVENTS = "/slotproxy/api/events"
FIRST = Event(data=b"first", mark=b"1")
SAME = Event(data=b"first, later", mark=b"1")
OTHER = Event(data=b"other", mark=b"2")


def test_a_watcher_is_sent_the_first_event_then_changes_only() -> None:
    watcher = Watcher()
    assert watcher.due(FIRST, 100.0) == b"first"
    assert watcher.due(SAME, 100.5) == b""
    assert watcher.due(OTHER, 101.0) == b"other"
    assert watcher.due(FIRST, 101.5) == b"first"


def test_a_comment_breaks_every_silence() -> None:
    watcher = Watcher()
    watcher.due(FIRST, 100.0)
    assert watcher.due(SAME, 99.9 + KEEPALIVE) == b""
    assert watcher.due(SAME, 100.0 + KEEPALIVE) == ALIVE
    assert watcher.due(SAME, 99.9 + 2 * KEEPALIVE) == b""
    assert watcher.due(OTHER, 100.0 + 2 * KEEPALIVE) == b"other"
    assert watcher.due(OTHER, 99.9 + 3 * KEEPALIVE) == b""


def test_the_state_is_looked_at_once_in_a_while_however_many_watch() -> None:
    supply = Supply()

    def state() -> StateDocument:
        return state_of(supply.look(), version="0", queued=0, now=0.0)

    latest = Latest(state)
    for _ in range(32):
        assert latest.at(100.0) is latest.at(100.0 + 0.9 * EVERY)
    assert supply.looked == 1
    latest.at(100.0 + EVERY)
    assert supply.looked == 2
    latest.renewed(100.0 + 1.1 * EVERY)
    assert supply.looked == 3
    latest.at(100.0 + 2 * EVERY)
    assert supply.looked == 3


def state_in(event: bytes) -> Any:
    kind, data = event.split(b"\n")
    assert kind == b"event: state"
    return json.loads(data.removeprefix(b"data: "))


def leased_in(event: bytes) -> int:
    return int(state_in(event)["members"][0]["leased"])


@asynccontextmanager
async def watching(connect: Connect) -> AsyncIterator[Client]:
    async with asyncio.timeout(10), over(connect) as client:
        client.send(request("GET", EVENTS))
        yield client


@pytest.fixture
async def connect(supply: Supply, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connect]:
    monkeypatch.setattr(events, "EVERY", 0.01)
    async with served(supply.application()) as connect:
        yield connect


async def test_events_begin_with_the_state_and_follow_its_changes(supply: Supply, connect: Connect) -> None:
    async with watching(connect) as client:
        head = await client.head()
        assert head["content-type"] == "text/event-stream"
        assert head["x-accel-buffering"] == "no"
        assert head["cache-control"] == "no-store"
        assert leased_in(await client.next_event()) == 0
        supply.lease(1)
        assert leased_in(await client.next_event()) == 1
        supply.lease(0)
        assert leased_in(await client.next_event()) == 0
        supply.stopping.begin()
        assert [event async for event in client.events()] == []


async def test_a_change_that_was_made_before_is_in_the_first_event(
    supply: Supply, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "EVERY", 3600.0)
    async with watching(connect) as early:
        await early.head()
        assert leased_in(await early.next_event()) == 0
        supply.lease(1)
        async with watching(connect) as late:
            await late.head()
            assert leased_in(await late.next_event()) == 1


async def test_a_stream_ends_at_once_and_properly_when_the_proxy_stops(
    supply: Supply, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "EVERY", 3600.0)
    async with watching(connect) as client:
        await client.head()
        await client.next_event()
        supply.stopping.begin()
        assert await client.rest() == b""
        client.send(request("GET", EVENTS))
        assert (await client.answer()).body == b""


async def test_a_head_request_is_no_way_to_watch(pages: Asking) -> None:
    for method in ("HEAD", "POST"):
        answer = await pages.request(method, EVENTS)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET")


async def test_a_watcher_that_left_makes_room(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events, "MOST_WATCHERS", 1)
    async with watching(connect) as client:
        await client.head()
        await client.next_event()
        async with watching(connect) as another:
            refused = await another.answer()
            assert (refused.status, code_of(refused.json())) == (409, "refused")
            assert "1 clients watch already" in refused.json()["error"]["message"]
        client.abort()
    async with asyncio.timeout(5), over(connect) as client:
        while True:
            client.send(request("GET", EVENTS))
            head = await client.head()
            if head.status == 200:
                break
            await client.reader.readexactly(int(head["content-length"]))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_watcher_that_does_not_read_is_cut_off_and_makes_room(
    supply: Supply, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events, "PATIENCE", 0.05)
    monkeypatch.setattr(events, "MOST_WATCHERS", 1)
    large = "x" * (16 << 20)  # more than the buffers between the two can take
    supply.snapshot = snapshot_of(models=({"id": large},))
    with caplog.at_level(logging.INFO):
        async with watching(connect) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            while "read nothing for" not in caplog.text:
                await asyncio.sleep(0.005)
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            await client.head()
            with pytest.raises(Unframed):
                await client.rest()
    supply.snapshot = snapshot_of()
    async with watching(connect) as client:
        assert (await client.head()).status == 200
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_state_that_cannot_be_told_is_an_error_before_the_stream_and_cuts_it_later(
    supply: Supply, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = supply.snapshot, snapshot_of(memory_used="much")
    async with watching(connect) as client:
        await client.head()
        await client.next_event()
        supply.snapshot = bad
        with pytest.raises(Unframed):
            await client.next_event()
    async with watching(connect) as client:
        answer = await client.answer()
        assert (answer.status, code_of(answer.json())) == (500, "internal_error")
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 2
    supply.snapshot = good
    async with watching(connect) as client:
        assert (await client.head()).status == 200


async def test_a_client_that_leaves_while_it_is_sent_something_is_no_bug(
    supply: Supply, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events, "EVERY", 0.01)
    app = supply.application()
    transports: list[asyncio.Transport] = []

    async def remember(request: web.Request, _response: web.StreamResponse) -> None:
        assert request.transport is not None
        transports.append(request.transport)

    def leave_and_look() -> Snapshot:
        """The connection is lost, and the handler has not been told yet."""
        (transport,) = transports
        transport.abort()
        return snapshot_of()

    app.on_response_prepare.append(remember)
    async with served(app) as connect, watching(connect) as client:
        await client.head()
        await client.next_event()
        monkeypatch.setattr(supply, "look", leave_and_look)
        with pytest.raises(Unframed):
            await client.next_event()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
