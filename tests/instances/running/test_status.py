import logging

import pytest

from slotproxy.instances.failures import Cause, Failure
from slotproxy.instances.lifecycle import Event, IllegalTransition, State
from slotproxy.instances.running.status import Status
from slotproxy.instances.snapshot import Kind, Transition


def test_each_step_is_one_log_line_and_one_call(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    told: list[Transition] = []
    status = Status(Kind.INSTANCE, "0", told.append)
    status.step(Event.START)
    status.step(Event.ANSWERED, "pid 1, port 2, 0.62 s")
    assert [record.getMessage() for record in caplog.records] == [
        "instance 0: stopped -> starting",
        "instance 0: starting -> warming (pid 1, port 2, 0.62 s)",
    ]
    assert [(step.before, step.after) for step in told] == [
        (State.STOPPED, State.STARTING),
        (State.STARTING, State.WARMING),
    ]


def test_a_start_after_a_failure_is_a_restart_and_carries_its_cause() -> None:
    told: list[Transition] = []
    status = Status(Kind.INSTANCE, "0", told.append)
    status.step(Event.START)
    status.step(Event.EXITED)
    status.failure = Failure(cause=Cause.HANG, sentence="it hung")
    status.step(Event.START)
    assert (status.restarts, status.reason, told[-1].cause) == (1, "it hung", "hang")


def test_trouble_is_logged_above_information(caplog: pytest.LogCaptureFixture) -> None:
    status = Status(Kind.UPSTREAM, "u0", lambda transition: None)
    for event in (Event.START, Event.EXITED, Event.GAVE_UP):
        status.step(event)
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]


def test_a_step_outside_the_table_changes_nothing() -> None:
    status = Status(Kind.INSTANCE, "0", lambda transition: None)
    with pytest.raises(IllegalTransition):
        status.step(Event.WARMED)
    assert status.state is State.STOPPED
