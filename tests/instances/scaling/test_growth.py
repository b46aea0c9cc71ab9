"""Growth on simulated machines: the numbers come from what others measured, the chosen number is what is asserted."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.decisions import Move
from slotproxy.instances.scaling.calibration import Calibration
from slotproxy.instances.scaling.generations import Obstacle
from slotproxy.instances.scaling.growth import Growth, Outcome
from slotproxy.instances.settings import SupplySettings
from tests.instances.simulator import GB, GIB, Simulated

MIB = 1 << 20
WIRED_OF_FILE = (145 - 3.3) / 153  # wired by one engine at work, for each byte of the model: 145 GB with one of 153 GB


def growth(**changes: Any) -> Growth:
    return Growth(SupplySettings(model=Path("m"), state_dir=Path("s"), **changes))


def m3_ultra(file_gb: float, **changes: Any) -> Simulated:
    """256 GB: every engine at work wires most of the model file for itself, 3.3 GB are wired without any."""
    return Simulated(total=256 * GIB, base=3.3 * GB, each=file_gb * GB * WIRED_OF_FILE, **changes)


async def test_m3_ultra_runs_two_of_the_81_gb_quant() -> None:
    machine = m3_ultra(80.8, rates=(33, 49.5, 5), thrashes_at=3, out_of_memory_at=4)
    assert await machine.settle(growth()) == (2, "memory")
    assert machine.starts == 2, "a third was never started"


async def test_m3_ultra_runs_two_of_the_81_gb_quant_whatever_limit_it_is_given() -> None:
    machine = m3_ultra(80.8, rates=(33, 49.5, 5), thrashes_at=3, out_of_memory_at=4, percent=100)
    assert await machine.settle(growth()) == (2, "pressure")
    blind = m3_ultra(80.8, rates=(33, 49.5, 5), out_of_memory_at=4, percent=100)
    assert await blind.settle(growth()) == (2, "no-gain")


async def test_m3_ultra_runs_one_of_the_153_gb_quant() -> None:
    machine = m3_ultra(153, rates=(20,), out_of_memory_at=2)
    assert await machine.settle(growth()) == (1, "memory")
    assert machine.starts == 1


async def test_the_limit_of_the_contract_leaves_a_third_out_and_says_the_numbers() -> None:
    machine = Simulated(total=256 * GIB, base=28.3 * GIB, each=81.2 * GIB, rates=(33, 49.5))
    plan = growth()
    assert await machine.settle(plan) == (2, "memory")
    expected = "no 3rd instance: it would need about 81.2 GiB, 14.1 GiB free under the limit of 204.8 GiB"
    assert plan.decisions[-1].sentence == expected


def mac_mini(**changes: Any) -> Simulated:
    """32 GB, a model of 19 GB whose KV cache takes 1.3 GB a time; macOS and other programs have 4 GB."""
    rates = (36.1, 43.3, 44.5, 43.7)
    return Simulated(total=32 * GB, once=19 * GB, each=1.3 * GB, others=4 * GB, rates=rates, **changes)


async def test_mac_mini_stops_where_the_gain_ends() -> None:
    assert await mac_mini().settle(growth()) == (2, "no-gain")


async def test_mac_mini_reaches_its_peak_of_three_when_every_gain_counts() -> None:
    assert await mac_mini().settle(growth(min_gain=0.01)) == (3, "no-gain")


async def test_mac_mini_never_loads_ten() -> None:
    machine = mac_mini()
    found, reason = await machine.settle(growth(min_gain=0.0, max_instances=10))
    assert (found, reason) == (4, "memory")
    assert machine.most_used + machine.others <= machine.total


async def test_a_laptop_keeps_a_tenth_for_its_other_programs() -> None:
    rates = (9, 16, 21, 25)
    laptop = Simulated(total=16 * GIB, once=4.9 * GIB, each=0.8 * GIB, others=7 * GIB, rates=rates)
    plan = growth()
    assert await laptop.settle(plan) == (3, "memory")
    assert "are kept for other programs" in plan.decisions[-1].sentence


async def test_a_container_of_4_gib_is_what_counts_on_a_host_of_256() -> None:
    container = Simulated(total=4 * GIB, once=2 * GIB, each=0.35 * GIB, rates=(30, 55, 80, 100))
    assert await container.settle(growth()) == (3, "memory")


async def test_an_engine_out_of_memory_settles_and_is_not_tried_again() -> None:
    machine = Simulated(total=100 * GIB, each=GIB, rates=(1, 2, 3), out_of_memory_at=3)
    plan = growth()
    assert await machine.settle(plan) == (2, "engine-oom")
    assert plan.decisions[-1].sentence.startswith(
        "no 3rd instance, now or later: its engine found no memory (Insufficient Memory"
    )
    machine.queued = 5
    assert await machine.live(plan, 1000) == []
    assert machine.starts == 3


async def test_a_first_instance_that_passes_the_limit_is_kept_and_said_once() -> None:
    machine = Simulated(total=10 * GIB, each=9 * GIB, rates=(1,))
    plan = growth()
    assert await machine.settle(plan) == (1, "memory")
    assert [decision.move for decision in plan.decisions] == [Move.STOP]
    assert "1 instance at work uses 9.0 GiB, the limit is 8.0 GiB" in plan.decisions[0].sentence


async def test_what_an_earlier_start_found_right_is_started_without_a_comparison() -> None:
    machine = Simulated(total=100 * GIB, each=GIB, rates=(1, 1, 1), obstacle=Obstacle.CLIENTS)
    known = Calibration(
        instances=2, reason="no-gain", sentence="x", metric="resident", cost=GIB, used=2 * GIB, limit=80 * GIB, at=0.0
    )
    plan = growth()
    assert await machine.settle(plan, known) == (2, "no-gain")
    assert plan.all_compared
    machine.queued = 5
    assert await machine.live(plan, 1000) == [], "more of them gained nothing"


async def test_what_an_earlier_start_found_right_is_less_when_memory_is() -> None:
    machine = Simulated(total=100 * GIB, each=10 * GIB, others=70 * GIB, rates=(1, 2))
    known = Calibration(
        instances=4, reason="memory", sentence="x", metric="resident", cost=10 * GIB, used=0, limit=0, at=0.0
    )
    assert await machine.settle(growth(), known) == (2, "memory")


async def test_where_clients_leave_no_time_to_compare_memory_decides_and_the_comparison_follows() -> None:
    machine = Simulated(total=5 * GIB, each=GIB, rates=(10, 20, 20, 20), obstacle=Obstacle.CLIENTS)
    plan = growth()
    assert await machine.settle(plan) == (4, "memory")
    machine.obstacle = None
    for expected, outcome in ((3, Outcome.REMOVED), (2, Outcome.REMOVED), (2, Outcome.KEPT), (2, Outcome.NOT_NEEDED)):
        assert (await plan.compare_newest(machine, wait=False)).outcome is outcome
        assert machine.running == expected
    assert plan.all_compared


@pytest.mark.parametrize(
    ("obstacle", "outcome", "settled"),
    [
        (Obstacle.CLIENTS, Outcome.POSTPONED, False),
        (Obstacle.MEMORY, Outcome.POSTPONED, False),
        (Obstacle.TOO_FEW, Outcome.POSTPONED, False),
        (Obstacle.ENGINE, Outcome.IMPOSSIBLE, True),
    ],
)
async def test_a_comparison_that_came_to_nothing_says_whether_another_is_due(
    obstacle: Obstacle, outcome: Outcome, settled: bool
) -> None:
    machine = Simulated(total=5 * GIB, each=GIB, rates=(10, 20, 20, 20), obstacle=Obstacle.CLIENTS)
    plan = growth()
    await machine.settle(plan)
    machine.obstacle = obstacle
    comparison = await plan.compare_newest(machine, wait=False)
    assert (comparison.outcome, comparison.decision, plan.all_compared) == (outcome, None, settled)
    assert machine.running == 4


async def test_other_programs_that_grow_make_instances_leave_and_their_end_lets_them_back() -> None:
    machine = Simulated(total=16 * GIB, once=4 * GIB, each=GIB, rates=(10, 20, 30, 40))
    plan = growth(max_instances=4)
    assert await machine.settle(plan) == (4, "max-instances")
    machine.others = 7.5 * GIB
    made = await machine.live(plan, 30)
    assert made[0][0] <= 5
    assert {decision.move for _, decision in made} == {Move.REMOVE}
    assert machine.running == 2, "of 16 GiB others have 7.5, the model 4, two instances 2: 10 % are free again"
    machine.others, machine.queued = 0, 3
    made = await machine.live(plan, 60, start=1000)
    assert [decision.move for _, decision in made] == [Move.ADD, Move.ADD]
    assert machine.running == 4
    assert plan.all_compared, "what was measured before need not be measured again"


async def test_without_a_queue_nobody_comes_back() -> None:
    machine = Simulated(total=16 * GIB, each=GIB, rates=(10, 20), running=1)
    assert await machine.live(growth(), 100) == []


async def test_work_in_flight_is_ended_only_past_the_hard_watermark() -> None:
    machine = Simulated(total=16 * GIB, each=2 * GIB, rates=(1, 2, 3), running=3, busy=3, others=8.8 * GIB)
    plan = growth()
    await machine.live(plan, 10)
    assert machine.removed_hard == [False]
    machine.others = 11.5 * GIB
    await machine.live(plan, 3, start=100)
    assert machine.removed_hard == [False, True]


@given(
    total=st.floats(1, 300),
    once=st.floats(0, 100),
    each=st.floats(0.01, 50),
    others=st.floats(0, 100),
    most=st.integers(1, 12),
)
async def test_no_more_than_one_instance_ever_passes_the_limit(
    total: float, once: float, each: float, others: float, most: int
) -> None:
    machine = Simulated(total=total * GIB, once=once * GIB, each=each * GIB, others=others * GIB)
    found, _ = await machine.settle(growth(min_gain=0.0, max_instances=most))
    assert 1 <= found <= most
    if machine.starts > 1:
        assert machine.most_used <= machine.limit + MIB
        assert machine.most_used + machine.others <= machine.total + MIB


@given(total=st.floats(1, 300), more=st.floats(0, 300), once=st.floats(0, 100), each=st.floats(0.01, 50))
async def test_more_memory_never_runs_fewer(total: float, more: float, once: float, each: float) -> None:
    def machine(size: float) -> Simulated:
        return Simulated(total=size * GIB, once=once * GIB, each=each * GIB)

    small, _ = await machine(total).settle(growth(min_gain=0.0))
    large, _ = await machine(total + more).settle(growth(min_gain=0.0))
    assert large >= small
