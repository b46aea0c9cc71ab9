"""Between turns: what is saved and restored, in which order, and that every slot comes back exactly once."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from slotproxy.instances.aftercare import Aftercare
from slotproxy.instances.conversations import turns as module
from slotproxy.instances.conversations.affinity import Affinity, Result
from slotproxy.instances.conversations.files import MANIFEST, Folder
from slotproxy.instances.conversations.holdings import Held
from slotproxy.instances.conversations.savings import Savings
from slotproxy.instances.conversations.turns import SLACK, Turns
from slotproxy.instances.profiles.launch import Launch
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.slots.claim import Claim
from slotproxy.instances.slots.lease import Answered, KnownLease
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.slots.pool import Pool
from slotproxy.instances.slots.routing import least_busy
from slotproxy.instances.upstream import Upstream
from tests.conversations_text import claim
from tests.instances.conftest import stub_launch
from tests.instances.conversations.conftest import SLOTS, StubEngine

SOON = 20.0
COMPLETION = 10
SYSTEM, LONG = "s" * 2000, "w" * 4000
FIRST = claim(SYSTEM, LONG)
SECOND = claim(SYSTEM, LONG, "answer", "two")
OTHER = claim("t" * 2000, "x" * 4000)


def tokens(one: Claim) -> int:
    return one.prefix.size // 4


class Desk:
    """The turns of one proxy, and the clients before it."""

    def __init__(self, probe: Probe, state_dir: Path, tasks: asyncio.TaskGroup, launch: Launch) -> None:
        self.launch = launch
        self.affinity = Affinity(least_busy)
        self.leases = Leases(Pool(8))
        self.leases.decide_by(self.affinity)
        self.folder = state_dir / "kv-store"
        self.savings = Savings(probe, self.folder, state_dir, self.affinity.holdings.discard)
        self.turns = Turns(self.affinity, self.leases, self.savings)
        self.turns.run_in(tasks)
        self.leases.owner = Aftercare(self.leases, tuple, tasks, self.turns)

    async def join(self, *engines: StubEngine) -> None:
        for engine in engines:
            await self.turns.joining(engine.upstream, self.launch, Path())
            self.leases.add(engine.upstream)
            engine.asked.clear()
            engine.restored.clear()

    def lease(self, one: Claim) -> KnownLease:
        lease = self.leases.at_once("POST", "/v1/chat/completions", claim=one)
        assert isinstance(lease, KnownLease)
        return lease

    def finish(self, lease: KnownLease, engine: StubEngine, *, cached: int = 0, saved: int | None = None) -> None:
        """The engine has answered; `saved`: tokens that its slot holds then."""
        prompt = tokens(lease.turn.claim)
        engine.tokens = prompt + COMPLETION if saved is None else saved
        took = (prompt - cached) * 0.01
        lease.finish(Answered(prompt=prompt, completion=COMPLETION, cached=cached, prefill=took, total=took + 1.0))

    async def rest(self, *engines: StubEngine) -> None:
        """Until no slot is leased."""
        async with asyncio.timeout(SOON):
            while any(self.leases.leased(engine.upstream) for engine in engines):
                await asyncio.sleep(0.001)

    async def turn(self, one: Claim, engine: StubEngine, **finish: Any) -> Result:
        """A whole one that nobody disturbs."""
        lease = self.lease(one)
        assert lease.upstream is engine.upstream
        if lease.is_to_be_prepared:
            await lease.prepare()
        result: Result = lease.turn.result
        self.finish(lease, engine, **finish)
        await self.rest(engine)
        return result

    def saved(self, one: Claim) -> str | None:
        """The file in which the conversation is."""
        record = self.affinity.index.conversation(one)
        saved = None if record is None else self.affinity.holdings.saved(record)
        return None if saved is None else saved.name

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def makes_saving_slow(self) -> None:
        self.affinity.figures.kv.value = 1000.0
        self.affinity.figures.write.value = 1e-6  # a second and a half for 1500 tokens

    async def restarts(self, engine: StubEngine) -> None:
        """It has ended, and another process is there in its place."""
        self.leases.withdraw(engine.upstream)
        self.turns.left(engine.upstream)
        fresh = Upstream(instance=engine.upstream.instance, host="127.0.0.1", port=engine.upstream.port)
        engine.upstream = fresh
        await self.join(engine)


@pytest.fixture
async def desk(probe: Probe, folder: Folder, tmp_path: Path, gguf: Path) -> AsyncIterator[Desk]:
    async with asyncio.TaskGroup() as tasks:
        desk = Desk(probe, tmp_path, tasks, stub_launch(gguf, kv=SLOTS))
        await desk.savings.open(1 << 20, keep=False)
        yield desk
        desk.turns.close()


# a turn is over


async def test_a_conversation_is_saved_when_its_turn_is_over_and_the_slot_is_leased_until_then(
    desk: Desk, stub: StubEngine
) -> None:
    await desk.join(stub)
    stub.gates["save"] = asyncio.Event()
    lease = desk.lease(FIRST)
    assert not lease.is_to_be_prepared
    desk.finish(lease, stub)
    await stub.was_asked("save")
    assert desk.leases.leased(stub.upstream) == 1
    assert desk.leases.take() is None
    lease.release()
    assert desk.leases.leased(stub.upstream) == 1
    stub.gates["save"].set()
    await desk.rest(stub)
    assert desk.saved(FIRST) in desk.files
    assert desk.leases.take() is not None


async def test_a_conversation_is_saved_once_for_each_of_its_turns_in_one_file(desk: Desk, stub: StubEngine) -> None:
    await desk.join(stub)
    await desk.turn(FIRST, stub)
    first = desk.saved(FIRST)
    assert await desk.turn(SECOND, stub, cached=tokens(FIRST)) is Result.HIT
    assert stub.asked == ["save", "save"]
    assert desk.files == {desk.saved(SECOND)}
    assert desk.saved(SECOND) != first


async def test_a_conversation_whose_beginning_changes_with_every_turn_has_one_file_too(
    desk: Desk, stub: StubEngine
) -> None:
    await desk.join(stub)
    await desk.turn(claim("Monday", LONG), stub)
    await desk.turn(claim("Friday", LONG, "answer", "two"), stub)
    assert stub.asked == ["save", "save"]
    assert len(desk.files) == 1


async def test_an_engine_whose_profile_has_no_way_to_save_is_asked_for_nothing(
    desk: Desk, stub: StubEngine, gguf: Path
) -> None:
    desk.launch = stub_launch(gguf)
    await desk.turns.joining(stub.upstream, desk.launch, Path())
    desk.leases.add(stub.upstream)
    await desk.turn(FIRST, stub)
    assert await desk.turn(SECOND, stub, cached=tokens(FIRST)) is Result.HIT
    assert stub.asked == []
    assert not desk.leases.has_choice


async def test_an_engine_that_uses_nothing_of_what_it_restores_is_asked_for_nothing_more(
    desk: Desk, stub: StubEngine
) -> None:
    stub.reuses = 0
    await desk.join(stub)
    await desk.turn(FIRST, stub)
    assert stub.asked == []


async def test_a_save_that_takes_long_waits_until_nobody_wants_the_slot(
    desk: Desk, stub: StubEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET", 0.05)
    await desk.join(stub)
    desk.makes_saving_slow()
    lease = desk.lease(FIRST)
    waiting = asyncio.ensure_future(desk.leases.wait(SOON, claim=SECOND))
    await asyncio.sleep(0)
    assert desk.leases.queued == 1
    desk.finish(lease, stub)
    second = await waiting  # at once, in spite of the save
    assert stub.asked == []
    assert isinstance(second, KnownLease)
    desk.finish(second, stub, cached=tokens(FIRST))
    await stub.was_asked("save")
    await desk.rest(stub)
    assert desk.saved(SECOND) in desk.files
    assert stub.asked == ["save"]


async def test_a_save_that_takes_long_is_put_off_again_while_the_slot_is_taken(
    desk: Desk, stub: StubEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET", 0.01)
    await desk.join(stub)
    desk.makes_saving_slow()
    desk.finish(desk.lease(FIRST), stub)
    occupant = desk.leases.take()
    assert occupant is not None
    await asyncio.sleep(0.05)
    assert stub.asked == []
    occupant.release()
    await asyncio.sleep(0.05)
    assert stub.asked == []  # the occupant's prompt is in the slot now


async def test_a_save_that_takes_long_waits_for_as_long_as_anybody_waits(
    desk: Desk, stub: StubEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET", 0.01)
    await desk.join(stub)
    desk.makes_saving_slow()
    lease = desk.lease(FIRST)
    waiting = asyncio.ensure_future(desk.leases.wait(SOON, {stub.upstream}))  # for another engine
    await asyncio.sleep(0)
    desk.finish(lease, stub)
    await asyncio.sleep(0.05)
    assert stub.asked == []
    waiting.cancel()
    await stub.was_asked("save")
    await desk.rest(stub)
    assert desk.saved(FIRST) in desk.files


async def test_a_save_that_takes_long_is_not_put_off_where_others_can_have_another_slot(
    desk: Desk, stubs: tuple[StubEngine, StubEngine]
) -> None:
    await desk.join(*stubs)
    desk.makes_saving_slow()
    lease = desk.lease(FIRST)
    (engine,) = [stub for stub in stubs if stub.upstream is lease.upstream]
    desk.finish(lease, engine)
    assert desk.leases.leased(engine.upstream) == 1
    await desk.rest(engine)
    assert engine.asked == ["save"]


async def test_a_save_that_is_quick_is_not_put_off_although_somebody_waits(desk: Desk, stub: StubEngine) -> None:
    await desk.join(stub)
    lease = desk.lease(FIRST)
    waiting = asyncio.ensure_future(desk.leases.wait(SOON, claim=OTHER))
    await asyncio.sleep(0)
    desk.finish(lease, stub)
    assert not waiting.done()
    (await waiting).release()
    assert stub.asked == ["save"]


@pytest.mark.parametrize(("more", "kept"), [(SLACK, True), (-SLACK, True), (SLACK + 1, False), (-SLACK - 1, False)])
async def test_what_is_not_as_long_as_the_conversation_is_not_kept_under_its_name(
    desk: Desk, stub: StubEngine, more: int, kept: bool
) -> None:
    """Another request may have had the slot before it was asked to save."""
    await desk.join(stub)
    await desk.turn(FIRST, stub, saved=tokens(FIRST) + COMPLETION + more)
    assert stub.asked == ["save"]
    assert len(desk.files) == kept
    assert (desk.saved(FIRST) is not None) == kept


async def test_what_an_unknown_request_left_in_the_slot_is_not_saved_under_the_name_of_another(
    desk: Desk, stub: StubEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although it may be as long."""
    monkeypatch.setattr(module, "QUIET", 0.01)
    await desk.join(stub)
    desk.makes_saving_slow()
    waiting_lease = desk.lease(FIRST)
    waiting = asyncio.ensure_future(desk.leases.wait(SOON))
    await asyncio.sleep(0)
    desk.finish(waiting_lease, stub)
    (await waiting).release()
    await asyncio.sleep(0.05)
    assert stub.asked == []


