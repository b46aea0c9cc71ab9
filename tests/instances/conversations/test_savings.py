"""The store as engines and the disk let it be: what is kept, what is not read, what is said of it."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from slotproxy.instances.conversations import savings as module
from slotproxy.instances.conversations.files import MANIFEST
from slotproxy.instances.conversations.savings import Kept, NotKept, NotRead, Savings
from slotproxy.instances.conversations.store import PAUSE, Saved
from slotproxy.instances.profiles.profile import Kv
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.slots.claim import Prefix
from tests.conversations_text import claim
from tests.instances.conversations.conftest import SLOTS, StubEngine, mounted, serving

SIZE = 100  # bytes of the stub's files
FIRST, SECOND = claim("system", "one").prefix, claim("system", "one", "answer", "two").prefix
OTHER = claim("system", "another").prefix


class Shop:
    """A store with one engine."""

    def __init__(self, probe: Probe, state_dir: Path, engine: StubEngine) -> None:
        self.gone: list[str] = []
        self.folder = state_dir / "kv-store"
        self.savings = Savings(probe, self.folder, state_dir, self.gone.append)
        self.engine = engine

    async def save(self, prefix: Prefix = FIRST, principal: str = "alice", build: str = "build") -> Kept | NotKept:
        return await self.savings.save(self.engine.upstream, SLOTS, build, principal, prefix)

    async def kept(self, prefix: Prefix = FIRST, principal: str = "alice", build: str = "build") -> Saved:
        kept = await self.save(prefix, principal, build)
        assert isinstance(kept, Kept)
        return kept.saved

    async def restore(self, saved: Saved) -> float | NotRead:
        return await self.savings.restore(self.engine.upstream, SLOTS, saved)

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture
async def shop(probe: Probe, stub: StubEngine, tmp_path: Path) -> Shop:
    shop = Shop(probe, tmp_path, stub)
    assert await shop.savings.open(1 << 20, keep=False) == ()
    return shop


async def test_what_was_saved_can_be_restored(shop: Shop) -> None:
    saved = await shop.kept()
    assert (saved.principal, saved.prefix, saved.tokens, saved.build) == ("alice", FIRST, 64, "build")
    assert shop.files == {saved.name}
    assert (shop.folder / saved.name).stat().st_mode & 0o777 == 0o600
    assert (shop.savings.count, shop.savings.size) == (1, SIZE)
    assert isinstance(await shop.restore(saved), float)
    assert shop.engine.restored == [saved.name]


async def test_a_later_turn_takes_the_place_of_an_earlier_one(shop: Shop) -> None:
    first = await shop.kept(FIRST)
    other = await shop.kept(OTHER)
    second = await shop.kept(SECOND)
    assert shop.gone == [first.name]
    assert shop.files == {other.name, second.name}
    assert await shop.restore(first) == NotRead(again=False)
    assert shop.engine.restored == []


async def test_the_one_used_longest_ago_goes_when_there_is_no_room(
    probe: Probe, stub: StubEngine, tmp_path: Path
) -> None:
    shop = Shop(probe, tmp_path, stub)
    await shop.savings.open(2 * SIZE, keep=False)
    first, second = await shop.kept(FIRST), await shop.kept(OTHER)
    await shop.restore(first)
    third = await shop.kept(FIRST, principal="bob")
    assert shop.gone == [second.name]
    assert shop.files == {first.name, third.name}


async def test_what_is_larger_than_all_that_may_be_saved_is_not_asked_for_again(
    probe: Probe, stub: StubEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(probe, tmp_path, stub)
    await shop.savings.open(SIZE - 1, keep=False)
    assert shop.savings.may_save("build", 64)
    for _ in range(2):
        assert await shop.save() == NotKept()
    assert shop.files == set()
    assert not shop.savings.may_save("build", 64)
    assert shop.savings.may_save("build", 63)
    assert shop.savings.may_save("another build", 64)
    assert len(caplog.messages) == 1
    assert "--kv-store-limit" in caplog.text


def truncate(path: Path) -> None:
    os.truncate(path, SIZE // 2)


def replace(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


def put_a_link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


@pytest.mark.parametrize("harm", [truncate, replace, put_a_link, Path.unlink])
async def test_a_file_that_is_not_the_one_that_was_saved_is_never_shown_to_an_engine(
    shop: Shop, harm: Callable[[Path], None]
) -> None:
    """Of a truncated one llama.cpp's server aborts."""
    saved = await shop.kept()
    harm(shop.folder / saved.name)
    assert await shop.restore(saved) == NotRead(again=False)
    assert "restore" not in shop.engine.asked
    assert shop.gone == [saved.name]
    assert not (shop.folder / saved.name).exists()
    assert (shop.savings.count, shop.savings.size) == (0, 0)


