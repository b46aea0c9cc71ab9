"""What the policies of the proxy gain, in the laboratory: bounds that a change of them has to keep."""

from functools import cache
from statistics import fmean

import pytest

from tests.laboratory.contenders import BASELINE, ORACLE, PINNED, WHOLE, simulate
from tests.laboratory.figures import Figures, figures
from tests.laboratory.machines import EIGHT, MACHINES
from tests.laboratory.texts import size
from tests.laboratory.traces import TRACES, seeding

SEEDS = (1, 2, 3)
BOX = "two-cores"


@cache
def told(trace: str, policy: str, machine: str = BOX, seed: int = 1) -> Figures:
    return figures(simulate(TRACES[trace](seed, 1), MACHINES[machine], policy))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("trace", ["chat-6", "chat-12"])
def test_later_turns_of_chats_begin_8_times_sooner_and_as_soon_as_the_oracle_has_them(trace: str, seed: int) -> None:
    ours, plain = told(trace, WHOLE, seed=seed), told(trace, BASELINE, seed=seed)
    oracle = told(trace, ORACLE, seed=seed)
    assert ours.later_p50 * 8 <= plain.later_p50
    assert ours.later_mean * 5 <= plain.later_mean
    assert ours.later_mean <= 1.1 * oracle.later_mean
    assert ours.ratio <= 1.05


@pytest.mark.parametrize("seed", SEEDS)
def test_two_chats_on_two_engines_begin_3_times_sooner(seed: int) -> None:
    assert told("chat-2", WHOLE, seed=seed).later_mean * 3 <= told("chat-2", BASELINE, seed=seed).later_mean


@pytest.mark.parametrize("policy", ["+ affinity", "+ waiting", WHOLE])
@pytest.mark.parametrize("machine", ["two-cores", "m3-ultra", "laptop"])
@pytest.mark.parametrize("trace", ["chat-2", "chat-6", "chat-12", "agents", "agents-plain", "recorded"])
def test_what_is_known_of_conversations_never_makes_later_turns_wait_much_longer(
    trace: str, machine: str, policy: str
) -> None:
    assert told(trace, policy, machine).later_mean <= 1.05 * told(trace, BASELINE, machine).later_mean


def test_coding_agents_find_what_the_oracle_finds() -> None:
    """The mean of some seeds: what is not saved in time is lost by chance."""
    assert fmean(told("agents-plain", WHOLE, seed=seed).reused for seed in SEEDS) >= 0.95
    for seed in SEEDS:
        assert told("agents-plain", ORACLE, seed=seed).reused == 1.0
        pinned = told("agents-plain", PINNED, seed=seed)
        assert told("agents-plain", WHOLE, seed=seed).later_mean <= 0.6 * pinned.later_mean


def test_a_line_that_changes_with_every_request_does_not_hide_the_rest() -> None:
    assert told("agents", WHOLE).reused >= 0.95 * told("agents", ORACLE).reused


@pytest.mark.xfail(reason="a save that takes more than 50 ms is put off while somebody waits, though it saves minutes")
def test_conversations_of_a_large_model_are_handed_over_on_a_busy_machine() -> None:
    assert told("chat-6", WHOLE, "laptop").later_mean <= 1.1 * told("chat-6", ORACLE, "laptop").later_mean


@pytest.mark.parametrize("machine", ["two-cores", "m3-ultra", "laptop"])
@pytest.mark.parametrize("trace", ["flood", "mix"])
def test_nobody_waits_more_than_2_fair_shares(trace: str, machine: str) -> None:
    assert told(trace, WHOLE, machine).unfair <= 2


def test_a_flood_takes_from_the_others_what_first_come_first_served_gives_it() -> None:
    """The bound above is one that a line which is not fair would break."""
    assert told("flood", BASELINE).unfair > 10
    assert told("flood", WHOLE).jain > 2 * told("flood", BASELINE).jain


@pytest.mark.parametrize("seed", SEEDS)
def test_a_common_system_prompt_is_computed_once_though_engines_restart(seed: int) -> None:
    trace = seeding(seed)
    run = simulate(trace, MACHINES[BOX], WHOLE)
    computed = sum(size(trace.turns[one.number].prompt) - one.cached for one in run.served)
    new = [turn.prompt[-1].tokens for turn in trace.turns]
    assert computed <= 1000 + 1.2 * sum(new)  # the last block of a common part is computed again


@pytest.mark.parametrize("machine", ["two-cores", "m3-ultra"])
@pytest.mark.parametrize("trace", ["chat-12", "agents-plain", "seeding", "recorded"])
def test_engines_have_what_is_believed_of_them(trace: str, machine: str) -> None:
    assert told(trace, WHOLE, machine).mistaken <= 0.05


def test_eight_engines_on_each_of_ten_hosts_serve_everybody() -> None:
    trace = TRACES["chat-2"](1, 30)
    ours = figures(simulate(trace, EIGHT, WHOLE, 80))
    assert ours.turns == len(trace.turns) == sum(ours.found.values())
    assert ours.ratio <= 1.05