async def test_while_the_disk_is_full_no_engine_is_asked_to_save(desk: Desk, stub: StubEngine) -> None:
    await desk.join(stub)
    stub.answers["save"] = 500, {}
    await desk.turn(FIRST, stub)
    assert stub.asked == ["save"]
    await desk.turn(SECOND, stub, cached=tokens(FIRST))
    assert stub.asked == ["save"]


async def test_an_engine_that_dies_while_it_saves_gives_its_slot_back(desk: Desk, stub: StubEngine) -> None:
    await desk.join(stub)
    stub.dies_at.add("save")
    await desk.turn(FIRST, stub)
    assert desk.files == set()
    assert desk.leases.statistics.active == 0


# another turn begins


async def test_an_engine_that_restarted_is_given_what_was_saved(desk: Desk, stub: StubEngine) -> None:
    await desk.join(stub)
    await desk.turn(FIRST, stub)
    name = desk.saved(FIRST)
    await desk.restarts(stub)
    stub.gates["restore"] = asyncio.Event()
    lease = desk.lease(SECOND)
    assert lease.is_to_be_prepared
    preparing = asyncio.ensure_future(lease.prepare())
    await stub.was_asked("restore")
    assert not preparing.done()
    stub.gates["restore"].set()
    await preparing
    assert stub.restored == [name]
    assert lease.turn.result is Result.HANDED_OVER
    desk.finish(lease, stub, cached=tokens(FIRST))
    await desk.rest(stub)
    assert desk.files == {desk.saved(SECOND)}


