"""What needs no slot is answered while every slot is busy, and says so while nobody is there."""

import asyncio
from pathlib import Path
from typing import Any

import psutil

from tests.acceptance.conftest import StartBehind
from tests.clients import Answer, ask, chat, eventually, streaming
from tests.running import Running, StartProxy, fake_engines, real_engine, wait_for

COUNTED = chat("Count me.")
BESIDE: list[tuple[str, str, Any, int]] = [
    ("GET", "/models", None, 200),
    ("HEAD", "/models", None, 200),
    ("GET", "/props", None, 200),
    ("GET", "/v1/health", None, 200),
    ("GET", "/lora-adapters", None, 200),
    ("HEAD", "/", None, 404),
    ("GET", "/favicon.ico", None, 404),
    ("GET", "/api/tags", None, 404),
    ("GET", "/v1/models/SmolLM2-135M-Instruct.Q4_1", None, 200),
    ("GET", "/v1/models/gpt-4", None, 404),
    ("POST", "/tokenize", {"content": "hello"}, 200),
    ("POST", "/detokenize", {"tokens": [1, 2]}, 200),
    ("POST", "/apply-template", COUNTED, 200),
    ("POST", "/v1/messages/count_tokens?beta=true", COUNTED, 200),
    ("POST", "/v1/responses/input_tokens", {"input": "hello"}, 200),
]


async def test_what_the_engine_answers_beside_its_slot_passes_while_it_generates(
    start_proxy: StartProxy, demo_model: Path
) -> None:
    proxy = start_proxy("--queue-limit", "0", *real_engine(demo_model)).wait_ready()
    async with streaming(proxy.port, chat("Count to 500.", max_tokens=900, ignore_eos=True)) as client:
        await client.head()
        await client.next_event()
        answers = await asyncio.gather(*(ask(proxy.port, method, path, body) for method, path, body, _ in BESIDE))
        assert proxy.busy() == 1
        assert [answer.status for answer in answers] == [status for _, _, _, status in BESIDE]
        refused = await ask(proxy.port, "POST", "/v1/completions", {"prompt": "a", "max_tokens": 1})
        assert (refused.status, refused.code) == (429, "queue_full")  # it does need a slot, and the only one is busy
        await client.next_event()
    by_path = {(method, path): answer for (method, path, _, _), answer in zip(BESIDE, answers, strict=True)}
    assert by_path["POST", "/v1/messages/count_tokens?beta=true"].json()["input_tokens"] > 0
    assert by_path["GET", "/v1/models/gpt-4"].code == "model_not_found"
    model = by_path["GET", "/v1/models/SmolLM2-135M-Instruct.Q4_1"].json()
    assert (model["object"], model["meta"]["n_ctx"]) == ("model", 1024)


async def test_an_upstreams_metadata_passes_while_its_slots_are_busy(behind: StartBehind) -> None:
    bench = await behind("--queue-limit", "0")
    async with streaming(bench.port, chat(fake={"fail": "hang", "after": 1})) as occupant:
        await occupant.head()
        for method, path in [("GET", "/props"), ("HEAD", "/"), ("GET", "/v1/models"), ("GET", "/v1/models/org/name")]:
            assert (await ask(bench.port, method, path)).status == 200
        assert (await ask(bench.port, "POST", "/v1/messages/count_tokens?beta=true", COUNTED)).status == 200
        assert (await ask(bench.port, "POST", "/")).status == 429


async def models(proxy: Running) -> Answer:
    answer = await ask(proxy.port, "GET", "/v1/models")
    assert answer.status in (200, 503)
    if answer.status == 503:
        assert 1 <= int(answer.head["retry-after"]) <= 60
    else:
        assert answer.json()["data"], "an empty list as a success"
    return answer


async def are_listed(proxy: Running) -> bool:
    return (await models(proxy)).status == 200


async def test_models_are_never_an_empty_list_at_the_start_or_while_the_only_instance_starts_again(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    proxy = start_proxy(*fake_engines(tmp_path)).wait_listening()
    await eventually(lambda: are_listed(proxy))
    (pid,) = proxy.pids()
    psutil.Process(pid).kill()
    await asyncio.to_thread(wait_for, lambda: proxy.ready_count() == 0, "its end")
    while proxy.ready_count() == 0:
        answer = await models(proxy)
        assert answer.status == 200 or answer.code == "loading_model"
    assert await are_listed(proxy)


async def test_models_of_an_upstream_that_is_not_there_are_not_waited_for(start_proxy: StartProxy) -> None:
    proxy = start_proxy("--upstream", "http://127.0.0.1:1").wait_listening()
    for path in ("/v1/models", "/v1/models/name"):
        answer = await ask(proxy.port, "GET", path)
        assert (answer.status, answer.code) == (503, "loading_model")


async def test_while_an_engine_loads_its_models_are_503_and_retry_after(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    proxy = start_proxy(*fake_engines(tmp_path, "--never-ready")).wait_listening()
    for method in ("GET", "HEAD"):
        answer = await ask(proxy.port, method, "/v1/models")
        assert answer.status == 503
        assert 1 <= int(answer.head["retry-after"]) <= 60
    assert (await models(proxy)).code == "loading_model"
