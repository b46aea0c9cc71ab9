"""Whether a restored conversation is worth anything: with engines that pretend, and with the real one."""

import logging
from pathlib import Path
from typing import Any

import pytest

from slotproxy.instances.conversations.files import Folder
from slotproxy.instances.conversations.proof import FILE, SLACK, TEXT, Proof, Proofs, Verdict, recall, remember
from slotproxy.instances.profiles import catalog, fingerprint, selection
from slotproxy.instances.profiles.launch import Launch
from slotproxy.instances.profiles.profile import Kv
from slotproxy.instances.running.probe import Probe
from slotproxy.instances.upstream import Upstream
from tests.instances.conftest import World, upstream_of
from tests.instances.conversations.conftest import SLOTS, TOKENS, StubEngine


@pytest.fixture
def proofs(probe: Probe, folder: Folder, tmp_path: Path) -> Proofs:
    return Proofs(probe, folder, tmp_path)


async def test_an_engine_that_uses_what_it_restored_has_its_proof_and_nothing_is_left_of_it(
    proofs: Proofs, stub: StubEngine, folder: Folder
) -> None:
    proof = await proofs.prove(stub.upstream, SLOTS)
    assert proof == Proof(verdict=Verdict.HOLDS, sentence="of 64 tokens that were restored the engine used 63")
    assert stub.asked == ["erase", "/completion", "save", "erase", "restore", "/completion", "erase"]
    assert [*folder.path.iterdir()] == []


async def test_an_engine_that_restores_and_computes_it_all_again_has_none(proofs: Proofs, stub: StubEngine) -> None:
    """As those for hybrid models and for sliding windows."""
    stub.reuses = 0
    proof = await proofs.prove(stub.upstream, SLOTS)
    assert proof.verdict is Verdict.DOES_NOT_HOLD
    assert proof.sentence == "of 64 tokens that were restored the engine used 0"


@pytest.mark.parametrize(
    ("reuses", "verdict"),
    [(TOKENS, Verdict.HOLDS), (TOKENS - SLACK, Verdict.HOLDS), (TOKENS - SLACK - 1, Verdict.DOES_NOT_HOLD)],
)
async def test_all_but_a_few_tokens_must_be_used(
    proofs: Proofs, stub: StubEngine, reuses: int, verdict: Verdict
) -> None:
    stub.reuses = reuses
    assert (await proofs.prove(stub.upstream, SLOTS)).verdict is verdict


async def test_a_text_of_which_nothing_was_used_is_no_proof_however_short(proofs: Proofs, stub: StubEngine) -> None:
    stub.answers["/completion"] = 200, {"timings": {"cache_n": 0, "prompt_n": SLACK}}
    assert (await proofs.prove(stub.upstream, SLOTS)).verdict is Verdict.DOES_NOT_HOLD


@pytest.mark.parametrize(
    ("what", "answer", "verdict"),
    [
        ("erase", (501, {}), Verdict.DOES_NOT_HOLD),
        ("save", (404, {}), Verdict.DOES_NOT_HOLD),
        ("/completion", (200, {"timings": {"prompt_n": 9}}), Verdict.DOES_NOT_HOLD),
        ("/completion", (503, {}), Verdict.NOT_TRIED),
        ("save", (500, {}), Verdict.NOT_TRIED),
        ("save", (200, {"n_saved": 64, "n_written": 101}), Verdict.NOT_TRIED),
        ("restore", (400, {}), Verdict.NOT_TRIED),
    ],
)
async def test_a_trial_that_comes_to_nothing_says_why_and_leaves_no_file(
    proofs: Proofs, stub: StubEngine, folder: Folder, what: str, answer: tuple[int, Any], verdict: Verdict
) -> None:
    stub.answers[what] = answer
    proof = await proofs.prove(stub.upstream, SLOTS)
    assert proof.verdict is verdict
    assert proof.sentence
    assert [*folder.path.iterdir()] == []