async def test_what_the_slot_holds_is_saved_before_it_is_written_over(desk: Desk, stub: StubEngine) -> None:
    await desk.join(stub)
    await desk.turn(FIRST, stub)
    await leave_unsaved(desk, stub, OTHER)
    stub.asked.clear()
    stub.tokens = tokens(OTHER) + COMPLETION
    lease = desk.lease(SECOND)
    assert lease.is_to_be_prepared
    await lease.prepare()
    assert stub.asked == ["save", "restore"]
    assert desk.saved(OTHER) in desk.files
    lease.release()


async def test_nothing_is_written_over_that_could_not_be_saved(desk: Desk, stub: StubEngine) -> None:
    await desk.join(stub)
    await desk.turn(FIRST, stub)
    await leave_unsaved(desk, stub, OTHER)
    stub.asked.clear()
    stub.answers["save"] = 500, {}
    lease = desk.lease(SECOND)
    assert lease.is_to_be_prepared
    await lease.prepare()
    assert stub.asked == ["save"]
    assert lease.turn.result is Result.SPILL
    assert lease.turn.restore is None
    lease.release()
    assert desk.saved(SECOND) in desk.files  # for another time


async def test_nothing_is_written_over_while_the_disk_is_full(desk: Desk, stub: StubEngine) -> None:
    await desk.join(stub)
    await desk.turn(FIRST, stub)
    stub.answers["save"] = 500, {}
    await desk.turn(OTHER, stub)
    stub.asked.clear()
    lease = desk.lease(SECOND)
    assert lease.is_to_be_prepared
    await lease.prepare()
    assert stub.asked == []
    assert lease.turn.result is Result.SPILL
    lease.release()


