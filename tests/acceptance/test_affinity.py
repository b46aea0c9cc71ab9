"""Conversations find what was computed of them, with the installed command and real engines."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.clients import Answer, ask, post, streaming
from tests.instances.conversations.conftest import mounted
from tests.running import Running, StartProxy, real_engine, wait_for

RULES = " ".join(f"Rule {number}: what you say is short, polite and about boats." for number in range(12))
ANSWER = 6  # tokens
NEARLY_ALL = 64  # tokens of a prompt that may be computed although the conversation was saved


class Conversation:
    """One client's, as long as it goes on."""

    def __init__(self, proxy: Running, name: str, headers: dict[str, str] | None = None, rules: str = RULES) -> None:
        self.proxy = proxy
        self.headers = headers
        self.messages: list[dict[str, str]] = [{"role": "system", "content": f"{name}. {rules}"}]

    async def turn(self, text: str = "Tell me of a boat.") -> "Turn":
        self.messages.append({"role": "user", "content": text})
        body = {"messages": self.messages, "max_tokens": ANSWER, "temperature": 0, "seed": 42}
        answer = await post(self.proxy.port, body, self.headers)
        assert answer.status == 200, answer.body
        self.messages.append(answer.json()["choices"][0]["message"])
        return Turn(answer)


class Turn:
    """What came back."""

    def __init__(self, answer: Answer) -> None:
        self.instance = answer.instance
        self.affinity = answer.head.get("x-slotproxy-affinity")
        usage = answer.json()["usage"]
        self.prompt: int = usage["prompt_tokens"]
        self.cached: int = usage["prompt_tokens_details"]["cached_tokens"]

    @property
    def computed(self) -> int:
        return self.prompt - self.cached


async def started(start_proxy: StartProxy, model: Path, *options: str, instances: int = 2, **more: Any) -> Running:
    engine, threads = real_engine(model, instances)[:-3], real_engine(model)[-3:]
    proxy = start_proxy(*engine, *options, *threads, **more)
    return await asyncio.to_thread(proxy.wait_ready, instances)


def store(proxy: Running) -> Path:
    return proxy.state_dir / "kv-store"


def files(proxy: Running) -> list[Path]:
    return sorted(store(proxy).glob("*.kv"))


async def saved(proxy: Running, count: int = 1) -> None:
    """Until so many conversations lie in the store."""
    await asyncio.to_thread(wait_for, lambda: len(files(proxy)) == count, f"{count} saved conversations", 20.0)


def pid_of(proxy: Running, instance: str = "0") -> int | None:
    """None: it has no engine now."""
    record = proxy.state_dir / "instances" / instance / "instance.json"
    return int(json.loads(record.read_text())["pid"]) if record.exists() else None


async def killed_and_replaced(proxy: Running) -> None:
    """The only engine is killed, and there is another one."""
    pid = pid_of(proxy)
    psutil.Process(pid).kill()

    def is_replaced() -> bool:
        return pid_of(proxy) not in (None, pid) and proxy.ready_count() == 1

    await asyncio.to_thread(wait_for, is_replaced, "another engine")


async def told(proxy: Running, result: str) -> float:
    page = (await ask(proxy.port, "GET", "/metrics")).body.decode()
    found = re.search(rf'^slotproxy_affinity_total\{{result="{result}"\}} (\S+)$', page, re.MULTILINE)
    assert found is not None, page
    return float(found[1])


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_a_second_turn_returns_to_where_the_first_one_was_and_says_so(
    demo_model: Path, start_proxy: StartProxy, log_format: str
) -> None:
    proxy = await started(start_proxy, demo_model, "--log-format", log_format)
    one, other = Conversation(proxy, "One"), Conversation(proxy, "Other", rules=RULES[::-1])
    first, elsewhere = await one.turn(), await other.turn()
    assert (first.affinity, elsewhere.affinity) == ("cold", "cold")
    assert first.instance != elsewhere.instance
    second = await one.turn("And another?")
    assert (second.instance, second.affinity) == (first.instance, "hit")
    assert second.computed < NEARLY_ALL
    assert (await told(proxy, "hit"), await told(proxy, "cold"), await told(proxy, "spill")) == (1, 2, 0)
    line = next(line for line in proxy.log.splitlines() if str(second.cached) in line and "hit" in line)
    if log_format == "json":
        assert json.loads(line)["affinity"] == "hit"
    else:
        assert f"hit, {second.cached} cached" in line