async def test_what_was_found_out_is_remembered_for_that_build_and_not_tried_again(
    proofs: Proofs, stub: StubEngine
) -> None:
    proof = await proofs.of(stub.upstream, SLOTS, "b")
    asked = len(stub.asked)
    assert await proofs.of(stub.upstream, SLOTS, "b") == proof
    assert len(stub.asked) == asked
    await proofs.of(stub.upstream, SLOTS, "c")
    assert len(stub.asked) == 2 * asked
    await proofs.of(stub.upstream, SLOTS, "b", anew=True)
    assert len(stub.asked) == 3 * asked


async def test_what_does_not_hold_is_said_in_one_line_each_start_and_what_holds_is_not(
    proofs: Proofs, stub: StubEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "slotproxy")
    await proofs.of(stub.upstream, SLOTS, "good")
    assert caplog.messages == []
    stub.reuses = 0
    line = "conversations are not handed over between instances: of 64 tokens that were restored the engine used 0"
    for times in (1, 2):
        await proofs.of(stub.upstream, SLOTS, "bad")
        assert caplog.messages == [line] * times


async def test_what_could_not_be_tried_is_tried_at_the_next_start(proofs: Proofs, stub: StubEngine) -> None:
    stub.answers["restore"] = 400, {}
    assert (await proofs.of(stub.upstream, SLOTS, "b")).verdict is Verdict.NOT_TRIED
    del stub.answers["restore"]
    assert (await proofs.of(stub.upstream, SLOTS, "b")).verdict is Verdict.HOLDS


async def test_engines_that_save_nothing_are_passed_over_without_a_word(
    proofs: Proofs, stub: StubEngine, caplog: pytest.LogCaptureFixture
) -> None:
    proof = await proofs.of(stub.upstream, Kv(), "b")
    assert (proof.verdict, stub.asked, caplog.messages) == (Verdict.DOES_NOT_HOLD, [], [])


async def test_nobody_there_is_nothing_tried(proofs: Proofs) -> None:
    nowhere = Upstream(instance="0", host="127.0.0.1", port=1)
    assert (await proofs.prove(nowhere, SLOTS)).verdict is Verdict.NOT_TRIED


@pytest.mark.parametrize("verdict", [Verdict.HOLDS, Verdict.DOES_NOT_HOLD])
def test_a_remembered_proof_reads_as_it_was(tmp_path: Path, verdict: Verdict) -> None:
    proof = Proof(verdict=verdict, sentence="so")
    remember(tmp_path, "b", proof, 1.0)
    assert recall(tmp_path, "b") == proof
    assert recall(tmp_path, "c") is None
    remember(tmp_path, "c", Proof(verdict=Verdict.NOT_TRIED, sentence="so"), 2.0)
    assert recall(tmp_path, "c") is None


def test_a_file_of_proofs_that_is_broken_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"{")
    assert recall(tmp_path, "b") is None


async def test_the_real_engine_has_its_proof(world: World, demo_model: Path) -> None:
    profile = catalog.load("embedded")
    launch = Launch(
        profile=profile, program=selection.program(profile, None), model=demo_model, name="demo", ctx=1024, threads=1
    )
    upstream = upstream_of(await world.started(launch))
    folder = Folder(world.state_dir / "kv-store")
    proof = await Proofs(world.probe, folder, world.state_dir).of(upstream, profile.kv, fingerprint.of_build(launch))
    assert proof.verdict is Verdict.HOLDS, proof.sentence
    assert recall(world.state_dir, fingerprint.of_build(launch)) == proof
    assert [*folder.path.iterdir()] == []
    answer = await world.probe.ask(upstream, "/completion", body={"prompt": TEXT, "n_predict": 1, "cache_prompt": True})
    assert answer is not None
    timings = answer.document()["timings"]
    assert timings["cache_n"] == 0  # nothing of the trial is left
    assert 48 <= timings["prompt_n"] <= 96
