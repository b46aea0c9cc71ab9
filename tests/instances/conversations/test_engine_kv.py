"""Saving and restoring: what an engine may answer by a stub, and what the real one does with two instances."""

from pathlib import Path
from typing import Any

import pytest

from slotproxy.instances.conversations.engine_kv import EngineKv, Erased, Fault, KvFailed, Restored, SavedBytes, count
from slotproxy.instances.conversations.files import Folder, Settled
from slotproxy.instances.conversations.proof import TEXT
from slotproxy.instances.profiles import catalog, selection
from slotproxy.instances.profiles.launch import Launch
from slotproxy.instances.profiles.profile import Kv
from slotproxy.instances.running.instance import Instance
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.upstream import Upstream
from tests.instances.conftest import World, upstream_of
from tests.instances.conversations.conftest import SLOTS, TOKENS, StubEngine, mounted

ACTIONS = ("save", "restore", "erase")


@pytest.fixture
def kv(probe: Probe) -> EngineKv:
    return EngineKv(probe)


async def act(kv: EngineKv, action: str, upstream: Upstream, how: Kv = SLOTS) -> Any:
    if action == "erase":
        return await kv.erase(upstream, how)
    return await (kv.save if action == "save" else kv.restore)(upstream, how, "a")


async def test_a_save_and_a_restore_tell_tokens_bytes_and_time(kv: EngineKv, stub: StubEngine) -> None:
    saved = await act(kv, "save", stub.upstream)
    assert isinstance(saved, SavedBytes)
    assert (saved.tokens, saved.size) == (TOKENS, 100)
    restored = await act(kv, "restore", stub.upstream)
    assert isinstance(restored, Restored)
    assert (restored.tokens, restored.size) == (TOKENS, 100)
    assert 0 < saved.seconds < 30
    assert 0 < restored.seconds < 30
    assert await act(kv, "erase", stub.upstream) == Erased(tokens=TOKENS - 1)
    assert stub.asked == ["save", "restore", "erase"]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    ("status", "document", "fault"),
    [
        (500, {"error": {"message": "Unable to save slot"}}, Fault.REFUSED),
        (400, "", Fault.REFUSED),
        (501, {}, Fault.UNSUPPORTED),
        (404, {}, Fault.UNSUPPORTED),
        (200, "ok", Fault.NONSENSE),
        (200, [], Fault.NONSENSE),
        (200, {}, Fault.NONSENSE),
        (200, {"n_saved": True, "n_restored": "9", "n_erased": -1, "n_written": 1, "n_read": 1}, Fault.NONSENSE),
    ],
)
async def test_whatever_else_is_answered_is_a_fault_with_a_name(
    kv: EngineKv, stub: StubEngine, folder: Folder, action: str, status: int, document: Any, fault: Fault
) -> None:
    (folder.path / "a").write_bytes(b"kv")
    stub.answers[action] = status, document
    failed = await act(kv, action, stub.upstream)
    assert isinstance(failed, KvFailed)
    assert failed.fault is fault
    assert failed.sentence


@pytest.mark.parametrize("action", ["save", "restore"])
async def test_nothing_saved_or_restored_is_no_success(
    kv: EngineKv, stub: StubEngine, folder: Folder, action: str
) -> None:
    (folder.path / "a").write_bytes(b"kv")
    stub.answers[action] = 200, {"n_saved": 0, "n_written": 36, "n_restored": 0, "n_read": 36}
    failed = await act(kv, action, stub.upstream)
    assert isinstance(failed, KvFailed)
    assert failed.fault is Fault.EMPTY


@pytest.mark.parametrize("action", ACTIONS)
async def test_nobody_there_is_no_answer(kv: EngineKv, action: str) -> None:
    failed = await act(kv, action, Upstream(instance="0", host="127.0.0.1", port=1))
    assert isinstance(failed, KvFailed)
    assert failed.fault is Fault.NO_ANSWER


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("how", ["none", "files"])
async def test_an_engine_that_has_no_such_actions_is_not_asked(
    kv: EngineKv, stub: StubEngine, action: str, how: Any
) -> None:
    failed = await act(kv, action, stub.upstream, Kv(how=how))
    assert isinstance(failed, KvFailed)
    assert failed.fault is Fault.UNSUPPORTED
    assert stub.asked == []


