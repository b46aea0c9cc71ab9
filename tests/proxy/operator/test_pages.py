"""Health, readiness, metrics, slots and models."""

from dataclasses import replace

import pytest
from yarl import URL

from slotproxy.instances.lifecycle import State
from slotproxy.instances.snapshot import Kind, Snapshot
from slotproxy.proxy.operator.pages import only_upstreams, why_not_ready, with_context
from tests.proxy.operator.conftest import PAGE, Asking, Supply, code_of, member, snapshot_of

UPSTREAM = member("u0", kind=Kind.UPSTREAM)


async def test_models_tell_the_context_every_instance_has(pages: Asking) -> None:
    models = await (await pages.get("/v1/models")).json()
    assert models == {
        "object": "list",
        "data": [{"id": "demo", "meta": {"n_ctx": 2048}, "context_length": 2048}],
    }


NOTHING_YET = snapshot_of(member("0", state=State.STARTING), models=())


@pytest.mark.parametrize(
    ("snapshot", "stopping", "code", "reason"),
    [
        (NOTHING_YET, False, "loading_model", "No instance is ready yet: 0 is starting."),
        (snapshot_of(models=()), False, "loading_model", "No instance is ready yet: none has been started."),
        (snapshot_of(models=(), hopeless="the model is no good"), False, "no_instances", "the model is no good"),
        (NOTHING_YET, True, "shutting_down", "shutting down"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/demo"])
async def test_while_no_model_is_known_that_is_said_and_no_empty_list_is_sent(
    supply: Supply, pages: Asking, path: str, snapshot: Snapshot, *, stopping: bool, code: str, reason: str
) -> None:
    supply.snapshot = snapshot
    if stopping:
        supply.stopping.begin()
    answer = await pages.get(path)
    error = (await answer.json())["error"]
    assert (answer.status, error["code"]) == (503, code)
    assert reason in error["message"]
    assert 1 <= int(answer.headers["Retry-After"]) <= 60


async def test_a_model_that_is_known_is_named_also_while_nobody_serves_it(supply: Supply, pages: Asking) -> None:
    supply.snapshot = snapshot_of(replace(UPSTREAM, state=State.BACKOFF))
    assert (await (await pages.get("/v1/models")).json())["data"] == [{"id": "demo", "meta": {"n_ctx": 8192}}]


MODELS = ({"id": "org/a b", "aliases": ["short", "50%25"]}, {"id": "other"}, {"id": 7, "aliases": "x"})


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("org/a%20b", "org/a b"),
        ("org%2Fa%20b", "org/a b"),
        ("short", "org/a b"),
        ("50%25", "org/a b"),
        ("other", "other"),
        ("other?x=1", "other"),
    ],
)
async def test_one_model_is_found_by_its_name_encoded_or_not(
    supply: Supply, pages: Asking, asked: str, found: str
) -> None:
    supply.snapshot = snapshot_of(member("0"), models=MODELS)
    answer = await pages.get(URL(f"/v1/models/{asked}", encoded=True))
    model = await answer.json()
    assert (answer.status, model["id"], model["context_length"]) == (200, found, 2048)
    assert (await pages.head(URL(f"/v1/models/{asked}", encoded=True))).status == 200


@pytest.mark.parametrize(
    "asked", ["no", "org", "a%20b", "7", "x", "", "other/", "..%2fother", "%00", "%ff", "other%2f.."]
)
async def test_one_that_there_is_not_is_not_found(supply: Supply, pages: Asking, asked: str) -> None:
    supply.snapshot = snapshot_of(member("0"), models=MODELS)
    answer = await pages.get(URL(f"/v1/models/{asked}", encoded=True))
    error = (await answer.json())["error"]
    assert (answer.status, error["type"]) == (404, "invalid_request_error")
    assert (error["code"], error["param"]) == (("model_not_found", "model") if asked else ("not_found", None))


async def test_a_model_takes_only_get_and_head(pages: Asking) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = await pages.request(method, "/v1/models/demo")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_model_is_shown_as_the_engine_has_it_where_no_context_is_known() -> None:
    model = {"id": "demo", "meta": {"n_ctx": 8192}}
    assert with_context(model, None) == model
    assert with_context({"id": "demo"}, 5) == {"id": "demo", "context_length": 5}
    assert with_context({"id": "demo", "meta": None}, 5) == {"id": "demo", "meta": None, "context_length": 5}
    assert with_context(model, 5) == {"id": "demo", "meta": {"n_ctx": 5}, "context_length": 5}
    assert model == {"id": "demo", "meta": {"n_ctx": 8192}}


async def test_slots_are_llama_servers_shape(supply: Supply, pages: Asking) -> None:
    supply.snapshot = snapshot_of(member("0", leased=1, pid=7), member("u0", slots=2, leased=1, n_ctx=None, pid=None))
    slots = await (await pages.get("/slots")).json()
    assert slots == [
        {"id": 0, "n_ctx": 2048, "is_processing": True, "instance": "0", "state": "ready", "pid": 7},
        {"id": 1, "n_ctx": None, "is_processing": True, "instance": "u0", "state": "ready", "pid": None},
        {"id": 2, "n_ctx": None, "is_processing": False, "instance": "u0", "state": "ready", "pid": None},
    ]


async def test_health_and_readiness_count(supply: Supply, pages: Asking) -> None:
    supply.snapshot = snapshot_of(member("0", leased=1), member("1", state=State.STARTING))
    supply.queued = 3
    health = await pages.get("/health")
    assert (health.status, await health.json()) == (
        200,
        {"status": "ok", "instances": 2, "ready": 1, "busy": 1, "queued": 3},
    )
    ready = await pages.get("/ready")
    assert (ready.status, await ready.json()) == (200, {"status": "ready", "ready": 1, "instances": 2})


async def test_it_is_not_ready_while_it_stops(supply: Supply, pages: Asking) -> None:
    supply.stopping.begin()
    answer = await pages.get("/ready")
    assert (answer.status, await answer.json()) == (503, {"status": "not ready", "reason": "shutting down"})
    assert (await pages.get("/health")).status == 200


async def test_nothing_ready_is_said_with_the_reason(supply: Supply, pages: Asking) -> None:
    supply.snapshot = snapshot_of()
    answer = await pages.get("/ready")
    assert answer.status == 503
    assert "no instance" in (await answer.json())["reason"]


@pytest.mark.parametrize(
    ("snapshot", "reason"),
    [
        (snapshot_of(), "no instance has been started yet"),
        (snapshot_of(hopeless="There is no model."), "There is no model."),
        (
            snapshot_of(member("0", state=State.STARTING), member("1", state=State.BACKOFF, reason="it crashed")),
            "no instance is ready: 0 is starting, 1 is backoff (it crashed)",
        ),
    ],
)
def test_the_reason_names_what_is_missing(snapshot: Snapshot, reason: str) -> None:
    assert why_not_ready(snapshot, stopping=False) == reason
    assert why_not_ready(snapshot, stopping=True) == "shutting down"


async def test_the_metrics_are_sent_as_what_prometheus_reads(pages: Asking) -> None:
    answer = await pages.get("/metrics")
    assert await answer.read() == PAGE
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_only_where_every_member_is_an_upstream_are_the_models_theirs() -> None:
    assert only_upstreams(snapshot_of(UPSTREAM))
    assert only_upstreams(snapshot_of(UPSTREAM, replace(UPSTREAM, id="u1")))
    assert not only_upstreams(snapshot_of(UPSTREAM, member("0")))
    assert not only_upstreams(snapshot_of())
    away = replace(UPSTREAM, state=State.STARTING)
    assert not only_upstreams(snapshot_of(away))  # whoever asked it would wait
    assert only_upstreams(snapshot_of(away, replace(UPSTREAM, id="u1")))


@pytest.mark.parametrize("path", ["/health", "/ready", "/slots", "/metrics", "/v1/models"])
async def test_the_pages_take_only_get_and_head(pages: Asking, path: str) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = await pages.request(method, path)
        assert (answer.status, code_of(await answer.json())) == (405, "method_not_allowed")
        assert answer.headers["Allow"] == "GET, HEAD"
    whole, head = await pages.get(path), await pages.head(path)
    assert (head.status, await head.read()) == (whole.status, b"")
    assert head.headers["Content-Length"] == whole.headers["Content-Length"]