async def test_a_conversation_goes_on_elsewhere_when_its_engine_was_killed(
    demo_model: Path, start_proxy: StartProxy
) -> None:
    proxy = await started(start_proxy, demo_model)
    one = Conversation(proxy, "One")
    first = await one.turn()
    await saved(proxy)
    psutil.Process(pid_of(proxy, first.instance)).kill()
    second = await one.turn("And another?")
    assert second.affinity == "handed-over"
    assert second.computed < NEARLY_ALL
    assert await told(proxy, "handed-over") == 1


async def test_conversations_go_on_after_all_instances_were_restarted_in_turn(
    demo_model: Path, start_proxy: StartProxy
) -> None:
    proxy = await started(start_proxy, demo_model)
    one, other = Conversation(proxy, "One"), Conversation(proxy, "Other", rules=RULES[::-1])
    await one.turn()
    await other.turn()
    before = set(proxy.pids())
    assert (await ask(proxy.port, "POST", "/slotproxy/api/instances/restart")).status == 202
    await asyncio.to_thread(wait_for, lambda: not before & set(proxy.pids()) and proxy.ready_count() == 2, "a restart")
    for conversation in (one, other):
        turn = await conversation.turn("And another?")
        assert turn.affinity == "handed-over"
        assert turn.computed < NEARLY_ALL


async def test_a_single_instance_is_given_its_conversation_back_when_it_has_restarted(
    demo_model: Path, start_proxy: StartProxy
) -> None:
    proxy = await started(start_proxy, demo_model, instances=1)
    one = Conversation(proxy, "One")
    await one.turn()
    await saved(proxy)
    await killed_and_replaced(proxy)
    second = await one.turn("And another?")
    assert second.affinity == "handed-over"
    assert second.computed < NEARLY_ALL


async def test_without_affinity_all_is_as_if_there_were_none(demo_model: Path, start_proxy: StartProxy) -> None:
    proxy = await started(start_proxy, demo_model, "--affinity", "off")
    one = Conversation(proxy, "One", {"x-session-id": "1"})
    turns = [await one.turn(text) for text in ("Tell me of a boat.", "And another?")]
    assert [turn.affinity for turn in turns] == [None, None]
    assert turns[0].instance != turns[1].instance  # the one that was granted longest ago
    assert [await told(proxy, result) for result in ("hit", "handed-over", "spill", "cold")] == [0, 0, 0, 0]
    assert not store(proxy).exists()