async def leave_unsaved(desk: Desk, stub: StubEngine, one: Claim) -> None:
    """A turn after which somebody waits, though not for this engine."""
    before = desk.affinity.figures.kv.value, desk.affinity.figures.write.value
    desk.makes_saving_slow()
    lease = desk.lease(one)
    assert not lease.is_to_be_prepared
    waiting = asyncio.ensure_future(desk.leases.wait(SOON, {stub.upstream}))
    await asyncio.sleep(0)
    desk.finish(lease, stub)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    desk.affinity.figures.kv.value, desk.affinity.figures.write.value = before
    assert desk.saved(one) is None


async def test_a_file_that_is_not_whole_is_not_restored_and_the_turn_is_served(desk: Desk, stub: StubEngine) -> None:
    """Of such a file an engine may die."""
    await desk.join(stub)
    await desk.turn(FIRST, stub)
    name = desk.saved(FIRST)
    assert name is not None
    os.truncate(desk.folder / name, 10)
    await desk.restarts(stub)
    assert await desk.turn(SECOND, stub) is Result.SPILL
    assert "restore" not in stub.asked
    assert desk.files == {desk.saved(SECOND)}


async def test_what_the_store_has_given_up_meanwhile_is_not_restored(desk: Desk, stub: StubEngine) -> None:
    await desk.join(stub)
    await desk.turn(FIRST, stub)
    await desk.restarts(stub)
    lease = desk.lease(SECOND)
    assert lease.is_to_be_prepared
    saved = desk.affinity.holdings.saved(lease.turn.restore)
    assert saved is not None
    await desk.savings.delete(saved)
    await lease.prepare()
    assert lease.turn.result is Result.SPILL
    assert stub.restored == []
    lease.release()


async def test_what_an_engine_of_another_build_has_saved_meanwhile_is_not_restored(
    desk: Desk, stub: StubEngine
) -> None:
    await desk.join(stub)
    await desk.turn(FIRST, stub)
    await desk.restarts(stub)
    lease = desk.lease(SECOND)
    record = lease.turn.restore
    kept = await desk.savings.save(stub.upstream, SLOTS, "another", "alice", SECOND.prefix)
    desk.affinity.holdings.save(record, kept.saved)  # type: ignore[union-attr]
    await lease.prepare()
    assert lease.turn.result is Result.SPILL
    assert stub.restored == []
    lease.release()


async def test_an_engine_that_dies_while_it_restores_may_be_tried_once_more(desk: Desk, stub: StubEngine) -> None:
    await desk.join(stub)
    await desk.turn(FIRST, stub)
    name = desk.saved(FIRST)
    stub.dies_at.add("restore")
    for there in (True, False):
        stub.dies_at.clear()
        await desk.restarts(stub)
        stub.dies_at.add("restore")
        lease = desk.lease(SECOND)
        assert lease.is_to_be_prepared
        await lease.prepare()
        assert lease.turn.result is Result.SPILL
        lease.release()
        assert desk.leases.statistics.active == 0
        assert (name in desk.files) == there
    assert desk.saved(SECOND) is None


# clients leave, and everything ends


