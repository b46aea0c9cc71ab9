"""The rules of the conversations' benchmark: it reads answers rightly, counts fairly, and its judge can tell."""

import json
import math
import random
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tests.conversations import flood, haproxy_log, likeness, mischief, report, seeding
from tests.conversations.dialogues import prose, scripts
from tests.conversations.mix import Request, Served
from tests.conversations.talk import CHAT, LOST, Client, Reading, Turn, chat

TIMINGS = {"cache_n": 40, "prompt_n": 7, "prompt_ms": 300.0, "predicted_n": 3, "predicted_ms": 200.0}
LOOK = {
    "content": [{"token": "Hi", "top_logprobs": [{"token": "Hi", "logprob": -0.1}, {"token": "No", "logprob": -3}]}]
}


def event(**more: object) -> dict[str, object]:
    return {"object": "chat.completion.chunk"} | more


def test_a_stream_of_chat_completions_says_text_tokens_and_the_engines_time() -> None:
    reading = Reading()
    reading.take(event(choices=[{"delta": {"role": "assistant", "content": None}}]), 1.0)
    reading.take(event(choices=[{"delta": {"content": "Hi"}, "logprobs": LOOK}]), 2.0)
    reading.take(event(choices=[{"delta": {"content": "!"}, "logprobs": None}]), 3.0)
    assert reading.first == 2.0
    ended = [reading.done]
    reading.take(event(choices=[{"delta": {}, "finish_reason": "stop"}]), 4.0)
    assert [*ended, reading.done] == [False, True]
    usage = {"prompt_tokens": 47, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 40}}
    reading.take(event(choices=[], usage=usage), 5.0)
    by_usage = dict(reading.numbers)
    reading.take(event(choices=[], timings=TIMINGS), 6.0)
    assert reading.numbers == by_usage == {"prompt": 47, "cached": 40, "computed": 7, "completion": 3}
    assert (reading.text, reading.serving, reading.top) == ("Hi!", 0.5, (("Hi", -0.1), ("No", -3)))


