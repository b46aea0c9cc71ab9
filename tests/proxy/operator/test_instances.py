"""The pages of the instances: what is asked of the supply side, and what is answered."""

import pytest

from tests.proxy.operator.conftest import Asking, Supply, code_of


@pytest.mark.parametrize(
    ("method", "path", "asked", "message"),
    [
        ("POST", "instances", ("add",), "an instance is being started"),
        ("DELETE", "instances", ("remove", "newest"), "instance 1 is removed when its requests have ended"),
        ("DELETE", "instances/1", ("remove", "1"), "instance 1 is removed when its requests have ended"),
        ("POST", "instances/1/restart", ("restart", "1"), "instance 1 is restarted when the requests have ended"),
        (
            "POST",
            "instances/restart",
            ("restart", "all"),
            "all instances are restarted in turn when the requests have ended",
        ),
    ],
)
async def test_a_change_is_asked_for_and_answered_when_it_has_begun(
    supply: Supply, pages: Asking, method: str, path: str, asked: tuple[str, ...], message: str
) -> None:
    answer = await pages.request(method, f"/slotproxy/api/{path}")
    document = await answer.json()
    assert answer.status == 202
    assert set(document) == {"message", "instances"}
    assert document["message"] == message
    assert [member["id"] for member in document["instances"]] == ["0", "1"]
    assert supply.operator.asked == [asked]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "instances/9/restart", 404, "no_such_instance"),
        ("DELETE", "instances/9", 404, "no_such_instance"),
        ("GET", "instances/9", 404, "no_such_instance"),
        ("GET", "instances/9/log", 404, "no_such_instance"),
        ("GET", "instances//log", 404, "no_such_instance"),
        ("POST", "instances//restart", 404, "no_such_instance"),
        ("DELETE", "instances/0", 409, "refused"),
        ("PUT", "instances", 405, "method_not_allowed"),
        ("GET", "instances/restart", 405, "method_not_allowed"),
        ("DELETE", "instances/restart", 405, "method_not_allowed"),
        ("GET", "instances/0/restart", 405, "method_not_allowed"),
        ("POST", "instances/0", 405, "method_not_allowed"),
        ("POST", "instances/0/log", 405, "method_not_allowed"),
        ("GET", "instances/", 404, "no_such_instance"),
        ("POST", "instances/0/restart/", 404, "not_found"),
        ("GET", "instances/0/logs", 404, "not_found"),
        ("GET", "instances/0/0/log", 404, "not_found"),
    ],
)
async def test_what_cannot_be_done_is_said_in_one_sentence(
    supply: Supply, pages: Asking, method: str, path: str, status: int, code: str
) -> None:
    answer = await pages.request(method, f"/slotproxy/api/{path}")
    assert (answer.status, code_of(await answer.json())) == (status, code)
    assert supply.operator.asked == []


async def test_all_or_one_are_shown(pages: Asking) -> None:
    everyone = await (await pages.get("/slotproxy/api/instances")).json()
    assert [member["id"] for member in everyone] == ["0", "1"]
    one = await (await pages.get("/slotproxy/api/instances/1")).json()
    assert (one["id"], one["state"], one["ours"]) == ("1", "ready", True)
    assert one["seconds_in_state"] >= 0
    assert "since" not in one


async def test_an_instance_that_is_called_like_the_page_of_another_is_found(supply: Supply, pages: Asking) -> None:
    for name in ("log", "restart"):
        assert (await pages.post(f"/slotproxy/api/instances/{name}/restart")).status == 202
    assert supply.operator.asked == [("restart", "log"), ("restart", "restart")]
    assert (await (await pages.get("/slotproxy/api/instances/restarted")).json())["error"]["code"] == "no_such_instance"


async def test_a_log_is_text(pages: Asking) -> None:
    log = await pages.get("/slotproxy/api/instances/0/log")
    assert await log.read() == b"one\ntwo\n"
    assert log.headers["Content-Type"] == "text/plain; charset=utf-8"