async def test_a_client_that_leaves_during_a_restore_leaves_the_slot_to_it(desk: Desk, stub: StubEngine) -> None:
    await desk.join(stub)
    await desk.turn(FIRST, stub)
    await desk.restarts(stub)
    stub.gates["restore"] = asyncio.Event()
    lease = desk.lease(SECOND)
    preparing = asyncio.ensure_future(lease.prepare())
    await stub.was_asked("restore")
    preparing.cancel()
    await asyncio.gather(preparing, return_exceptions=True)
    assert preparing.cancelled()
    lease.release()
    lease.release()
    lease.abandon()
    assert desk.leases.leased(stub.upstream) == 1
    stub.gates["restore"].set()
    await desk.rest(stub)
    assert desk.leases.take() is not None
    assert desk.leases.take() is None


async def test_a_client_that_leaves_while_another_conversation_is_saved_leaves_the_slot_to_that(
    desk: Desk, stub: StubEngine
) -> None:
    await desk.join(stub)
    await desk.turn(FIRST, stub)
    await leave_unsaved(desk, stub, OTHER)
    stub.asked.clear()
    stub.tokens = tokens(OTHER) + COMPLETION
    stub.gates["save"] = asyncio.Event()
    lease = desk.lease(SECOND)
    preparing = asyncio.ensure_future(lease.prepare())
    await stub.was_asked("save")
    preparing.cancel()
    await asyncio.gather(preparing, return_exceptions=True)
    lease.release()
    assert desk.leases.leased(stub.upstream) == 1
    stub.gates["save"].set()
    await desk.rest(stub)
    assert desk.saved(OTHER) in desk.files


@pytest.mark.parametrize("ticks", range(12))
async def test_whenever_a_client_leaves_its_slot_comes_back_once(desk: Desk, stub: StubEngine, ticks: int) -> None:
    await desk.join(stub)
    await desk.turn(FIRST, stub)
    await leave_unsaved(desk, stub, OTHER)
    stub.tokens = tokens(OTHER) + COMPLETION
    lease = desk.lease(SECOND)
    preparing = asyncio.ensure_future(lease.prepare())
    for _ in range(ticks):
        await asyncio.sleep(0.001)
    preparing.cancel()
    await asyncio.gather(preparing, return_exceptions=True)
    lease.release()
    lease.release()
    await desk.rest(stub)
    assert desk.leases.statistics.active == 0
    again = desk.lease(SECOND)
    assert desk.leases.take() is None
    again.release()


@pytest.mark.parametrize("what", ["save", "restore"])
async def test_when_all_is_cancelled_every_slot_comes_back(
    probe: Probe, folder: Folder, tmp_path: Path, gguf: Path, stub: StubEngine, what: str
) -> None:
    desks: list[Desk] = []
    begun = asyncio.Event()

    async def serve() -> None:
        async with asyncio.TaskGroup() as tasks:
            desk = Desk(probe, tmp_path, tasks, stub_launch(gguf, kv=SLOTS))
            desks.append(desk)
            await desk.savings.open(1 << 20, keep=False)
            await desk.join(stub)
            if what == "restore":
                await desk.turn(FIRST, stub)
                await desk.restarts(stub)
            stub.gates[what] = asyncio.Event()
            begun.set()
            lease = desk.lease(SECOND if what == "restore" else FIRST)
            if what == "restore":
                try:
                    await lease.prepare()
                finally:
                    lease.release()
            desk.finish(lease, stub)
            await asyncio.Event().wait()

    serving = asyncio.ensure_future(serve())
    await begun.wait()
    await stub.was_asked(what)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    (desk,) = desks
    assert desk.leases.statistics.active == 0
    late = desk.lease(OTHER)  # of a client that was still there
    desk.finish(late, stub)
    assert desk.leases.statistics.active == 0
    stub.gates[what].set()
    await desk.savings.close(keep=False)
    assert desk.files == set()


async def test_after_the_end_has_begun_nothing_is_saved_or_restored(desk: Desk, stub: StubEngine) -> None:
    await desk.join(stub)
    await desk.turn(FIRST, stub)
    await desk.restarts(stub)
    lease = desk.lease(SECOND)
    assert lease.is_to_be_prepared
    desk.turns.close()
    await lease.prepare()
    assert lease.turn.result is Result.SPILL
    desk.turns.answered(lease, Answered(prompt=1500, completion=1, cached=0, prefill=1.0, total=1.0))
    await desk.turns.leaving(stub.upstream)
    assert desk.leases.statistics.active == 0
    assert stub.asked == []


