"""What went wrong between us and an engine. Pure."""

import enum
from dataclasses import dataclass


class Kind(enum.Enum):
    """The values are the label of `upstream_errors_total`."""

    REFUSED = "refused"  # no connection
    RESET = "reset"  # ended before or within the answer
    STALE = "stale"  # a kept-alive connection had been closed by the engine: nobody's fault
    MALFORMED = "malformed"  # not HTTP, or HTTP nobody should pass on
    LIMITED = "limited"  # an upstream answered that it takes no request now
    EMPTY = "empty"  # 200 without a body where one was due
    PREFILL_TIMEOUT = "prefill-timeout"
    STALL_TIMEOUT = "stall-timeout"
    SLOW_CLIENT = "slow-client"  # the client stopped reading: the engine is fine
    SHUTDOWN = "shutdown"  # we are going, the engine is fine


@dataclass(frozen=True, slots=True)
class Failure:
    kind: Kind
    text: str  # for the user, continues "The engine failed: "
