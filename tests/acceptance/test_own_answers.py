"""What the proxy says itself: models, health, readiness, slots, metrics, request ids."""

import sys
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.conftest import StartBehind
from tests.clients import ask, chat, post, streaming
from tests.running import Running

# DESIGN section 5, as the parser names families: counters without _total.
WANTED = {
    "requests", "tokens", "cancelled", "upstream_errors", "retries", "instance_restarts", "scale_decisions",
    "queue_rejected", "queue_wait_seconds", "time_to_first_token_seconds", "time_per_output_token_seconds",
    "request_duration_seconds", "queue_depth", "slots", "instances", "instance_busy", "instance_memory_bytes",
    "memory_used_bytes", "memory_limit_bytes", "memory_headroom_bytes", "event_loop_lag_seconds", "build_info",
    "leases", "unserved",
}  # fmt: skip
OF_UPSTREAMS = {f"upstream_{name}" for name in ("requests", "unserved", "slots_offered", "pause_seconds", "ratelimit")}
LATER = {"affinity", "memory_pressure"}  # named there too; they come with what they measure


async def test_models_are_listed_with_the_context_of_an_instance(proxy: Running) -> None:
    answer = await ask(proxy.port, "GET", "/v1/models")
    assert answer.status == 200
    listing = answer.json()
    assert listing["object"] == "list"
    (model,) = listing["data"]
    assert model["object"] == "model"
    assert model["meta"]["n_ctx"] == 2048
    assert "x-slotproxy-instance" not in dict(answer.head.fields)


async def test_models_are_listed_while_every_slot_is_busy(behind: StartBehind) -> None:
    bench = await behind(n_ctx=777)
    async with streaming(bench.port, chat(fake={"fail": "hang", "after": 1})) as occupant:
        await occupant.head()
        answer = await ask(bench.port, "GET", "/v1/models")
        assert answer.json()["data"][0]["meta"]["n_ctx"] == 777


def test_health_and_readiness(proxy: Running) -> None:
    status, health = proxy.get("/health")
    assert status == 200
    assert (health["status"], health["instances"], health["ready"]) == ("ok", 2, 2)
    assert proxy.get("/ready")[0] == 200


def test_slots_have_llama_servers_shape_and_say_whose_they_are(proxy: Running) -> None:
    slots = proxy.slots()
    assert [slot["id"] for slot in slots] == [0, 1]
    for slot in slots:
        assert slot["n_ctx"] == 2048
        assert slot["is_processing"] is False
        assert slot["state"] == "ready"
        assert psutil.Process(slot["pid"]).ppid() == proxy.pid
    assert len({slot["instance"] for slot in slots}) == 2


async def families(port: int) -> dict[str, Any]:
    answer = await ask(port, "GET", "/metrics")
    assert answer.head["content-type"].startswith("text/plain")
    found = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    return {name.removeprefix("slotproxy_"): family for name, family in found.items() if name.startswith("slotproxy_")}


def value(family: Any, sample: str = "", **labels: str) -> float:
    """The sum of the samples with these labels; `sample` is the name's ending."""
    matching = [s for s in family.samples if s.name.endswith(sample) and labels.items() <= s.labels.items()]
    return float(sum(s.value for s in matching))


async def test_metrics_have_the_promised_names_and_no_others(proxy: Running) -> None:
    await post(proxy.port, chat(max_tokens=1, stream=True))
    found = await families(proxy.port)
    assert WANTED - set(found) == set()
    assert set(found) - WANTED - LATER == set()
    for family in found.values():
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")


async def test_metrics_of_upstreams_are_there_where_there_are_upstreams(behind: StartBehind) -> None:
    bench = await behind(slots=3)
    await post(bench.port, chat())
    found = await families(bench.port)
    assert OF_UPSTREAMS - set(found) == set()
    assert value(found["upstream_requests"], "_total", instance="u0") == 1
    assert value(found["upstream_slots_offered"], instance="u0") == 3
    assert value(found["upstream_unserved"]) == value(found["upstream_pause_seconds"]) == 0
    assert value(found["leases"], "_total") == 1


