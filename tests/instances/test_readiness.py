"""What instances that fail and come back mean for requests, without any process."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from slotproxy.instances.errors import ConfigurationError, ModelError, NoInstances, StartupError
from slotproxy.instances.failures import Cause, Failure
from slotproxy.instances.lifecycle import State
from slotproxy.instances.readiness import Readiness
from slotproxy.instances.slots.leases import Leases
from slotproxy.instances.slots.pool import Pool
from slotproxy.instances.snapshot import Transition


@dataclass
class Status:
    state: State = State.STARTING
    failure: Failure | None = None

    @property
    def reason(self) -> str:
        return "" if self.failure is None else self.failure.sentence


@dataclass
class Stub:
    """As much of an instance as is judged by."""

    status: Status = field(default_factory=Status)
    directory: Path = Path("/state/instances/0")


@dataclass
class House:
    instances: list[Stub]
    elsewhere: bool = False

    def __post_init__(self) -> None:
        self.leases = Leases(Pool(8))
        self.readiness = Readiness(self, self.leases, lambda: self.elsewhere)  # type: ignore[arg-type]

    def refuses(self) -> bool:
        return self.leases.refusing

    def step(self, number: int, after: State, failure: Failure | None = None) -> None:
        status = self.instances[number].status
        before, status.state, status.failure = status.state, after, failure
        self.readiness.stepped(Transition(instance=str(number), before=before, after=after, cause=""))

    def fail(self, number: int = 0, cause: Cause = Cause.CRASH, planned: int = 1) -> bool:
        self.step(number, State.FAILED, Failure(cause=cause, sentence=f"{cause.value} of {number}"))
        return self.readiness.start_failed(self.instances[number], planned)  # type: ignore[arg-type]


def test_requests_are_refused_while_every_instance_has_failed() -> None:
    house = House([Stub(), Stub()])
    house.readiness.settle()
    house.step(0, State.FAILED)
    assert not house.refuses()
    house.step(1, State.FAILED, Failure(cause=Cause.CRASH, sentence="boom"))
    assert house.readiness.hopeless == "every instance has failed: boom"
    with pytest.raises(NoInstances, match="every instance has failed: boom"):
        house.leases.take()
    house.step(0, State.STARTING)
    assert not house.refuses()
    house.step(0, State.FAILED)
    assert house.refuses(), "as often as it happens"


def test_nothing_is_refused_before_every_planned_instance_was_started() -> None:
    house = House([Stub()])
    house.step(0, State.FAILED)
    assert not house.refuses()
    house.readiness.settle()
    assert house.refuses()


@pytest.mark.parametrize("closed", [False, True])
def test_nothing_is_refused_for_instances_where_upstreams_serve_or_all_is_being_ended(closed: bool) -> None:
    house = House([Stub()], elsewhere=not closed)
    if closed:
        house.readiness.close()
    house.readiness.settle()
    house.step(0, State.FAILED)
    assert not house.refuses()
    assert house.readiness.hopeless is None


def test_the_first_instance_that_fails_is_the_end_and_its_log_is_named() -> None:
    house = House([Stub()])
    assert house.fail()
    assert isinstance(house.readiness.fatal, StartupError)
    assert house.readiness.hopeless == (
        "no instance could be started: crash of 0 (the engine's log is /state/instances/0/engine.log)"
    )


def test_a_model_that_cannot_be_loaded_is_an_error_of_the_model() -> None:
    house = House([Stub()])
    assert house.fail(cause=Cause.MODEL)
    assert isinstance(house.readiness.fatal, ModelError)


@pytest.mark.parametrize(
    ("cause", "planned", "failed"),
    [
        (Cause.LOCK_HELD, 2, False),
        (Cause.PORT_TAKEN, 2, False),
        (Cause.LOCK_HELD, 1, True),
        (Cause.CRASH, 2, True),
    ],
)
def test_another_instance_is_tried_where_the_cause_concerns_one_only(cause: Cause, planned: int, failed: bool) -> None:
    house = House([Stub()])
    assert house.fail(cause=cause, planned=planned) is failed
    assert (house.readiness.fatal is not None) is failed


def test_a_start_has_not_failed_where_anything_served_or_serves() -> None:
    served = House([Stub(), Stub()])
    served.step(0, State.READY)
    assert not served.fail(1)
    assert not House([Stub()], elsewhere=True).fail()


@pytest.mark.parametrize(("cause", "wrong"), [(Cause.MODEL, True), (Cause.ARGUMENTS, True), (Cause.CRASH, False)])
def test_what_the_user_has_to_change_is_a_wrong_configuration(cause: Cause, wrong: bool) -> None:
    house = House([Stub()])
    house.fail(cause=cause)
    assert isinstance(house.readiness.fatal, ConfigurationError) == wrong
