"""The fake engine does what it is told: otherwise the tests that lean on it prove nothing."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest

from slotproxy.instances.processes import ports
from tests.clients import Client, Unframed, ask, chat, connected, eventually, post, request, streaming
from tests.fake_answers import RAW
from tests.fake_engine import FakeEngine
from tests.recorder import recording
from tests.running import ROOT


async def told(engine: FakeEngine, **behaviour: object) -> bytes:
    """Everything that comes back for one request treated like this."""
    async with connected(engine.port) as client:
        client.send(request("POST", "/v1/chat/completions", chat(fake=behaviour)))
        return await asyncio.wait_for(client.reader.read(), 10)


async def test_answers_json_and_remembers_the_bytes_it_got() -> None:
    async with FakeEngine() as engine:
        sent = request("POST", "/v1/chat/completions", chat(), {"X-Odd": "Yes"})
        async with connected(engine.port) as client:
            client.send(sent)
            answer = await client.answer()
        assert answer.json()["choices"][0]["message"]["content"] == "Hello."
        (received,) = engine.received
        assert received.head + received.body == sent
        assert bytes(received.sent) == answer.body


async def test_a_stream_has_its_events_usage_and_end() -> None:
    async with FakeEngine() as engine:
        answer = await post(engine.port, chat(stream=True, fake={"events": 3}))
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert answer.events()[-1]["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
async def test_cuts_change_the_pieces_and_never_the_bytes(framing: str) -> None:
    async with FakeEngine() as engine:
        whole = await post(engine.port, chat(stream=True, fake={"events": 5}))
        cut = await post(engine.port, chat(stream=True, fake={"events": 5, "cuts": 1, "framing": framing}))
        assert cut.body == whole.body == bytes(engine.received[1].sent)


@pytest.mark.parametrize("name", RAW)
async def test_raw_answers_go_out_as_they_are_and_end_the_connection(name: str) -> None:
    async with FakeEngine() as engine:
        assert await told(engine, raw=name) == RAW[name]


@pytest.mark.parametrize(("fail", "after"), [("close", -1), ("close", 2), ("reset", -1), ("reset", 2)])
async def test_a_failing_answer_stops_where_it_was_told(fail: str, after: int) -> None:
    async with FakeEngine() as engine, streaming(engine.port, chat(fake={"fail": fail, "after": after})) as client:
        with pytest.raises((Unframed, ConnectionError)) as caught:
            await client.answer()
        seen = caught.value.body if isinstance(caught.value, Unframed) else b""
        assert seen.count(b"data:") == max(after, 0) or fail == "reset"


async def test_is_busy_until_a_hung_request_is_given_up_and_as_long_as_told_after_that() -> None:
    async with FakeEngine() as engine:

        async def busy() -> bool:
            return bool((await ask(engine.port, "GET", "/slots")).json()[0]["is_processing"])

        async def idle() -> bool:
            return not await busy()

        async with streaming(engine.port, chat(fake={"fail": "hang", "after": 1, "compute": 0.3})) as client:
            await client.head()
            assert await busy()
            client.abort()
        assert await busy()
        await eventually(idle)
        (received,) = engine.received
        assert received.cancelled


async def test_a_crash_resets_its_clients_and_refuses_new_ones() -> None:
    async with FakeEngine() as engine:
        async with streaming(engine.port, chat(fake={"fail": "die", "after": 1})) as client:
            with pytest.raises((Unframed, ConnectionError)):
                await client.answer()
        with pytest.raises(ConnectionRefusedError):
            await post(engine.port, chat())


async def test_only_the_first_of_two_engines_misbehaves(tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")
    async with FakeEngine() as one, FakeEngine() as two:
        assert await told(one, raw="garbage", only_first=flag) == RAW["garbage"]
        assert (await post(two.port, chat(fake={"raw": "garbage", "only_first": flag}))).status == 200


async def test_a_connection_ends_after_as_many_requests_as_it_may_carry() -> None:
    async with FakeEngine(per_connection=2) as engine, connected(engine.port) as client:
        for _ in range(2):
            client.send(request("POST", "/v1/chat/completions", chat()))
            assert (await client.answer()).status == 200
        assert await client.closed()


async def test_a_reused_connection_is_dropped_without_an_answer() -> None:
    async with FakeEngine(default={"drop_reused": True}) as engine, connected(engine.port) as client:
        client.send(request("POST", "/v1/chat/completions", chat()))
        assert (await client.answer()).status == 200
        client.send(request("POST", "/v1/chat/completions", chat()))
        assert await client.closed()


async def test_status_headers_size_and_head_requests() -> None:
    async with FakeEngine() as engine:
        error = await post(engine.port, chat(fake={"status": 503, "body": "no", "headers": {"Retry-After": "7"}}))
        assert (error.status, error.body, error.head["retry-after"]) == (503, b"no", "7")
        assert len((await post(engine.port, chat(fake={"size": 5000}))).body) == 5000
        assert (await post(engine.port, chat(fake={"status": 204}))).body == b""
        assert (await ask(engine.port, "HEAD", "/completion")).head["content-length"]


async def test_a_script_is_played_once_and_in_order() -> None:
    async with FakeEngine() as engine:
        await ask(engine.port, "POST", "/fake/script", [{"status": 500}, {"status": 429}])
        assert [(await post(engine.port, chat())).status for _ in range(3)] == [500, 429, 200]


async def test_a_recorder_keeps_the_engines_bodies_by_request_id() -> None:
    async with FakeEngine() as engine, recording(engine.port) as recorder, connected(recorder.port) as client:
        for number in range(3):
            headers = {"X-Request-Id": f"r{number}"}
            client.send(
                request("POST", "/v1/chat/completions", chat(stream=number == 1, fake={"cuts": number}), headers)
            )
            answer = await client.answer()
            assert (await recorder.bodies())[f"r{number}"] == answer.body


@asynccontextmanager
async def program(*args: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fake_engine", *args, cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        yield process, process.stderr
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await asyncio.wait_for(process.stderr.read(), 10)  # to its end: before, the pipe would outlive the loop


async def test_as_a_program_it_listens_and_ends_on_term() -> None:
    async with program() as (process, stderr):
        port = int((await stderr.readline()).rsplit(b":", 1)[1])
        assert (await post(port, chat())).status == 200
        report = (await ask(port, "GET", "/fake/received")).json()
        assert (report["pid"], report["peak"], len(report["received"])) == (process.pid, 1, 1)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_as_a_program_it_can_ignore_term_die_and_exit_at_once() -> None:
    async with program("--ignore-term", "--default", json.dumps({"fail": "die"})) as (process, stderr):
        port = int((await stderr.readline()).rsplit(b":", 1)[1])
        process.send_signal(signal.SIGTERM)
        assert (await ask(port, "GET", "/health")).status == 200
        with pytest.raises((Unframed, ConnectionError)):
            await post(port, chat())
        assert await asyncio.wait_for(process.wait(), 10) == 9
    async with program("--exit", "no such thing") as (process, stderr):
        assert await stderr.read() == b"no such thing\n"
        assert await asyncio.wait_for(process.wait(), 10) == 1


async def test_a_strict_client_refuses_loose_framing() -> None:
    async with FakeEngine() as engine:
        for name in ("no-last-chunk", "bad-chunk-size", "length-too-long", "garbage", "half-head"):
            async with connected(engine.port) as client:
                client.send(request("POST", "/v1/chat/completions", chat(fake={"raw": name})))
                with pytest.raises(Unframed):
                    await Client.answer(client)


async def test_a_drip_changes_the_pace_and_never_the_bytes() -> None:
    async with FakeEngine() as engine:
        whole = await post(engine.port, chat(stream=True, fake={"events": 1}))
        dripping = await post(engine.port, chat(stream=True, fake={"events": 1, "drip": 0.0001}))
        assert dripping.body == whole.body


async def test_surplus_bytes_follow_a_whole_answer_on_an_open_connection() -> None:
    async with FakeEngine() as engine, connected(engine.port) as client:
        client.send(request("POST", "/v1/chat/completions", chat(fake={"surplus": "more"})))
        assert (await client.answer()).status == 200
        assert await client.reader.readexactly(4) == b"more"
        client.send(request("POST", "/v1/chat/completions", chat()))
        assert (await client.answer()).status == 200


async def test_it_can_be_silent_about_itself_while_it_works() -> None:
    async with FakeEngine(silent_while_busy=True) as engine, connected(engine.port) as asking:
        async with streaming(engine.port, chat(fake={"fail": "hang", "after": 1})) as client:
            await client.head()
            asking.send(request("GET", "/health"))
            for path in ("/v1/models", "/fake/received"):  # these it answers meanwhile
                assert (await ask(engine.port, "GET", path)).status == 200
            early = asking.reader._buffer  # type: ignore[attr-defined]  # what has come; there is no public name
            assert not early
            client.abort()
        assert (await asking.answer()).status == 200


async def test_as_a_program_it_leaves_children_and_daemons_about() -> None:
    async with program("--children", "1", "--daemons", "1") as (process, stderr):
        port = int((await stderr.readline()).rsplit(b":", 1)[1])
        child, daemon = (await ask(port, "GET", "/fake/received")).json()["descendants"]
        try:
            assert os.getpgid(child) == os.getpgid(process.pid)
            assert os.getsid(daemon) not in (os.getsid(0), os.getsid(process.pid))
            assert psutil.Process(daemon).ppid() != process.pid
        finally:
            for pid in (child, daemon):
                os.kill(pid, signal.SIGKILL)


async def test_as_a_program_it_dies_some_time_after_its_first_generation() -> None:
    async with program("--die-after", "0.05") as (process, stderr):
        port = int((await stderr.readline()).rsplit(b":", 1)[1])
        assert (await post(port, chat())).status == 200
        assert await asyncio.wait_for(process.wait(), 10) == 9


async def test_as_a_program_it_can_leave_its_port_to_a_stranger() -> None:
    port = ports.free("127.0.0.1")
    async with program("--stranger", "--port", str(port)) as (process, _):

        async def answers() -> bool:
            with suppress(OSError):
                return (await ask(port, "GET", "/health")).status == 200
            return False

        await eventually(answers)
        assert not ports.owns(process.pid, port)
        strangers = [one.pid for one in psutil.net_connections("tcp") if one.laddr[1:] == (port,) and one.pid]
        for pid in set(strangers):
            os.kill(pid, signal.SIGKILL)
