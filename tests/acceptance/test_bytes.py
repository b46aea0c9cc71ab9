"""The body a client receives is byte for byte the body the engine sent, whatever the pieces it came in."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import StartBehind
from tests.chaos import undisturbed
from tests.clients import Answer, ask, chat, connected, eventually, post, request, streaming
from tests.recorder import recording
from tests.running import StartProxy

PROMPTS = 100
WORDS = ["red", "blau", "été", "日本", "🦊", '"quoted"', "\\back", "line\nbreak", "seven", "the", "of", "and", "{json}"]


@pytest.fixture
async def real_engine(demo_model: Path) -> AsyncIterator[int]:
    """The port of a llama.cpp server that no proxy has started."""
    async with undisturbed.engine(demo_model) as port:
        yield port


async def test_100_random_prompts_at_a_real_engine(real_engine: int, start_proxy: StartProxy) -> None:
    dice = random.Random(20261121)
    async with recording(real_engine) as recorder:
        proxy = start_proxy("--upstream", recorder.url)
        await asyncio.to_thread(proxy.wait_ready)
        got: dict[str, bytes] = {}
        for number in range(PROMPTS):
            prompt = " ".join(dice.choices(WORDS, k=dice.randint(1, 4)))
            body = chat(prompt, max_tokens=dice.randint(1, 4), stream=number % 2 == 0, temperature=0.9, seed=number)
            answer = await post(proxy.port, body, {"X-Request-Id": f"prompt-{number}"})
            assert answer.status == 200, answer.body
            got[answer.head["x-request-id"]] = answer.body
        sent = await recorder.bodies()
    assert len(got) == PROMPTS
    assert {name: sent[name] for name in got} == got


async def test_streams_in_arbitrary_pieces(behind: StartBehind) -> None:
    bench = await behind(slots=8)

    async def one(seed: int, framing: str) -> None:
        name = f"{framing} {seed}"
        fake = {"events": 6, "cuts": seed, "framing": framing, "padding": 7 * seed}
        answer = await post(bench.port, chat(name, stream=True, fake=fake))
        received = next(one for one in bench.engine.asked if f'"{name}"'.encode() in one.body)
        assert answer.body == bytes(received.sent), name

    await asyncio.gather(*(one(seed, how) for seed in range(20) for how in ("chunked", "length", "close")))


async def test_whole_bodies_in_arbitrary_pieces(behind: StartBehind) -> None:
    bench = await behind()
    for size in (20, 1000, 70_000, 5_000_000):
        answer = await post(bench.port, chat(fake={"size": size, "cuts": size if size < 100_000 else None}))
        assert len(answer.body) == size
        assert answer.body == bytes(bench.engine.asked[-1].sent)


async def test_the_request_body_reaches_the_engine_as_it_was_sent(behind: StartBehind) -> None:
    bench = await behind()
    odd = b'{ "messages":[ {"role":"user",\n"content":"\\u00e9 \xc3\xa9"} ] , "max_tokens" : 1.0e0 }\n'
    assert (await ask(bench.port, "POST", "/v1/chat/completions", odd)).status == 200
    assert bench.engine.asked[-1].body == odd


async def test_any_path_of_the_engine_is_relayed_as_it_came(behind: StartBehind) -> None:
    bench = await behind()
    for target in ("/completion", "/tokenize?a=%2F..%2f&b=+", "/v1/a/../b", "/api/chat", "/infill", "//double"):
        answer = await ask(bench.port, "POST", target, {"x": 1})
        assert answer.status == 200, target
        assert bench.engine.received[-1].path == target


async def test_the_engines_own_errors_pass_untouched(behind: StartBehind) -> None:
    bench = await behind()
    text = '{"error": {"message": "mine", "n_ctx": 7}}'
    headers = {"Retry-After": "0", "X-Engine": "yes"}  # a longer wait would be respected, and is tested elsewhere
    for status in (204, 400, 404, 429, 500, 503, 529, 402):
        answer = await post(bench.port, chat(fake={"status": status, "body": text, "headers": headers}))
        assert (answer.status, answer.body) == (status, b"" if status == 204 else text.encode())
        assert (answer.head["retry-after"], answer.head["x-engine"]) == ("0", "yes"), status


async def test_head_requests_have_the_head_and_no_body(behind: StartBehind) -> None:
    bench = await behind()
    answer: Answer = await ask(bench.port, "HEAD", "/completion")
    assert (answer.status, answer.body) == (200, b"")
    assert bench.engine.received[-1].head.startswith(b"HEAD /completion ")


async def test_events_leave_as_they_arrive(behind: StartBehind) -> None:
    bench = await behind()
    async with streaming(bench.port, chat(fake={"events": 5, "fail": "hang", "after": 3})) as client:
        head = await client.head()
        assert head["content-type"].startswith("text/event-stream")
        assert head["x-accel-buffering"] == "no"
        for number in range(3):  # the engine has sent these and nothing else, so nothing else can have pushed them out
            assert f'"t{number} "'.encode() in await client.next_event()


async def test_a_client_that_does_not_read_holds_its_engine_back(behind: StartBehind) -> None:
    bench = await behind()
    size = 200 << 20
    async with streaming(bench.port, chat(fake={"events": 2000, "padding": size // 2000})) as client:
        await client.head()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a Transport, typed as its base
        received = bench.engine.asked[0]
        before = -1

        async def stands_still() -> bool:
            nonlocal before
            before, last = len(received.sent), before
            await asyncio.sleep(0.2)
            return last == len(received.sent)

        await eventually(stands_still, 30)
        assert len(received.sent) < size // 4
    await eventually(bench.rests)


async def test_a_pipelined_request_may_arrive_in_pieces_while_the_first_is_answered(behind: StartBehind) -> None:
    bench = await behind()
    second = request("POST", "/v1/chat/completions", chat("second"))
    for cut in (1, 10, 25, 35, 60, len(second) - 1):
        async with connected(bench.port) as client:
            client.send(request("POST", "/v1/chat/completions", chat("first", fake={"delay": 0.1})) + second[:cut])
            assert (await client.answer()).status == 200, cut
            client.send(second[cut:])
            assert (await client.answer()).status == 200, cut