def test_a_stream_of_anthropics_messages_says_text_and_tokens() -> None:
    reading = Reading()
    usage = {"input_tokens": 7, "cache_read_input_tokens": 40, "output_tokens": 0}
    reading.take({"type": "message_start", "message": {"usage": usage}}, 1.0)
    reading.take({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}}, 2.0)
    assert reading.first == 2.0
    reading.take({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}, 3.0)
    ended = [reading.done]
    reading.take({"type": "message_stop"}, 4.0)
    assert [*ended, reading.done] == [False, True]
    assert reading.numbers == {"prompt": 47, "cached": 40, "computed": 7, "completion": 3}


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Of a server that answers what the question says."""

    async def answer(request: web.Request) -> web.StreamResponse:
        text = (await request.json())["messages"][0]["content"]
        if text == "refuse":
            return web.Response(status=429, text="not now")
        response = web.StreamResponse(headers={"x-slotproxy-affinity": "hit; tokens=40", "x-slotproxy-queue-ms": "250"})
        await response.prepare(request)
        await response.write(b": ping\n\n")
        await response.write(_line(event(choices=[{"delta": {"content": "Hi"}}])))
        if text == "cut":
            assert request.transport is not None
            request.transport.abort()
        elif text != "short":
            await response.write(_line(event(choices=[{"delta": {}, "finish_reason": "stop"}], timings=TIMINGS)))
        return response

    application = web.Application()
    application.router.add_post(CHAT, answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


def _line(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


@pytest.mark.parametrize(("text", "status"), [("whole", 200), ("short", LOST), ("cut", LOST), ("refuse", 429)])
async def test_only_an_answer_with_its_end_is_served(port: int, text: str, status: int) -> None:
    async with Client.at(port) as client:
        turn = await client.turn(CHAT, chat([{"role": "user", "content": text}], 8))
    assert (turn.status, turn.served) == (status, status == 200)
    if turn.served:
        assert (turn.affinity, turn.queued, turn.computed) == ("hit", 0.25, 7)
        assert 0 < turn.first <= turn.seconds


def test_who_says_nothing_of_affinity_and_queue_says_nothing() -> None:
    turn = Turn(status=200, first=1.0, seconds=1.0, text="")
    assert turn.affinity == "none"
    assert math.isnan(turn.queued)


def test_the_same_seed_makes_the_same_clients_and_no_two_conversations_begin_alike() -> None:
    said = scripts(7, 5, 3, 100, (1.0, 2.0), (8, 24))
    assert said == scripts(7, 5, 3, 100, (1.0, 2.0), (8, 24))
    assert said != scripts(8, 5, 3, 100, (1.0, 2.0), (8, 24))
    assert len({script.opening[:20] for script in said}) == 5
    assert all(len(script.thinks) == len(script.lengths) == len(script.asks) + 1 == 4 for script in said)


@given(st.integers(1, 2000))
def test_a_text_has_about_the_tokens_it_should(tokens: int) -> None:
    words = len(prose(random.Random(1), tokens).split())
    assert abs(words * 1.22 - tokens) <= 1.22


TOP = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.floats(-9, 0)), min_size=1, max_size=5, unique_by=lambda t: t[0]
)


@given(TOP, TOP)
def test_likeness_is_the_same_from_both_sides_and_perfect_to_itself(
    one: list[tuple[str, float]], other: list[tuple[str, float]]
) -> None:
    assert likeness.distance(one, other) == likeness.distance(other, one) >= 0
    assert likeness.distance(one, one) == 0


def test_a_token_that_only_one_engine_names_counts_by_how_likely_it_was() -> None:
    right = [("The", -1.0), ("I", -2.0), ("This", -3.0)]
    assert likeness.distance(right, [("The", -1.0), ("I", -2.0), ("You", -2.95)]) == pytest.approx(0.05)
    assert likeness.distance(right, [("The", -1.0), ("No", -1.5), ("I", -2.0)]) == pytest.approx(1.5)
    assert likeness.distance(right, []) == math.inf


def test_the_judge_says_how_many_other_conversations_it_can_tell() -> None:
    same, other = (("a", -1.0),), (("a", -1.2),)
    tops = [(1, same), (2, other), (3, same), (4, same), (4, other)]
    assert likeness.told_apart(tops) == pytest.approx(2 / 3)
    assert math.isnan(likeness.told_apart([(1, same), (1, other)]))


def test_haproxys_log_says_who_waited_and_leaves_out_who_left_and_health_checks() -> None:
    log = "<134>1250 200 3\n<134>0 200 -\n<134>-1 -1 4\n0 200 5\nnotice: haproxy started\n"
    assert list(haproxy_log.waits(log)) == [("3", 1.25), ("5", 0.0)]


def test_jains_index_is_one_where_all_have_the_same_and_one_of_n_where_one_has_all() -> None:
    assert report.jain([3.0, 3.0, 3.0]) == pytest.approx(1)
    assert report.jain([0.0, 0.0, 0.0, 5.0]) == pytest.approx(0.25)
    assert math.isnan(report.jain([]))


def test_percentiles_are_of_what_is_known() -> None:
    assert report.percentile([math.nan, 4.0, 1.0, 3.0, 2.0], 50) == 2.0
    assert report.percentile([1.0, 2.0, 3.0], 95) == 3.0
    assert math.isnan(report.percentile([math.nan], 50))


@pytest.mark.parametrize(
    ("found", "least", "kept"),
    [(8.0, True, "yes"), (7.9, True, "NO"), (8.0, False, "yes"), (8.1, False, "NO"), (math.nan, True, "unknown")],
)
def test_a_promise_is_kept_at_its_bound_and_unknown_without_a_figure(found: float, least: bool, kept: str) -> None:
    assert report.Promise(what="it", found=found, bound=8.0, least=least).row()[-1] == kept


def test_json_has_null_for_what_is_not_a_number(tmp_path: Path) -> None:
    one = report.Report(title="", header=[], rows=[], figures={"x": (math.nan, 1.0, math.inf)})
    report.save(tmp_path / "x.json", {"seed": 1}, [one])
    assert json.loads((tmp_path / "x.json").read_text())["reports"][0]["figures"] == {"x": [None, 1.0, None]}


def test_what_prompts_have_in_common_is_counted_from_their_beginning() -> None:
    assert seeding.common_length([[1, 2, 3], [1, 2, 4, 3], [1, 2]]) == 2
    assert seeding.common_length([[5, 2], [1, 2]]) == 0


def served(client: int, asked: float, wait: float, ended: float) -> Served:
    turn = Turn(status=200, first=1.0, seconds=ended - asked, text="")
    request = Request(text="", tokens=1, thinks=0)
    return Served(client=str(client), request=request, turn=turn, wait=wait, asked=asked, ended=ended)


def test_a_fair_wait_is_one_service_for_each_who_asks_divided_by_the_slots() -> None:
    everybody = [served(0, 0, 8, 10), served(1, 1, 4, 7), served(2, 5, 2, 9), served(3, 8, 0, 9)]
    assert flood.service_time(everybody[:3]) == 2
    assert [flood.fair_wait(one, everybody, 3.0) for one in everybody[1:]] == [3.0, 4.5, 4.5]
    assert flood.of_fair_share(everybody[:3]) == pytest.approx([2, 2 / 3])


@pytest.mark.parametrize("fault", mischief.FILES, ids=lambda fault: fault.name)
def test_a_fault_of_the_store_changes_what_is_in_it(fault: mischief.Fault, tmp_path: Path) -> None:
    saved = {tmp_path / name: name.encode() * 9000 for name in "abc"}
    for path, data in saved.items():
        path.write_bytes(data)
    mischief.FILES[fault](random.Random(4), sorted(saved))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} != saved


async def test_a_fault_without_anything_to_hit_is_missed(tmp_path: Path) -> None:
    nobody = SimpleNamespace()
    store = mischief.Disk(tmp_path, small=False)
    faults = mischief.Mischief(nobody, nobody, store, random.Random(1))  # type: ignore[arg-type]
    await faults.inject(mischief.Fault.TRUNCATE)
    (tmp_path / "saved").write_bytes(b"x" * 99)
    await faults.inject(mischief.Fault.TRUNCATE)
    assert (faults.done.total(), faults.missed.total()) == (1, 1)
    assert (tmp_path / "saved").stat().st_size < 99
