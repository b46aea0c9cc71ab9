"""Two real instances serve two streams at once; a third waits its turn; a client that leaves frees its slot."""

import asyncio
from dataclasses import dataclass, field
from functools import partial

import pytest

from tests.acceptance.conftest import StartBehind
from tests.clients import ask, chat, eventually, post, streaming
from tests.running import Running

FREED_WITHIN = 1.0  # seconds, from the client's leaving to the slot being free


@dataclass(kw_only=True)
class Timeline:
    """One stream as its client saw it, on the loop's clock."""

    instance: str = ""
    queue_ms: int = -1
    times: list[float] = field(default_factory=list)


async def watch(port: int, timeline: Timeline, begun: asyncio.Event) -> None:
    clock = asyncio.get_running_loop().time
    async with streaming(port, chat("Count to one hundred.", max_tokens=48, ignore_eos=True)) as client:
        head = await client.head()
        assert head.status == 200
        timeline.instance, timeline.queue_ms = head["x-slotproxy-instance"], int(head["x-slotproxy-queue-ms"])
        async for _ in client.events():
            timeline.times.append(clock())
            begun.set()


async def test_two_streams_overlap_on_two_instances_and_a_third_waits_and_then_runs(proxy: Running) -> None:
    first, second, third = Timeline(), Timeline(), Timeline()
    begun = [asyncio.Event() for _ in range(3)]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch(proxy.port, first, begun[0]))
        tasks.create_task(watch(proxy.port, second, begun[1]))
        await begun[0].wait()
        await begun[1].wait()
        tasks.create_task(watch(proxy.port, third, begun[2]))
    assert first.instance != second.instance
    assert second.times[0] < first.times[-1]
    assert first.times[0] < second.times[-1]
    assert third.times[0] > min(first.times[-1], second.times[-1])
    assert third.queue_ms > 0
    assert max(first.queue_ms, second.queue_ms) < 100


async def test_a_client_that_leaves_in_mid_stream_frees_its_slot_in_under_a_second(proxy: Running) -> None:
    async def rests() -> bool:
        return proxy.busy() == 0

    async def left(how: str) -> float:
        async with streaming(proxy.port, chat("Tell me a long story.", max_tokens=1500, ignore_eos=True)) as client:
            await client.head()
            await client.next_event()
            assert proxy.busy() == 1
            if how == "reset":
                client.abort()
        return await eventually(rests)

    for how in ("reset", "close"):
        if await left(how) >= FREED_WITHIN:  # a machine with much else to do may be late once
            assert min(await left(how), await left(how)) < FREED_WITHIN, how
    assert (await post(proxy.port, chat(max_tokens=1))).status == 200


async def test_a_client_that_leaves_the_queue_never_reaches_an_engine(behind: StartBehind) -> None:
    bench = await behind()
    async with streaming(bench.port, chat(fake={"fail": "hang", "after": 1})) as occupant:
        await occupant.head()
        async with streaming(bench.port, chat("I shall leave.")):
            await eventually(bench.waits)
        await eventually(partial(bench.waits, 0))
    answer = await post(bench.port, chat("I stay."))
    assert answer.status == 200
    assert [b"I shall leave." in one.body for one in bench.engine.asked] == [False, False]
    page = (await ask(bench.port, "GET", "/metrics")).body.decode()
    assert 'slotproxy_cancelled_total{phase="queued"} 1.0' in page


async def test_requests_wait_in_the_order_they_came(behind: StartBehind) -> None:
    bench = await behind()
    occupied = streaming(bench.port, chat(fake={"fail": "hang", "after": 1}))
    async with asyncio.TaskGroup() as tasks, occupied as occupant:
        await occupant.head()
        for number in range(5):
            tasks.create_task(post(bench.port, chat(f"number {number}")))
            await eventually(partial(bench.waits, number + 1))
    prompts = [one.json()["messages"][0]["content"] for one in bench.engine.asked[1:]]
    assert prompts == [f"number {number}" for number in range(5)]
    assert bench.engine.peak == 1


@pytest.mark.parametrize("slots", [1, 3])
async def test_an_upstream_never_sees_more_than_its_slots(behind: StartBehind, slots: int) -> None:
    bench = await behind(count=2, slots=slots)
    answers = await asyncio.gather(
        *(post(bench.port, chat(stream=True, fake={"events": 2, "gap": 0.02})) for _ in range(12))
    )
    assert {answer.status for answer in answers} == {200}
    assert [engine.peak for engine in bench.engines] == [slots, slots]
    assert len({answer.instance for answer in answers}) == 2
