"""Why an instance is not serving, in a word for metrics and a sentence for the user. Pure."""

import enum
from dataclasses import dataclass


class Cause(enum.Enum):
    """The closed set of reasons."""

    LOCK_HELD = "lock-held"
    PORT_TAKEN = "port-taken"
    MODEL = "model"
    ARGUMENTS = "arguments"  # the engine does not take those it was given
    OUT_OF_MEMORY = "out-of-memory"
    CRASH = "crash"
    TIMEOUT = "timeout"  # did not become ready in time
    WARM_UP = "warm-up"
    CONTEXT = "context"  # the engine gives a request another context than was asked for
    HANG = "hang"
    BUSY = "busy"  # went on with an abandoned request for too long
    UNREACHABLE = "unreachable"
    DIRECTORY = "directory"  # its part of the state directory cannot be used
    EXECUTABLE = "executable"  # cannot be run at all
    OPERATOR = "operator"
    OTHER = "other"


PERMANENT = frozenset({Cause.LOCK_HELD, Cause.MODEL, Cause.ARGUMENTS, Cause.CONTEXT, Cause.DIRECTORY, Cause.EXECUTABLE})
"""Causes for which another try would end the same way."""

CLAUSES = {
    Cause.LOCK_HELD: "its lock file is held by another process",
    Cause.PORT_TAKEN: "its port is taken",
    Cause.MODEL: "the engine cannot load the model",
    Cause.ARGUMENTS: "the engine does not take its arguments",
    Cause.OUT_OF_MEMORY: "out of memory",
}
"""What stands before the engine's own words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """`sentence` starts in lower case and has no full stop: it follows `instance 0: `."""

    cause: Cause
    sentence: str