async def test_metrics_of_the_supply_are_those_of_the_engines(proxy: Running) -> None:
    found = await families(proxy.port)
    assert value(found["instances"], state="ready") == 2
    assert value(found["slots"]) == 2
    for slot in proxy.slots():
        told = value(found["instance_memory_bytes"], instance=slot["instance"], kind="rss")
        assert told == pytest.approx(psutil.Process(slot["pid"]).memory_info().rss, rel=0.2)
        if sys.platform == "linux":  # only Linux divides shared pages among their users
            assert 0 < value(found["instance_memory_bytes"], instance=slot["instance"], kind="pss") < told
    used, limit = value(found["memory_used_bytes"]), value(found["memory_limit_bytes"])
    assert 0 < used < limit
    assert value(found["memory_headroom_bytes"]) == pytest.approx(limit - used, rel=0.01)


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_and_tokens_are_counted_once(behind: StartBehind, *, stream: bool) -> None:
    bench = await behind()
    for _ in range(3):
        await post(bench.port, chat(stream=stream, fake={"events": 2} if stream else {}))
    await ask(bench.port, "POST", "/unheard/of/path", {})
    found = await families(bench.port)
    assert value(found["requests"], "_total", route="/v1/chat/completions", code="200") == 3
    assert value(found["tokens"], "_total", kind="completion") >= 6
    assert value(found["tokens"], "_total", kind="prompt") >= 15
    assert value(found["time_to_first_token_seconds"], "_count") == (3 if stream else 0)
    assert not [s for s in found["requests"].samples if "unheard" in s.labels["route"]]
    assert value(found["queue_depth"]) == 0


async def test_token_counts_do_not_depend_on_where_the_bytes_were_cut(behind: StartBehind) -> None:
    bench = await behind()
    for seed in range(10):
        await post(bench.port, chat(stream=True, fake={"events": 4, "cuts": seed}))
    found = await families(bench.port)
    assert value(found["tokens"], "_total", kind="completion") == 40
    assert value(found["tokens"], "_total", kind="prompt") == 50


async def test_every_answer_carries_a_request_id_and_the_clients_own_is_kept(behind: StartBehind) -> None:
    bench = await behind()
    made = {(await post(bench.port, chat())).head["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    own = await post(bench.port, chat(), {"X-Request-Id": "mine-7"})
    assert own.head["x-request-id"] == "mine-7"
    assert bench.engine.asked[-1].headers["x-request-id"] == "mine-7"
    assert (await ask(bench.port, "GET", "/health")).head["x-request-id"]
    assert int(own.head["x-slotproxy-queue-ms"]) >= 0


async def test_a_request_id_that_would_be_no_sane_header_is_replaced(behind: StartBehind) -> None:
    bench = await behind()
    for wrong in ("a" * 5000, "\u00fc", "a b\tc"):
        answer = await post(bench.port, chat(), {"X-Request-Id": wrong})
        assert answer.status == 200
        assert answer.head["x-request-id"] not in ("", wrong)


async def test_hop_by_hop_headers_pass_in_neither_direction(behind: StartBehind) -> None:
    bench = await behind()
    hop = {"Connection": "keep-alive, X-Mine", "X-Mine": "1", "Keep-Alive": "timeout=9", "TE": "trailers"}
    back = {"Connection": "X-Theirs", "X-Theirs": "1", "Keep-Alive": "timeout=9", "X-Kept": "yes"}
    answer = await post(bench.port, chat(fake={"headers": back}), hop | {"X-Passes": "yes", "X-Conversation-Id": "c"})
    seen = bench.engine.asked[-1].headers
    assert {"x-mine", "keep-alive", "te"} & set(seen) == set()
    assert seen["x-passes"] == "yes"
    names = {name for name, _ in answer.head.fields}
    assert {"x-theirs", "keep-alive"} & names == set()
    assert answer.head["x-kept"] == "yes"


async def test_what_is_under_slotproxy_is_never_the_engines(behind: StartBehind) -> None:
    bench = await behind()
    assert (await ask(bench.port, "GET", "/slotproxy/nothing")).status == 404
    assert bench.engine.received == [one for one in bench.engine.received if "slotproxy" not in one.path]


async def test_the_proxys_own_paths_take_only_get(behind: StartBehind) -> None:
    bench = await behind()
    for path in ("/health", "/ready", "/slots", "/metrics", "/v1/models"):
        answer = await ask(bench.port, "POST", path, {})
        assert answer.status == 405, path
        assert "GET" in answer.head["allow"]