async def test_an_engine_that_gives_no_answer_once_does_not_cost_the_file_twice_it_does(shop: Shop) -> None:
    saved = await shop.kept()
    shop.engine.dies_at.add("restore")
    assert await shop.restore(saved) == NotRead(again=True)
    assert shop.files == {saved.name}
    assert shop.gone == []
    assert await shop.restore(saved) == NotRead(again=False)
    assert shop.files == set()
    assert shop.gone == [saved.name]


async def test_a_restore_that_went_well_clears_the_file_of_suspicion(shop: Shop) -> None:
    saved = await shop.kept()
    for _ in range(3):
        shop.engine.dies_at.add("restore")
        assert await shop.restore(saved) == NotRead(again=True)
        shop.engine.dies_at.clear()
        assert isinstance(await shop.restore(saved), float)


async def test_a_file_that_an_engine_refuses_is_deleted_at_once(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    saved = await shop.kept()
    shop.engine.answers["restore"] = 400, {"error": "not mine"}
    assert await shop.restore(saved) == NotRead(again=False)
    assert shop.files == set()
    assert "a saved conversation is not used: restore: status 400" in caplog.text


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((500, {"error": "no"}), "could not write its file"),
        ((200, {"n_saved": 64, "n_written": 99}), "100 bytes are there, of 99"),
        ((200, {"n_saved": 0, "n_written": 0}), "there is no conversation"),
        ((200, {"n_saved": "64"}), "not llama-server's"),
        ((404, {}), "status 404"),
    ],
)
async def test_what_failed_to_be_saved_leaves_nothing_and_is_said_once(
    shop: Shop, caplog: pytest.LogCaptureFixture, answer: tuple[int, object], why: str
) -> None:
    shop.engine.answers["save"] = answer
    for _ in range(3):
        assert await shop.save() == NotKept()
    assert shop.files == set()
    assert shop.savings.count == 0
    (said,) = caplog.messages
    assert why in said


async def test_an_engine_that_dies_while_it_saves_leaves_nothing(shop: Shop) -> None:
    shop.engine.dies_at.add("save")
    assert await shop.save() == NotKept()
    assert shop.files == set()


