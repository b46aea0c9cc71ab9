"""What clients are told while they wait for a slot or for the first token."""

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.acceptance.conftest import StartBehind
from tests.clients import Unframed, chat, eventually, post, streaming

SLOW = {"delay": 1.5}  # seconds until its head
PINGS = ("--sse-ping", "200ms")


async def test_who_waits_and_who_is_refused_are_told_their_place_in_the_queue(behind: StartBehind) -> None:
    bench = await behind("--queue-limit", "1")
    async with streaming(bench.port, chat(fake={"fail": "hang", "after": 1})) as occupant:
        assert (await occupant.head()).get("x-slotproxy-queue-position") is None
        waiting = asyncio.ensure_future(post(bench.port, chat()))
        await eventually(bench.waits)
        refused = await post(bench.port, chat())
        assert (refused.status, refused.head["x-slotproxy-queue-position"]) == (429, "1")
        assert 1 <= int(refused.head["retry-after"]) <= 60
    served = await waiting
    assert (served.status, served.head["x-slotproxy-queue-position"]) == (200, "0")


async def test_a_stream_that_waits_says_so_until_its_answer_begins(behind: StartBehind) -> None:
    bench = await behind(*PINGS)
    async with streaming(bench.port, chat(fake=SLOW)) as reading, streaming(bench.port, chat()) as queued:
        for client in (reading, queued):
            head = await client.head()
            assert (head.status, head["content-type"], head["x-accel-buffering"]) == (200, "text/event-stream", "no")
            assert head.get("x-slotproxy-instance") is None  # nobody knows it yet
            events = (await client.rest()).removesuffix(b"\n\n").split(b"\n\n")
            pings = events.count(b": ping")
            assert pings >= 2
            assert events[:pings] == [b": ping"] * pings  # none within the answer
            assert events[pings].startswith(b": x-slotproxy-instance: ")
            assert events[-1] == b"data: [DONE]"


async def test_an_sdk_reads_on_through_comments(behind: StartBehind) -> None:
    bench = await behind(*PINGS)
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{bench.port}/v1", api_key="none", max_retries=0) as sdk:
        body: dict[str, Any] = {"fake": SLOW}
        messages: Any = [{"role": "user", "content": "Say hi."}]
        stream = await sdk.chat.completions.create(model="m", messages=messages, stream=True, extra_body=body)
        chunks = [chunk async for chunk in stream]
    assert len(chunks) > 2


async def test_an_sdk_is_told_of_what_came_after_comments(behind: StartBehind) -> None:
    bench = await behind(*PINGS)
    error = json.dumps({"error": {"message": "too long", "type": "exceed_context_size_error", "code": 400}})
    body = {"fake": SLOW | {"status": 400, "body": error}}
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{bench.port}/v1", api_key="none", max_retries=0) as sdk:
        messages: Any = [{"role": "user", "content": "Say hi."}]
        stream = await sdk.chat.completions.create(model="m", messages=messages, stream=True, extra_body=body)
        with pytest.raises(openai.APIError, match="too long"):
            async for _ in stream:
                pass
    await eventually(bench.rests)


async def test_a_wait_in_vain_is_an_event_and_no_clean_end(behind: StartBehind) -> None:
    bench = await behind(*PINGS, "--queue-timeout", "1s")
    async with streaming(bench.port, chat(fake={"fail": "hang", "after": 1})) as occupant:
        await occupant.head()
        async with streaming(bench.port, chat()) as client:
            assert (await client.head()).status == 200
            with pytest.raises(Unframed) as cut:
                await client.rest()
        assert b'"code": "queue_timeout"' in cut.value.body
    assert len(bench.engine.asked) == 1


async def test_whoever_asks_for_no_stream_gets_its_status(behind: StartBehind) -> None:
    bench = await behind(*PINGS, "--queue-timeout", "1s")
    async with streaming(bench.port, chat(fake={"fail": "hang", "after": 1})) as occupant:
        await occupant.head()
        answer = await post(bench.port, chat())
    assert (answer.status, answer.code, answer.head["x-slotproxy-queue-position"]) == (503, "queue_timeout", "0")
