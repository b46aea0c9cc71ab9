"""The application as a whole: what it has, what it has not, and which of it an operator alone may ask for."""

import msgspec
import pytest

from slotproxy.proxy.operator.document import StateDocument, schema
from slotproxy.proxy.operator.paths import is_own, needs_operator
from slotproxy.proxy.operator.serving import served
from tests.clients import request
from tests.proxy.operator.conftest import Asking, Supply, code_of, over

API = "/slotproxy/api/"


async def test_the_state_is_the_snapshot_and_says_times_as_ages(supply: Supply, pages: Asking) -> None:
    supply.queued = 2
    state = await (await pages.get(API + "state")).json()
    assert state["version"] == "0"
    assert state["queued"] == 2
    assert [member["id"] for member in state["members"]] == ["0", "1"]
    assert all(member["state"] == "ready" and member["seconds_in_state"] >= 0 for member in state["members"])
    assert "since" not in state["members"][0]


async def test_the_state_keeps_to_the_schema_that_is_given_away(pages: Asking) -> None:
    given = await pages.get(API + "schema")
    assert await given.json() == schema()
    body = await (await pages.get(API + "state")).read()
    assert msgspec.json.encode(msgspec.json.decode(body, type=StateDocument, strict=True)) == body


async def test_slot_counts_are_evaluated_by_what_stands_in_the_query(pages: Asking) -> None:
    path = API + "evaluate-parallel-slots"
    answer = await pages.get(f"{path}?requested=9&context_size=16384")
    assert answer.status == 200
    document = await answer.json()
    assert [document[name] for name in ("requested", "effective", "warning")] == [9, 8, "Clamped"]
    bad = await pages.get(f"{path}?requested=x")
    error = await bad.json()
    assert (bad.status, code_of(error), error["error"]["param"]) == (400, "invalid_parameter", "requested")
    assert code_of(await (await pages.get(path)).json()) == "missing_parameter"
    assert (await pages.post(f"{path}?requested=1")).status == 405


@pytest.mark.parametrize(
    "path",
    ["/slotproxy/", "/slotproxy/nothing", "/slotproxy/api", API, API + "nothing", API + "state/", API + "/state", "/"],
)
async def test_what_is_not_there_is_not_found_whatever_is_asked_of_it(pages: Asking, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = await pages.request(method, path)
        document = await answer.json()
        assert (answer.status, code_of(document)) == (404, "not_found")
        assert document["error"]["message"] == f"There is nothing at {path}."


@pytest.mark.parametrize("path", ["state", "schema", "events", "evaluate-parallel-slots"])
async def test_what_can_only_be_read_takes_no_other_method(pages: Asking, path: str) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        answer = await pages.request(method, API + path)
        assert (answer.status, code_of(await answer.json())) == (405, "method_not_allowed")
        assert "GET" in answer.headers["Allow"]


async def test_every_page_is_one_that_the_front_sends_here(supply: Supply) -> None:
    for route in supply.application().router.routes():
        assert route.resource is not None
        assert is_own(route.resource.canonical)


SPELLINGS = [
    "log",
    "lo%67",
    "%6c%6f%67",
    "log#",
    "log?",
    "log?x",
    "LOG",
    "log%00",
    "log;",
    "./log",
    "../0/log",
    "log/.",
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
async def test_no_spelling_of_a_path_gets_past_the_question_whether_an_operator_is_needed(
    supply: Supply, method: str
) -> None:
    done = set()
    async with served(supply.application()) as connect, over(connect) as client:
        for target in (f"{API}instances/0/{spelling}" for spelling in SPELLINGS):
            client.send(request(method, target))  # as it is: a client that knows URLs would rewrite some
            answer = await client.answer(to_head=method == "HEAD")
            if answer.status < 400:
                done.add(target.removeprefix(f"{API}instances/0/"))
                assert needs_operator(method, target.partition("?")[0])
    assert done == ({"log", "log?", "log?x"} if method in ("GET", "HEAD") else set())
    assert supply.operator.asked == []