async def test_after_a_save_that_failed_there_is_a_pause_until_one_succeeds(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    shop.engine.answers["save"] = 500, {}
    assert shop.savings.may_save("build", 64)
    await shop.save()
    now += PAUSE - 1.0
    assert not shop.savings.may_save("build", 64)
    now += 1.0
    assert shop.savings.may_save("build", 64)
    await shop.save()
    assert not shop.savings.may_save("build", 64)
    shop.engine.answers.clear()
    await shop.kept()
    assert shop.savings.may_save("build", 64)


async def test_a_full_disk_is_named_and_what_was_saved_before_stays(
    probe: Probe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with mounted(tmp_path / "kv-store") as path:
        async with serving(path) as engine:
            shop = Shop(probe, tmp_path, engine)
            await shop.savings.open(1 << 30, keep=False)
            assert shop.savings.memory == 0
            saved = await shop.kept()
            assert shop.savings.memory == saved.size
            filler = path / "filler"
            filler.write_bytes(b"x" * (3 << 19))
            engine.answers["save"] = 500, {}
            assert await shop.save(OTHER) == NotKept()
            assert not shop.savings.may_save("build", 64)
            assert f"the disk of {path} is full; tried again in a minute" in caplog.messages[-1]
            assert isinstance(await shop.restore(saved), float)
            filler.unlink()


async def test_conversations_that_were_kept_are_known_to_the_next_proxy(
    shop: Shop, probe: Probe, tmp_path: Path
) -> None:
    first, other = await shop.kept(FIRST), await shop.kept(OTHER)
    await shop.restore(first)
    await shop.savings.close(keep=True)
    assert not shop.savings.is_open
    assert shop.files == {first.name, other.name, MANIFEST}
    later = Shop(probe, tmp_path, shop.engine)
    assert await later.savings.open(1 << 20, keep=True) == (other, first)
    assert (later.savings.count, later.savings.size) == (2, 2 * SIZE)
    assert later.savings.limit == 1 << 20


async def test_of_those_that_were_kept_only_as_many_stay_as_there_is_room_for(
    shop: Shop, probe: Probe, tmp_path: Path
) -> None:
    await shop.kept(FIRST)
    other = await shop.kept(OTHER)
    await shop.savings.close(keep=True)
    later = Shop(probe, tmp_path, shop.engine)
    assert await later.savings.open(SIZE, keep=True) == (other,)
    assert later.files - {MANIFEST} == {other.name}


@pytest.mark.parametrize("keep_first", [True, False])
async def test_they_are_gone_where_nobody_said_that_they_are_kept(
    shop: Shop, probe: Probe, tmp_path: Path, keep_first: bool
) -> None:
    await shop.kept()
    await shop.savings.close(keep=keep_first)
    assert bool(shop.files) == keep_first
    later = Shop(probe, tmp_path, shop.engine)
    assert await later.savings.open(1 << 20, keep=not keep_first) == ()
    assert later.files == set()


async def test_the_folder_of_another_proxy_is_not_touched_at_the_end(shop: Shop, probe: Probe, tmp_path: Path) -> None:
    saved = await shop.kept()
    never_opened = Savings(probe, shop.folder, tmp_path, shop.gone.append)
    for keep in (False, True):
        await never_opened.close(keep=keep)
    assert shop.files == {saved.name}


async def test_with_a_limit_of_nothing_nothing_is_ever_saved(shop: Shop, probe: Probe, tmp_path: Path) -> None:
    await shop.kept()
    await shop.savings.close(keep=True)
    none = Shop(probe, tmp_path, shop.engine)
    assert await none.savings.open(0, keep=True) == ()
    assert none.files == set()
    assert not none.savings.is_open
    assert not none.savings.may_save("build", 64)
    assert not await none.savings.is_proven(none.engine.upstream, SLOTS, "build")
    assert "/completion" not in none.engine.asked


async def test_a_folder_that_cannot_be_used_means_that_nothing_is_saved(
    probe: Probe, stub: StubEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    (state_dir / "kv-store").write_text("a file of somebody")
    shop = Shop(probe, state_dir, stub)
    assert await shop.savings.open(None, keep=False) == ()
    assert not shop.savings.is_open
    await shop.savings.close(keep=False)
    assert (state_dir / "kv-store").read_text() == "a file of somebody"
    (said,) = caplog.messages
    assert said.startswith("conversations are not saved: ")


async def test_a_build_is_tried_once_and_one_that_could_not_be_tried_again(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    shop.engine.dies_at.add("/completion")
    assert not await shop.savings.is_proven(shop.engine.upstream, SLOTS, "build")
    shop.engine.dies_at.clear()
    for _ in range(2):
        assert await shop.savings.is_proven(shop.engine.upstream, SLOTS, "build")
    assert shop.engine.asked.count("/completion") == 3
    shop.engine.reuses = 0
    assert not await shop.savings.is_proven(shop.engine.upstream, SLOTS, "another build")
    assert await shop.savings.is_proven(shop.engine.upstream, SLOTS, "build")
    assert not await shop.savings.is_proven(shop.engine.upstream, Kv(), "a third")