async def test_the_path_is_the_profiles(kv: EngineKv, stub: StubEngine) -> None:
    stub.answers["save"] = 200, {"n_saved": 1, "n_written": 2}
    assert isinstance(await act(kv, "save", stub.upstream, Kv(how="slots", path="/slots/3")), SavedBytes)
    assert stub.paths == {"/slots/3"}


@pytest.mark.parametrize(("value", "counted"), [(0, 0), (7, 7), (-1, None), (True, None), ("7", None), (7.0, None)])
def test_only_a_whole_number_that_is_not_negative_counts(value: Any, counted: int | None) -> None:
    assert count({"n": value}, "n") == counted
    assert count({}, "n") is None


# The real engine


def embedded(model: Path) -> Launch:
    profile = catalog.load("embedded")
    run = selection.program(profile, None)
    return Launch(profile=profile, program=run, model=model, name="demo", ctx=1024, threads=1)


@pytest.fixture
async def engine(world: World, demo_model: Path) -> Instance:
    return await world.started(embedded(demo_model))


async def cached(world: World, upstream: Upstream, text: str = TEXT) -> int:
    """Tokens of the text that the engine did not compute now."""
    body = {"prompt": text, "n_predict": 1, "temperature": 0, "cache_prompt": True}
    answer = await world.probe.ask(upstream, "/completion", body=body, timeout=60)
    assert answer is not None
    return int(answer.document()["timings"]["cache_n"])


async def test_one_instance_goes_on_with_what_another_has_computed(
    world: World, engine: Instance, demo_model: Path
) -> None:
    kv, how = EngineKv(world.probe), embedded(demo_model).profile.kv
    folder = Folder(world.state_dir / "kv-store")
    other = upstream_of(await world.started(embedded(demo_model)))
    assert await cached(world, upstream_of(engine)) == 0
    draft = folder.draft()
    saved = await kv.save(upstream_of(engine), how, draft)
    assert isinstance(saved, SavedBytes)
    settled = await folder.settle(draft, saved.size)
    assert isinstance(settled, Settled)
    restored = await kv.restore(other, how, settled.name)
    assert isinstance(restored, Restored)
    assert (restored.tokens, restored.size) == (saved.tokens, saved.size) == (restored.tokens, settled.stamp.size)
    assert await cached(world, other) >= saved.tokens - 2


async def test_what_was_erased_is_not_cached_anywhere_else_in_the_engine(world: World, engine: Instance) -> None:
    """On this a proof rests."""
    kv, upstream = EngineKv(world.probe), upstream_of(engine)
    assert await cached(world, upstream) == 0
    assert await cached(world, upstream) > 0
    assert isinstance(await kv.erase(upstream, SLOTS), Erased)
    assert await cached(world, upstream) == 0


async def test_the_real_engine_refuses_what_is_not_there_and_has_nothing_to_save_at_first(
    world: World, engine: Instance
) -> None:
    kv, upstream = EngineKv(world.probe), upstream_of(engine)
    failed = await kv.restore(upstream, SLOTS, "nothing")
    assert isinstance(failed, KvFailed)
    assert failed.fault is Fault.REFUSED
    assert "Unable to restore slot" in failed.sentence
    await kv.erase(upstream, SLOTS)
    empty = await kv.save(upstream, SLOTS, "empty")
    assert isinstance(empty, KvFailed)
    assert empty.fault is Fault.EMPTY


async def test_a_save_on_a_full_disk_is_refused_and_the_engine_goes_on(world: World, demo_model: Path) -> None:
    with mounted(world.state_dir / "kv-store") as path:
        upstream, folder = upstream_of(await world.started(embedded(demo_model))), Folder(path)
        kv, draft = EngineKv(world.probe), folder.draft()
        await cached(world, upstream, TEXT + TEXT)
        failed = await kv.save(upstream, SLOTS, draft)
        assert isinstance(failed, KvFailed)
        assert failed.fault is Fault.REFUSED
        assert (await folder.drop(draft)).full
        assert [*path.iterdir()] == []
        assert await cached(world, upstream, TEXT + TEXT) > TOKENS
