"""What an operator asks, judged before anything is done."""

from collections.abc import Coroutine
from typing import Any

import pytest

from slotproxy.instances.decisions import Decision, Move
from slotproxy.instances.errors import NoSuchInstance, OperationRefused
from slotproxy.instances.operator import Operator

FITS = Decision(move=Move.ADD, reason="fits", sentence="it fits")
FULL = Decision(
    move=Move.STOP, reason="memory", sentence="no 2nd instance: it would need about 81.2 GiB, 14.1 GiB free"
)


class One:
    def __init__(self, name: str) -> None:
        self.id = name
        self.last_lines = ("listening",)


class Locked:
    def __init__(self) -> None:
        self.held = False

    def locked(self) -> bool:
        return self.held


class House:
    """Supply, fleet and governor at once, without engines."""

    def __init__(self, *names: str) -> None:
        self.instances = tuple(map(One, names))
        self.staying = self.instances
        self.changing = Locked()
        self.ceiling: int | None = None
        self.patience = 1.0
        self.starts_engines, self.has_upstreams = True, False
        self.decision = FITS
        self.begun: list[str] = []

    def find(self, name: str) -> One | None:
        return next((one for one in self.instances if one.id == name), None)

    def room(self) -> Decision:
        return self.decision

    def begin(self, operation: Coroutine[Any, Any, object]) -> None:
        self.begun.append(getattr(operation, "__name__", ""))
        operation.close()

    async def remove(self, instance: One, patience: float) -> None: ...

    async def restart_in_turn(self, instances: tuple[One, ...], patience: float) -> None: ...


def operator(house: House) -> Operator:
    return Operator(house, house, house)  # type: ignore[arg-type]


def test_what_can_be_done_is_begun() -> None:
    house = House("0", "1")
    asked = operator(house)
    asked.add()
    asked.restart()
    asked.restart("0")
    assert asked.remove() == "1"
    assert asked.remove("0") == "0"
    assert house.begun == ["_add", "restart_in_turn", "restart_in_turn", "remove", "remove"]


def test_one_that_is_predicted_not_to_fit_is_refused_with_the_numbers() -> None:
    house = House("0")
    house.decision = FULL
    with pytest.raises(OperationRefused, match=r"81\.2 GiB"):
        operator(house).add()
    assert house.begun == []


def test_nothing_is_added_while_memory_is_judged_for_another() -> None:
    house = House("0")
    house.changing.held = True
    with pytest.raises(OperationRefused, match="already"):
        operator(house).add()


def test_nothing_is_started_where_there_are_only_upstreams() -> None:
    house = House()
    house.starts_engines, house.has_upstreams = False, True
    for wish in (operator(house).add, operator(house).remove, operator(house).restart):
        with pytest.raises(OperationRefused):
            wish()


def test_the_last_one_stays_unless_upstreams_can_serve() -> None:
    house = House("0")
    with pytest.raises(OperationRefused, match="last"):
        operator(house).remove("0")
    house.has_upstreams = True
    assert operator(house).remove("0") == "0"


def test_one_on_its_way_out_is_not_taken_out_again() -> None:
    house = House("0", "1", "2")
    house.staying = house.instances[:2]
    with pytest.raises(OperationRefused, match="already"):
        operator(house).remove("2")


def test_as_many_as_an_operator_left_are_not_exceeded_later() -> None:
    house = House("0", "1", "2")
    operator(house).remove()
    assert house.ceiling == 2


def test_an_unknown_one_is_named_with_those_that_are_there() -> None:
    for wish in (operator(House("0", "1")).remove, operator(House("0", "1")).restart, operator(House("0", "1")).log):
        with pytest.raises(NoSuchInstance, match=r"'9'.*0, 1"):
            wish("9")
