"""What a plan concludes from the numbers; and that it takes them from where a start takes them."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.forecast import plan
from slotproxy.instances.forecast.plan import Estimate, Forecast
from slotproxy.instances.memory import machine, process_tree
from slotproxy.instances.models import model
from slotproxy.instances.models.model import ModelFacts
from slotproxy.instances.profiles import catalog, launch
from slotproxy.instances.profiles.profile import Memory
from slotproxy.instances.readings import Total
from slotproxy.instances.scaling import calibration
from slotproxy.instances.scaling.calibration import Calibration
from slotproxy.instances.settings import MemoryLimit, SupplySettings

GB, GIB = 10**9, 1 << 30
FACTS = ModelFacts(path=Path("/models/m.gguf"), name="m", kind="gguf", size=4 * GIB)
ROOMY = Forecast(
    facts=FACTS,
    profile=catalog.load("llama-server"),
    missing=None,
    ctx=4096,
    metric="resident",
    total=Total(size=16 * GIB, source="physical memory"),
    limit=10 * GIB,
    available=9 * GIB,
    ctx_size=None,
    instances=None,
    max_instances=8,
    estimate=Estimate(weights=4 * GIB, kv=GIB, shares=True),
    measured=None,
    anew=False,
)
FOUND = Calibration(
    instances=3,
    reason="no-gain",
    sentence="a 4th instance adds only 1 %",
    metric="resident",
    cost=2 * GIB,
    used=9 * GIB,
    limit=10 * GIB,
    rates=(10.0, 18.0, 20.0),
    at=1.0,
)


def settings(path: Path, **more: object) -> SupplySettings:
    return SupplySettings(model=path, state_dir=Path("/nowhere"), **more)  # type: ignore[arg-type]


def test_the_same_estimate_is_held_against_limit_rule_and_what_is_available() -> None:
    assert (ROOMY.under_limit, ROOMY.under_rule, ROOMY.under_available) == (6, 8, 5)


def test_auto_goes_as_far_as_the_tightest_bound_and_says_which() -> None:
    assert (ROOMY.expected, ROOMY.why.partition(";")[0]) == (5, "at most 5 instances (the estimate)")
    bounded = replace(ROOMY, max_instances=3)
    assert (bounded.expected, bounded.why.partition(";")[0]) == (3, "at most 3 instances (--max-instances)")
    unknown = replace(ROOMY, estimate=Estimate(weights=GIB, kv=None, shares=True))
    assert (unknown.expected, unknown.under_limit) == (8, None)


def test_the_first_instance_is_started_even_where_it_does_not_fit_and_that_is_said() -> None:
    tight = replace(ROOMY, limit=3 * GIB)
    assert (tight.under_limit, tight.expected) == (0, 1)
    assert "1 instance would take 5.0 GiB or more, the limit is 3.0 GiB" in list(tight.warnings())


def test_a_number_that_was_asked_for_is_kept_and_judged() -> None:
    asked = replace(ROOMY, instances=9)
    assert (asked.expected, asked.why) == (9, "9 instances, as asked")
    assert list(asked.warnings()) == [
        "9 instances would take 13.0 GiB or more, the limit is 10.0 GiB",
        "9 instances, started as asked, are more than --max-instances 8",
    ]
    assert list(replace(asked, instances=6).warnings()) == [
        "6 instances would take 10.0 GiB or more, 9.0 GiB are available now"
    ]
    assert list(replace(asked, instances=5).warnings()) == []


def test_a_context_below_the_floor_or_above_what_was_trained_is_warned_about(demo_model: Path) -> None:
    small = replace(ROOMY, ctx=512)
    assert list(small.warnings()) == [
        "--ctx-size 512: 512 tokens of context for each slot are few: most conversations need 1024 or more"
    ]
    large = replace(ROOMY, facts=model.check(demo_model), ctx=8193)
    assert list(large.warnings()) == ["8193 tokens of context are more than the 8192 that the model was trained for"]
    assert list(replace(large, ctx=8192).warnings()) == []


def test_an_engine_that_does_not_share_is_warned_about() -> None:
    private = msgspec.structs.replace(ROOMY.profile, batching=None, memory=Memory(shared=False, note="it copies"))
    (warning,) = replace(ROOMY, profile=private, estimate=Estimate(weights=GIB, kv=1, shares=False)).warnings()
    assert warning == (
        "llama-server does not share the model's memory: every instance has a copy of its own (it copies)"
    )


def test_a_model_that_does_not_tell_its_cost_is_planned_without_an_estimate() -> None:
    unknown = replace(ROOMY, estimate=Estimate(weights=GIB, kv=None, shares=True))
    assert list(unknown.warnings()) == [
        "/models/m.gguf does not tell what a token of context costs, so how many fit is not estimated"
    ]


def test_what_was_found_out_before_is_what_auto_starts_with() -> None:
    known = replace(ROOMY, measured=FOUND)
    assert (known.expected, known.why) == (3, "3 instances, measured 1970-01-01 (a 4th instance adds only 1 %)")
    assert replace(known, anew=True).expected == ROOMY.expected
    assert replace(known, instances=2).why == "2 instances, as asked"


def test_the_measurement_is_held_against_the_same_limits_as_the_estimate() -> None:
    known = replace(ROOMY, measured=FOUND)
    assert [known.measured_under(limit * GIB) for limit in (8, 9, 10, 11, 15)] == [2, 3, 3, 4, 6]
    assert known.measured_under(0) == 0
    assert ROOMY.measured_under(GIB) is None
    assert replace(known, measured=replace_cost(FOUND, 0)).measured_under(GIB) is None


def replace_cost(found: Calibration, cost: int) -> Calibration:
    return msgspec.structs.replace(found, cost=cost)


def test_the_memory_of_all_together_is_told_for_as_many_as_were_measured() -> None:
    assert replace(ROOMY, measured=FOUND).measured_together == 9 * GIB
    assert replace(ROOMY, measured=FOUND, instances=2).measured_together is None


async def test_a_result_in_the_state_directory_is_found_by_what_a_start_would_look_for(
    demo_model: Path, tmp_path: Path
) -> None:
    wanted = SupplySettings(model=demo_model, state_dir=tmp_path, max_instances=5)
    facts = model.check(demo_model)
    assert (await plan.forecast(wanted, facts)).measured is None
    launched = await launch.prepare(wanted, facts)
    calibration.keep(tmp_path, calibration.fingerprint(launched, wanted, process_tree.effective_total()), FOUND)
    assert (await plan.forecast(wanted, facts)).measured == FOUND
    assert (await plan.forecast(replace(wanted, instances=2), facts)).measured == FOUND
    assert (await plan.forecast(replace(wanted, ctx_size=1024), facts)).measured is None
    assert (await plan.forecast(replace(wanted, recalibrate=True), facts)).known is None


async def test_where_each_process_is_charged_for_the_weights_they_count_for_each(
    demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "choose", lambda metric: Charged())
    found = await plan.forecast(settings(demo_model), model.check(demo_model))
    assert (found.metric, found.estimate.shares, found.total.source) == ("wired", False, "wired limit")


class Charged(machine.Resident):
    metric = "wired"

    def total(self) -> Total:
        return Total(size=GIB, source="wired limit")


async def test_it_looks_where_a_start_looks(demo_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_tree, "effective_total", lambda: Total(size=GIB, source="cgroup limit"))
    monkeypatch.setattr(process_tree, "available", lambda mapped=0: 7)
    wanted = settings(demo_model, ctx_size=2048, memory_limit=MemoryLimit(percent=50), instances=3, max_instances=4)
    found = await plan.forecast(wanted, model.check(demo_model))
    assert (found.ctx, found.total.source, found.limit, found.available) == (2048, "cgroup limit", GIB // 2, 7)
    assert (found.instances, found.max_instances, found.profile.name) == (3, 4, "embedded")
    assert found.estimate == Estimate(weights=98362432, kv=2048 * 23040, shares=True)
    assert found.missing is None


async def test_without_a_context_asked_for_it_is_the_profiles(demo_model: Path) -> None:
    found = await plan.forecast(settings(demo_model, engine="ds4-server"), model.check(demo_model))
    assert found.ctx == catalog.load("ds4-server").ctx


async def test_an_engine_that_is_not_installed_can_be_planned_with(
    demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = await plan.forecast(settings(demo_model, engine="ds4-server"), model.check(demo_model))
    assert "not installed" in (found.missing or "")
    assert found.expected >= 1


async def test_an_engine_that_cannot_take_the_model_is_refused(demo_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigurationError):
        await plan.forecast(settings(tmp_path, engine="embedded"), model.check(tmp_path))
    with pytest.raises(ConfigurationError):
        await plan.forecast(settings(demo_model, engine="no-such"), model.check(demo_model))
    with pytest.raises(ConfigurationError, match="check --engine-bin"):
        await plan.forecast(settings(demo_model, engine_bin="/nowhere/engine"), model.check(demo_model))


def test_one_process_that_batches_is_proposed_where_several_would_share_nothing() -> None:
    several = replace(ROOMY, profile=catalog.load("vllm"))
    assert any("--max-num-seqs K and give it as --upstream URL,slots=K" in warning for warning in several.warnings())
    alone = replace(several, instances=1)
    assert not any("--upstream" in warning for warning in alone.warnings())


def test_shared_weights_count_once_and_private_ones_for_each() -> None:
    shared = Estimate(weights=100, kv=10, shares=True)
    private = Estimate(weights=100, kv=10, shares=False)
    assert (shared.once, shared.each, shared.total(3)) == (100, 10, 130)
    assert (private.once, private.each, private.total(3)) == (0, 110, 330)


@pytest.mark.parametrize(("limit", "fitting"), [(99, 0), (100, 0), (109, 0), (110, 1), (129, 2), (130, 3)])
def test_as_many_fit_as_stay_within_the_limit(limit: int, fitting: int) -> None:
    assert Estimate(weights=100, kv=10, shares=True).fitting(limit) == fitting


def test_the_mac_mini_of_the_report_holds_five_slots_under_80_percent_and_not_ten() -> None:
    """32 GB, 19 GB of weights, 1.3 GB of KV cache for each slot: four ran, ten did not load."""
    mini = Estimate(weights=19 * GB, kv=1_300_000_000, shares=True)
    assert mini.fitting(32 * GB * 80 // 100) == 5
    assert (mini.total(10) or 0) >= 32 * GB


def test_without_a_kv_size_nothing_is_told_about_shared_weights_and_a_bound_about_private_ones() -> None:
    assert Estimate(weights=100, kv=None, shares=True).fitting(1000) is None
    assert Estimate(weights=100, kv=None, shares=True).total(2) is None
    assert Estimate(weights=100, kv=None, shares=False).fitting(1000) == 10


def test_a_model_that_keeps_nothing_for_a_token_has_no_bound() -> None:
    assert Estimate(weights=100, kv=0, shares=True).fitting(1000) is None


SIZE = st.integers(0, 1 << 44)


@given(weights=SIZE, kv=st.integers(1, 1 << 44), shares=st.booleans(), limit=SIZE)
def test_what_fits_is_within_the_limit_and_one_more_is_not(weights: int, kv: int, shares: bool, limit: int) -> None:
    estimate = Estimate(weights=weights, kv=kv, shares=shares)
    fitting = estimate.fitting(limit)
    assert fitting is not None
    assert fitting == 0 or (estimate.total(fitting) or 0) <= limit
    assert (estimate.total(fitting + 1) or 0) > limit
