"""What a client sees when an engine fails, and which engines see a request again."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Behind, StartBehind
from tests.clients import Unframed, ask, chat, connected, eventually, post, request, streaming

# Answers of which no byte may reach a client.
MALFORMED = [
    "empty-200",
    "nothing",
    "half-head",
    "garbage",
    "length-twice",
    "length-negative",
    "length-and-chunked",
    "huge-head",
    "many-headers",
    "control-byte",
    "switching",
    "http-2",
]
# Answers that turn out wrong when their head is out: the client must be able to tell.
CUT = ["length-too-long", "no-last-chunk", "bad-chunk-size"]


async def metric(bench: Behind, line: str) -> float:
    page = (await ask(bench.port, "GET", "/metrics")).body.decode().splitlines()
    return sum(float(found.rpartition(" ")[2]) for found in page if found.startswith(line))


async def usable(bench: Behind) -> bool:
    """Whether every slot can be leased again."""
    members = (await ask(bench.port, "GET", "/slotproxy/api/instances")).json()
    return all(member["offered"] == member["slots"] and not member["leased"] for member in members)


async def test_no_byte_of_a_malformed_answer_reaches_the_client(behind: StartBehind) -> None:
    bench = await behind()
    for raw in MALFORMED:
        answer = await post(bench.port, chat(fake={"raw": raw}))
        assert answer.status == 502, f"{raw}: {answer}"
        assert answer.code == "upstream_failed", raw
        assert answer.head["x-should-retry"] == "false", raw
        await eventually(lambda: usable(bench), 30)
        assert (await post(bench.port, chat())).status == 200, f"the request after {raw}"


async def test_an_answer_that_turns_out_wrong_never_ends_cleanly(behind: StartBehind) -> None:
    bench = await behind()
    for raw in CUT:
        try:
            answer = await post(bench.port, chat(fake={"raw": raw}))
        except (Unframed, ConnectionError):
            pass
        else:  # the fault came soon enough to be told
            assert (answer.status, answer.code) == (502, "upstream_failed"), raw
        await eventually(lambda: usable(bench), 30)
        assert (await post(bench.port, chat())).status == 200, f"the request after {raw}"


async def test_interim_answers_do_not_disturb_the_final_one(behind: StartBehind) -> None:
    bench = await behind()
    for raw in ("early-hints", "continue"):
        answer = await post(bench.port, chat(fake={"raw": raw}))
        assert (answer.status, answer.body) == (200, b"{}"), raw


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_before_the_first_byte_another_instance_is_tried_once(
    behind: StartBehind, tmp_path: Path, *, stream: bool
) -> None:
    # No connection is used twice: a reset of a reused one would be retried on the same engine.
    bench = await behind(count=2, default={"headers": {"Connection": "close"}})
    troubles = [{"raw": "nothing"}, {"raw": "half-head"}, {"fail": "reset"}, {"fail": "close"}, {"fail": "die"}]
    if not stream:
        troubles.insert(0, {"raw": "empty-200"})
    for number, told in enumerate(troubles, start=1):
        fake = {**told, "only_first": str(tmp_path / f"flag{number}")}
        answer = await post(bench.port, chat(stream=stream, fake=fake))
        assert answer.status == 200, told
        assert [len(engine.asked) for engine in bench.engines] == [number, number], told
        assert await metric(bench, "slotproxy_retries_total") == number
        if told.get("fail") != "die":
            await eventually(lambda: usable(bench), 30)


async def test_an_engine_that_refuses_connections_costs_its_client_nothing(behind: StartBehind) -> None:
    bench = await behind(count=2)
    bench.engines[0].crash()
    answers = [await post(bench.port, chat()) for _ in range(4)]
    assert {answer.status for answer in answers} == {200}
    assert len(bench.engines[1].asked) == 4


async def test_an_engine_that_refuses_connections_is_asked_once_and_not_again_until_it_answers(
    behind: StartBehind,
) -> None:
    bench = await behind(count=2)
    bench.engines[0].crash()
    for _ in range(8):
        assert (await post(bench.port, chat())).status == 200
    assert await metric(bench, 'slotproxy_retries_total{reason="refused"}') <= 1, "a glance at it may have been first"


async def test_a_request_is_tried_on_two_instances_and_no_more(behind: StartBehind) -> None:
    bench = await behind(count=3)
    answer = await post(bench.port, chat(fake={"fail": "reset"}))
    assert (answer.status, answer.code) == (502, "upstream_failed")
    assert answer.head["x-should-retry"] == "false"
    assert sum(len(engine.asked) for engine in bench.engines) == 2


@pytest.mark.parametrize("fail", ["die", "reset", "close"])
async def test_after_the_first_byte_an_error_event_and_a_cut_and_no_other_try(behind: StartBehind, fail: str) -> None:
    bench = await behind(count=2)
    with pytest.raises(Unframed) as caught:
        await post(bench.port, chat(stream=True, fake={"fail": fail, "after": 2}))
    last = caught.value.body.split(b"\n\n")[-2]
    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert (error["code"], error["type"]) == ("upstream_failed", "server_error")
    assert b"[DONE]" not in caught.value.body
    assert sum(len(engine.asked) for engine in bench.engines) == 1


async def test_a_connection_closed_by_the_engine_is_replaced_without_the_client_noticing(behind: StartBehind) -> None:
    bench = await behind(default={"drop_reused": True})
    async with connected(bench.port) as client:
        for _ in range(3):
            client.send(request("POST", "/v1/chat/completions", chat()))
            answer = await client.answer()
            assert answer.status == 200
    # Proves that connections are reused, or nothing was tested.
    assert len(bench.engine.asked) > 3
    assert await metric(bench, 'slotproxy_retries_total{reason="stale"}') == len(bench.engine.asked) - 3


async def test_engines_that_close_after_each_stream_are_no_trouble(behind: StartBehind) -> None:
    bench = await behind(default={"last": True})
    for number in range(6):
        assert (await post(bench.port, chat(stream=number % 2 == 0))).status == 200


async def test_no_first_byte_in_time_is_504(behind: StartBehind) -> None:
    bench = await behind("--prefill-timeout", "1s")
    answer = await post(bench.port, chat(fake={"fail": "hang"}))
    assert (answer.status, answer.code) == (504, "upstream_timeout")
    assert answer.head["x-should-retry"] == "false"
    (received,) = bench.engine.asked

    async def told() -> bool:
        return received.cancelled

    await eventually(told)


async def test_a_silent_stream_ends_with_an_error_event_and_a_cut(behind: StartBehind) -> None:
    bench = await behind("--stall-timeout", "1s")
    with pytest.raises(Unframed) as caught:
        await post(bench.port, chat(stream=True, fake={"events": 5, "fail": "hang", "after": 2}))
    last = caught.value.body.split(b"\n\n")[-2]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_timeout"


async def test_a_slow_engine_that_keeps_sending_is_left_alone(behind: StartBehind) -> None:
    bench = await behind("--stall-timeout", "1s", "--prefill-timeout", "1s")
    answer = await post(bench.port, chat(stream=True, fake={"events": 5, "gap": 0.4, "delay": 0.4}))
    assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_on_messages_the_error_event_has_anthropics_shape(behind: StartBehind) -> None:
    bench = await behind()
    with pytest.raises(Unframed) as caught:
        await ask(bench.port, "POST", "/v1/messages", chat(stream=True, fake={"fail": "reset", "after": 2}))
    last = caught.value.body.split(b"\n\n")[-2]
    assert last.startswith(b"event: error\ndata: ")
    assert json.loads(last.partition(b"data: ")[2])["type"] == "error"


async def test_concurrent_trouble_loses_no_slot(behind: StartBehind, tmp_path: Path) -> None:
    # A slot of an upstream is leased again while the reset of its last request is still on its way.
    bench = await behind(count=2, slots=2, grace=0.05)
    troubles: list[dict[str, Any]] = [
        {"raw": "garbage"},
        {"fail": "reset", "after": 1},
        {"raw": "bad-chunk-size"},
        {"status": 500},
        {},
        {"events": 3, "gap": 0.01},
    ]

    async def one(number: int) -> None:
        body = chat(stream=number % 2 == 0, fake=troubles[number % len(troubles)])
        async with streaming(bench.port, body) as client:
            try:
                if number % 5 == 0:
                    return client.abort()
                await client.answer()
            except (Unframed, ConnectionError):
                pass

    await asyncio.gather(*(one(number) for number in range(48)))
    await eventually(lambda: usable(bench), 30)
    assert [engine.peak <= 2 for engine in bench.engines] == [True, True]
    assert (await post(bench.port, chat())).status == 200