async def test_two_keys_with_the_same_session_never_meet(
    demo_model: Path, start_proxy: StartProxy, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice: key-of-alice\nbob: key-of-bob\n")
    keys.chmod(0o600)
    proxy = await started(start_proxy, demo_model, "--api-key-file", str(keys), instances=1)

    def headers(name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer key-of-{name}", "x-session-id": "1"}

    alice, bob = (Conversation(proxy, "One", headers(name)) for name in ("alice", "bob"))
    await alice.turn()
    await saved(proxy)
    await killed_and_replaced(proxy)
    theirs = await bob.turn()  # the very same words: whatever is cached of them was restored
    assert theirs.affinity == "cold"
    assert theirs.cached < NEARLY_ALL
    mine = await alice.turn("And another?")
    assert mine.computed < NEARLY_ALL


async def test_saved_conversations_are_private_and_gone_at_the_end(demo_model: Path, start_proxy: StartProxy) -> None:
    proxy = await started(start_proxy, demo_model, instances=1)
    await Conversation(proxy, "One").turn()
    await saved(proxy)
    (file,) = files(proxy)
    assert file.stat().st_mode & 0o777 == 0o600
    assert store(proxy).stat().st_mode & 0o777 == 0o700
    assert await asyncio.to_thread(proxy.stop) == 0
    assert [*store(proxy).iterdir()] == []


async def test_conversations_that_are_kept_go_on_after_the_next_start(
    demo_model: Path, start_proxy: StartProxy
) -> None:
    proxy = await started(start_proxy, demo_model, "--kv-keep", instances=1)
    one = Conversation(proxy, "One")
    await one.turn()
    await saved(proxy)
    assert await asyncio.to_thread(proxy.stop) == 0
    assert len(files(proxy)) == 1
    one.proxy = await started(start_proxy, demo_model, "--kv-keep", instances=1)
    second = await one.turn("And another?")
    assert second.affinity == "handed-over"
    assert second.computed < NEARLY_ALL


async def test_where_nothing_may_be_saved_nothing_is(demo_model: Path, start_proxy: StartProxy) -> None:
    proxy = await started(start_proxy, demo_model, "--kv-store-limit", "0", instances=1)
    one = Conversation(proxy, "One")
    await one.turn()
    assert (await one.turn("And another?")).computed < NEARLY_ALL  # it is in the engine still
    assert [*store(proxy).iterdir()] == []


async def test_a_folder_that_cannot_be_used_costs_only_the_saved_conversations(
    demo_model: Path, start_proxy: StartProxy, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "kv-store").write_text("not a folder")
    proxy = await started(start_proxy, demo_model)
    one = Conversation(proxy, "One")
    first, second = await one.turn(), await one.turn("And another?")
    assert (second.affinity, second.instance) == ("hit", first.instance)
    assert second.computed < NEARLY_ALL
    assert "conversations are not saved: " in proxy.log
    assert store(proxy).read_text() == "not a folder"


@pytest.mark.parametrize("full_from_the_start", [True, False])
async def test_a_full_disk_costs_only_the_saved_conversations(
    demo_model: Path, start_proxy: StartProxy, tmp_path: Path, full_from_the_start: bool
) -> None:
    with mounted(tmp_path / "state" / "kv-store", 16) as path:
        filler = path / "filler"
        if full_from_the_start:
            filler.write_bytes(b"x" * (16 << 20))
        proxy = await started(start_proxy, demo_model, "--kv-store-limit", "1GiB", instances=1)
        filler.write_bytes(b"x" * (16 << 20))
        one = Conversation(proxy, "One")
        first, second = await one.turn(), await one.turn("And another?")
        expected = (None, None) if full_from_the_start else ("cold", "hit")  # there was no choice to make
        assert (first.affinity, second.affinity) == expected
        assert second.computed < NEARLY_ALL
        assert proxy.log.count(f"the disk of {path} is full") == 1
        assert [*path.iterdir()] == [filler]
        assert await asyncio.to_thread(proxy.stop) == 0


async def test_files_that_somebody_cut_off_are_not_restored_and_the_turn_is_served(
    demo_model: Path, start_proxy: StartProxy
) -> None:
    """Of such a file the engine would abort."""
    proxy = await started(start_proxy, demo_model, instances=1)
    one = Conversation(proxy, "One")
    await one.turn()
    await saved(proxy)
    (file,) = files(proxy)
    with file.open("r+b") as cut:
        cut.truncate(file.stat().st_size // 2)
    await killed_and_replaced(proxy)
    fresh = pid_of(proxy)
    second = await one.turn("And another?")
    assert second.affinity == "spill"
    assert second.computed > NEARLY_ALL
    assert pid_of(proxy) == fresh
    assert "its file is not the one that was saved" in proxy.log


async def test_a_proxy_that_cannot_have_the_state_directory_leaves_what_another_has_saved(
    demo_model: Path, start_proxy: StartProxy
) -> None:
    proxy = await started(start_proxy, demo_model, instances=1)
    await Conversation(proxy, "One").turn()
    await saved(proxy)
    before = files(proxy)
    second = start_proxy(*real_engine(demo_model)[:-3], "--state-dir", str(proxy.state_dir))
    assert await asyncio.to_thread(second.wait) == 1, second.log
    assert files(proxy) == before


async def test_a_stream_that_tells_no_usage_is_saved_and_goes_on(demo_model: Path, start_proxy: StartProxy) -> None:
    proxy = await started(start_proxy, demo_model, instances=1)
    one = Conversation(proxy, "One")
    body = {"messages": [*one.messages, {"role": "user", "content": "Hello."}], "max_tokens": ANSWER, "seed": 42}
    async with streaming(proxy.port, body) as client:
        answer = await client.answer()
    assert not any(event.get("usage") for event in answer.events())
    await saved(proxy)
    await killed_and_replaced(proxy)
    second = await one.turn("Hello.")
    assert second.affinity == "handed-over"
    assert second.computed < NEARLY_ALL