async def test_a_save_that_was_put_off_is_forgotten_at_the_end(
    desk: Desk, stub: StubEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET", 0.01)
    await desk.join(stub)
    desk.makes_saving_slow()
    desk.finish(desk.lease(FIRST), stub)
    assert desk.leases.statistics.active == 0
    desk.turns.close()
    await asyncio.sleep(0.05)
    assert stub.asked == []


async def test_a_bug_in_the_bookkeeping_costs_neither_the_slot_nor_the_proxy(
    desk: Desk, stub: StubEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(held: Held, saved: object, seconds: float) -> None:
        raise ZeroDivisionError

    await desk.join(stub)
    monkeypatch.setattr(desk.affinity, "saved", fail)
    await desk.turn(FIRST, stub)
    assert desk.leases.statistics.active == 0
    assert "this is a bug of slotproxy" in caplog.text


# engines come and go


async def test_an_engine_that_is_to_be_ended_saves_what_it_holds(desk: Desk, stub: StubEngine) -> None:
    await desk.join(stub)
    await leave_unsaved(desk, stub, FIRST)
    desk.leases.withdraw(stub.upstream)
    await desk.turns.leaving(stub.upstream)
    assert desk.saved(FIRST) in desk.files
    stub.asked.clear()
    await desk.turns.leaving(stub.upstream)
    assert stub.asked == []


async def test_an_engine_that_still_works_on_a_request_is_not_asked_to_save(desk: Desk, stub: StubEngine) -> None:
    await desk.join(stub)
    await leave_unsaved(desk, stub, FIRST)
    lease = desk.leases.take()
    assert lease is not None
    desk.leases.withdraw(stub.upstream)
    await desk.turns.leaving(stub.upstream)
    assert stub.asked == []
    lease.release()


async def test_an_engine_that_has_ended_is_forgotten(
    desk: Desk, stub: StubEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET", 0.01)
    await desk.join(stub)
    await leave_unsaved(desk, stub, FIRST)
    desk.turns.left(stub.upstream)
    desk.turns.left(stub.upstream)
    await asyncio.sleep(0.05)
    await desk.turns.leaving(stub.upstream)
    assert stub.asked == []
    assert desk.affinity.conversations(stub.upstream) == 0


async def test_a_conversation_that_was_kept_is_known_after_a_restart_of_the_proxy(
    desk: Desk, stub: StubEngine, probe: Probe, tmp_path: Path
) -> None:
    await desk.join(stub)
    await desk.turn(FIRST, stub)
    await desk.savings.close(keep=True)
    async with asyncio.TaskGroup() as tasks:
        later = Desk(probe, tmp_path, tasks, desk.launch)
        for saved in await later.savings.open(1 << 20, keep=True):
            later.turns.recall(saved)
        await later.join(stub)
        assert later.leases.has_choice
        assert await later.turn(SECOND, stub, cached=tokens(FIRST)) is Result.HANDED_OVER
        assert len(stub.restored) == 1
        assert later.files == {later.saved(SECOND), MANIFEST}
        later.turns.close()


async def test_what_an_instance_had_before_is_forgotten_when_its_next_engine_joins(
    desk: Desk, stub: StubEngine
) -> None:
    await desk.join(stub)
    await desk.turn(FIRST, stub)
    before, stub.upstream = stub.upstream, Upstream(instance="0", host="127.0.0.1", port=stub.upstream.port)
    await desk.join(stub)
    assert desk.affinity.conversations(before) == 0


@pytest.mark.parametrize("answers", [True, False])
async def test_of_an_engine_that_ended_during_a_turn_nothing_is_remembered(
    desk: Desk, stub: StubEngine, answers: bool
) -> None:
    """Or every crash would cost a little memory."""
    await desk.join(stub)
    lease = desk.lease(FIRST)
    desk.leases.withdraw(stub.upstream)
    desk.turns.left(stub.upstream)
    if answers:
        desk.finish(lease, stub)
    else:
        lease.release()
    assert not desk.affinity.holdings.knows(stub.upstream)
    assert desk.leases.statistics.active == 0


async def test_of_an_engine_that_ended_during_a_restore_nothing_is_remembered(desk: Desk, stub: StubEngine) -> None:
    await desk.join(stub)
    await desk.turn(FIRST, stub)
    await desk.restarts(stub)
    stub.gates["restore"] = asyncio.Event()
    stub.dies_at.add("restore")
    lease = desk.lease(SECOND)
    preparing = asyncio.ensure_future(lease.prepare())
    await stub.was_asked("restore")
    desk.leases.withdraw(stub.upstream)
    desk.turns.left(stub.upstream)
    stub.gates["restore"].set()
    await preparing
    lease.release()
    assert not desk.affinity.holdings.knows(stub.upstream)
    assert desk.leases.statistics.active == 0
    assert len(desk.files) == 1
