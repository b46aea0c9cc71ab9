"""`/slotproxy/api/` without processes: what is asked of the supply side, and what is answered."""

import asyncio
import json
from typing import Any

import pytest

from slotproxy.proxy.operator import api
from tests.clients import ask, connected, request
from tests.proxy.conftest import MakeStack, answering

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("method", "path", "asked"),
    [
        ("POST", "instances", ("add",)),
        ("DELETE", "instances", ("remove", "newest")),
        ("DELETE", "instances/1", ("remove", "1")),
        ("POST", "instances/1/restart", ("restart", "1")),
        ("POST", "instances/restart", ("restart", "all")),
    ],
)
async def test_a_change_is_asked_for_and_answered_when_it_has_begun(
    stack: MakeStack, method: str, path: str, asked: tuple[str, ...]
) -> None:
    proxy = await stack(answering(OK))
    answer = await ask(proxy.port, method, f"/slotproxy/api/{path}")
    assert answer.status == 202
    assert set(answer.json()) == {"message", "instances"}
    assert proxy.operations.asked == [asked]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "instances/9/restart", 404, "no_such_instance"),
        ("DELETE", "instances/9", 404, "no_such_instance"),
        ("GET", "instances/9", 404, "no_such_instance"),
        ("GET", "instances/9/log", 404, "no_such_instance"),
        ("DELETE", "instances/0", 409, "refused"),
        ("PUT", "instances", 405, "method_not_allowed"),
        ("POST", "state", 405, "method_not_allowed"),
        ("POST", "events", 405, "method_not_allowed"),
        ("GET", "nothing", 404, "not_found"),
        ("GET", "instances/", 404, "no_such_instance"),
        ("POST", "instances/0/restart/", 404, "not_found"),
    ],
)
async def test_what_cannot_be_done_is_said_in_one_sentence(
    stack: MakeStack, method: str, path: str, status: int, code: str
) -> None:
    proxy = await stack(answering(OK))
    answer = await ask(proxy.port, method, f"/slotproxy/api/{path}")
    assert (answer.status, answer.code) == (status, code)
    assert proxy.operations.asked == []


async def test_the_state_is_the_snapshot_and_says_times_as_ages(stack: MakeStack) -> None:
    proxy = await stack(answering(OK), answering(OK))
    state = (await ask(proxy.port, "GET", "/slotproxy/api/state")).json()
    assert state["version"] == "0"
    assert state["queued"] == 0
    assert [member["id"] for member in state["members"]] == ["0", "1"]
    assert all(member["state"] == "ready" and member["seconds_in_state"] >= 0 for member in state["members"])
    assert "since" not in state["members"][0]
    assert state["decision_counts"] == [{"decision": "add", "reason": "fits", "count": 2}]


async def test_slot_counts_are_evaluated_by_what_stands_in_the_query(stack: MakeStack) -> None:
    proxy = await stack(answering(OK))
    path = "/slotproxy/api/evaluate-parallel-slots"
    answer = await ask(proxy.port, "GET", f"{path}?requested=9&context_size=16384")
    assert answer.status == 200
    assert [answer.json()[name] for name in ("requested", "effective", "warning")] == [9, 8, "Clamped"]
    bad = await ask(proxy.port, "GET", f"{path}?requested=x")
    assert (bad.status, bad.code, bad.json()["error"]["param"]) == (400, "invalid_parameter", "requested")
    assert (await ask(proxy.port, "GET", path)).code == "missing_parameter"
    assert (await ask(proxy.port, "POST", f"{path}?requested=1")).status == 405


async def test_one_instance_and_its_log(stack: MakeStack) -> None:
    proxy = await stack(answering(OK))
    assert (await ask(proxy.port, "GET", "/slotproxy/api/instances/0")).json()["id"] == "0"
    log = await ask(proxy.port, "GET", "/slotproxy/api/instances/0/log")
    assert log.body == b"one\ntwo\n"
    assert log.head["content-type"].startswith("text/plain")


async def test_changes_and_logs_need_a_key_where_others_can_reach_the_server(stack: MakeStack) -> None:
    proxy = await stack(answering(OK), loopback=False)
    for method, path in (("POST", "instances"), ("DELETE", "instances/0"), ("GET", "instances/0/log")):
        answer = await ask(proxy.port, method, f"/slotproxy/api/{path}")
        assert (answer.status, answer.code) == (403, "key_needed")
    assert (await ask(proxy.port, "GET", "/slotproxy/api/state")).status == 200
    assert proxy.operations.asked == []


async def test_with_keys_nothing_is_told_without_one(stack: MakeStack) -> None:
    proxy = await stack(answering(OK), keys=("k",), loopback=False)
    assert (await ask(proxy.port, "GET", "/slotproxy/api/state")).status == 401
    key = {"Authorization": "Bearer k"}
    assert (await ask(proxy.port, "POST", "/slotproxy/api/instances", headers=key)).status == 202


async def test_a_page_of_the_web_changes_nothing(stack: MakeStack) -> None:
    proxy = await stack(answering(OK))
    origin = {"Origin": "https://evil.example"}
    answer = await ask(proxy.port, "POST", "/slotproxy/api/instances", headers=origin)
    assert (answer.status, answer.code) == (403, "origin_not_allowed")
    assert proxy.operations.asked == []


async def test_events_begin_with_the_state_and_follow_its_changes(
    stack: MakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "EVERY", 0.01)
    proxy = await stack(answering(OK))
    async with connected(proxy.port) as client:
        client.send(request("GET", "/slotproxy/api/events"))
        head = await client.head()
        assert head["content-type"] == "text/event-stream"
        assert state_of(await client.next_event())["members"][0]["leased"] == 0
        lease = proxy.leases.take()
        assert lease is not None
        assert state_of(await client.next_event())["members"][0]["leased"] == 1
        lease.release()
        proxy.routes.drain()
        left = [state_of(event)["members"][0]["leased"] async for event in client.events()]
        assert left in ([], [0])


async def test_a_watcher_that_left_makes_room_and_is_no_cancelled_request(
    stack: MakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "MOST_WATCHERS", 1)
    monkeypatch.setattr(api, "EVERY", 0.01)
    proxy = await stack(answering(OK))
    async with connected(proxy.port) as client:
        client.send(request("GET", "/slotproxy/api/events"))
        await client.head()
        await client.next_event()
        assert (await ask(proxy.port, "GET", "/slotproxy/api/events")).code == "refused"
        client.abort()
    async with asyncio.timeout(5), connected(proxy.port) as client:
        while True:
            client.send(request("GET", "/slotproxy/api/events"))
            if (await client.head()).status == 200:
                break
            await client.reader.readuntil(b"}}")
    assert proxy.metric('slotproxy_cancelled_total{phase="prefill"}') == 0


def state_of(event: bytes) -> Any:
    kind, data = event.split(b"\n")
    assert kind == b"event: state"
    return json.loads(data.removeprefix(b"data: "))
