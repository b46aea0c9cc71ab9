"""Faults at random: a short run, and that what judges it can tell right from wrong."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import observe, verdicts
from tests.chaos.orders import Order, fake_order, fake_orders, real_orders
from tests.chaos.schedule import DEADLY, MOST, WINDOW, schedule
from tests.chaos.tally import Reading, Tally, given_up
from tests.chaos.verdicts import Judged, Verdict
from tests.clients import Head
from tests.running import ROOT

WORLDS = {"real": 2, "fake": 3}
ANSWERS = {("Say hi.", 4): ("Hi there", "stop")}


def chaos(*options: str, seconds: float, program: str = "tests.chaos") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", program, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_short_run_finds_nothing_wrong(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    ran = chaos(
        "--seconds",
        "4",
        "--seed",
        "11",
        "--every",
        "0.5",
        "--real",
        "0",
        "--fake",
        "3",
        "--json",
        str(figures),
        seconds=150,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    fake = json.loads(figures.read_text())["fake"]
    assert fake["completed"] > 0
    assert sum(fake["injected"].values()) > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_longer_run_with_real_engines_finds_nothing_wrong() -> None:
    ran = chaos("--seconds", "40", "--seed", "3", seconds=500)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_proxy_killed_at_any_moment_leaves_no_engine_and_no_lock() -> None:
    ran = chaos("--times", "20", program="tests.chaos.kill", seconds=500)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_memory_and_descriptors_do_not_grow_with_requests_and_those_that_were_left() -> None:
    ran = chaos(program="tests.chaos.soak", seconds=900)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_same_seed_is_the_same_schedule_and_another_is_not() -> None:
    assert schedule(7, 600, WORLDS) == schedule(7, 600, WORLDS)
    assert schedule(7, 600, WORLDS) != schedule(8, 600, WORLDS)


def first(seed: int, client: int, count: int = 40) -> list[Order]:
    fake, real = fake_orders(seed, client), real_orders(seed, client, ANSWERS)
    return [next(orders) for _ in range(count) for orders in (fake, real)]


def test_the_same_seed_makes_every_client_ask_the_same_and_no_two_clients_alike() -> None:
    assert first(7, 0) == first(7, 0)
    assert first(7, 0) != first(8, 0)
    assert {order.name for order in first(7, 0)} & {order.name for order in first(7, 1)} == set()


@pytest.mark.parametrize("seed", range(5))
def test_no_instance_is_made_to_fail_so_often_that_it_would_be_given_up(seed: int) -> None:
    plan = [one for one in schedule(seed, 3000, WORLDS, every=0.5) if one.fault in DEADLY]
    for world, instances in WORLDS.items():
        for target in range(instances):
            times = [one.at for one in plan if (one.world, one.target) == (world, target)]
            assert times
            assert max(sum(at - WINDOW < then <= at for then in times) for at in times) <= MOST


STREAM = (("content-type", "text/event-stream"), ("transfer-encoding", "chunked"))
TAGGED = (("x-request-id", "a"), ("x-tag", "a"), ("content-type", "application/json"))


def judged(order: Order, body: bytes, *fields: tuple[str, str], status: int = 200) -> Judged:
    return verdicts.whole(order, Head(version="1.1", status=status, fields=(*TAGGED, *fields)), body)


def test_only_the_very_answer_is_complete() -> None:
    order = fake_order("a", {"size": 100}, stream=False)
    assert order.expected is not None
    assert judged(order, order.expected).verdict is Verdict.COMPLETED
    assert judged(order, order.expected[:-1]).verdict is Verdict.WRONG
    assert judged(order, order.expected, status=201).verdict is Verdict.WRONG
    assert judged(order, order.expected, ("x-tag", "b")).verdict is Verdict.WRONG
    assert judged(order, order.expected, ("x-request-id", "b")).verdict is Verdict.WRONG
    broken = fake_order("a", {"raw": "garbage"}, stream=False)
    assert judged(broken, order.expected).verdict is Verdict.WRONG


def test_only_the_proxys_own_refusals_with_what_sdks_need_are_right_errors() -> None:
    order = fake_order("a", {}, stream=False)
    body = b'{"error": {"message": "m", "type": "t", "param": null, "code": "%b"}}'
    plain = Head(version="1.1", status=429, fields=(("x-request-id", "a"),))
    told = Head(version="1.1", status=429, fields=(*plain.fields, ("retry-after", "3")))
    assert verdicts.whole(order, told, body % b"queue_full").verdict is Verdict.FAILED
    assert verdicts.whole(order, plain, body % b"queue_full").verdict is Verdict.WRONG
    assert verdicts.whole(order, told, body % b"internal_error").verdict is Verdict.WRONG
    assert verdicts.whole(order, told, b"busy").verdict is Verdict.WRONG


def test_an_answer_that_was_cut_must_begin_like_the_right_one() -> None:
    order = fake_order("a", {"events": 3}, stream=True)
    head = Head(version="1.1", status=200, fields=TAGGED)
    told = Head(version="1.1", status=200, fields=(*TAGGED[:2], *STREAM))
    assert order.expected is not None
    event = b'data: {"error": {"code": "%b"}}\n\n'
    begun = order.expected[:200]
    assert verdicts.cut(order, head, begun).verdict is Verdict.FAILED
    assert verdicts.cut(order, told, begun).verdict is Verdict.WRONG
    assert verdicts.cut(order, told, begun, reset=True).verdict is Verdict.FAILED
    assert verdicts.cut(order, told, begun + event % b"upstream_failed").verdict is Verdict.FAILED
    assert verdicts.cut(order, head, begun + b"\n\n" + event % b"upstream_failed").verdict is Verdict.FAILED
    assert verdicts.cut(order, head, begun + event % b"internal_error").verdict is Verdict.WRONG
    assert verdicts.cut(order, head, b"data: other\n\n").verdict is Verdict.WRONG


def test_a_real_engines_words_are_compared_and_not_its_bytes() -> None:
    def spoken(*texts: str, done: bool = True) -> bytes:
        chunks: list[dict[str, Any]] = [
            {"choices": [{"delta": {"content": text}, "finish_reason": None}]} for text in texts
        ]
        chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        lines = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
        return b"".join(lines) + (b"data: [DONE]\n\n" if done else b"")

    order = next(one for one in real_orders(1, 0, ANSWERS, patient=True) if one.stream)
    head = Head(version="1.1", status=200, fields=(("x-request-id", order.name),))
    assert verdicts.whole(order, head, spoken("Hi ", "there")).verdict is Verdict.COMPLETED
    assert verdicts.whole(order, head, spoken("Hi ", "you")).verdict is Verdict.WRONG
    assert verdicts.whole(order, head, spoken("Hi ", "there", done=False)).verdict is Verdict.WRONG
    assert verdicts.cut(order, head, spoken("Hi ", done=False)).verdict is Verdict.FAILED
    assert verdicts.cut(order, head, spoken("Ho ", done=False)).verdict is Verdict.WRONG


LOG = """\
12:00:00 warning: instance 1: ready -> backoff (the engine exited with status 9)
12:00:01 instance 1: backoff -> starting
12:00:02 warning: instance 1: stopped -> backoff (restarted on request)
12:00:03 error: instance 1: backoff -> failed (the engine gave no answer in time)
"""


def test_failures_are_told_by_the_proxys_log() -> None:
    noon = 12 * 3600.0
    assert observe.setbacks(LOG) == [(noon, "1", False), (noon + 3, "1", True)]


def test_an_instance_may_be_given_up_after_six_failures_in_five_minutes_and_no_fewer() -> None:
    six = [(10.0 * number, "1", False) for number in range(6)]
    assert given_up([*six, (51.0, "1", True)]) == (1, 0)
    assert given_up([*six[1:], (51.0, "1", True)]) == (1, 1)
    assert given_up([*six, (305.0, "1", True)]) == (1, 1)
    assert given_up([*six, (51.0, "2", True)]) == (1, 1)


def reading(fds: int = 20, tasks: tuple[str, ...] = ("a", "b"), memory: int = 50 << 20, threads: int = 9) -> Reading:
    return Reading(fds=fds, threads=threads, tasks=tasks, memory=memory)


def tally(seconds: float = 100.0, after: Reading | None = None) -> Tally:
    found = Tally(name="x", seconds=seconds, before=reading(), early=50 << 20, after=after or reading(), exit_code=0)
    found.count(Judged(verdict=Verdict.COMPLETED))
    return found


def test_a_run_in_which_all_came_back_has_no_problems() -> None:
    assert tally().problems() == []
    assert tally(after=reading(fds=19, tasks=("a",))).problems() == []


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (reading(fds=21), "1 file descriptors more"),
        (reading(tasks=("a", "b", "b")), "{'b': 1}"),
        (reading(threads=90), "81 threads more"),
        (reading(memory=70 << 20), "from 50 to 70 MiB"),
    ],
    ids=["descriptors", "tasks", "threads", "memory"],
)
def test_what_did_not_come_back_is_a_problem(after: Reading, said: str) -> None:
    (problem,) = tally(after=after).problems()
    assert said in problem


def test_anything_wrong_hung_leaked_or_left_is_a_problem() -> None:
    for verdict in (Verdict.WRONG, Verdict.HUNG):
        found = tally()
        found.count(Judged(verdict=verdict, why="what"))
        assert found.problems() == ["what"]
    for name in ("leaked", "lost", "shared", "orphans", "too_early"):
        found = tally()
        setattr(found, name, 1)
        assert len(found.problems()) == 1, name
    found = tally()
    found.exit_code = -9
    assert found.problems() == ["the proxy ended with exit code -9"]
    assert Tally(name="x", seconds=1.0).problems() != []
