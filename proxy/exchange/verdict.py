"""What follows from how an attempt ended: for its engine, for the request, for the client. Pure.

stale        again on a fresh connection, once; the client does not notice (`attempts`)
reset, malformed, empty, before the client saw a byte: once more, on another upstream
refused      on another upstream, as long as there is one
an upstream's refusal (429, 503, 529): once more, on another that has slots for it, else it is the client's
a deadline that has passed, a client that does not read, a stop: an error, no other upstream
once the client saw a byte: an error event, and a cut
"""

import enum
from typing import NamedTuple

from slotproxy.instances.upstream import REFUSALS
from slotproxy.proxy import errors
from slotproxy.proxy.engines.failure import Failure, Kind

_BLAMELESS = frozenset({Kind.SLOW_CLIENT, Kind.SHUTDOWN})
_TIMEOUTS = frozenset({Kind.PREFILL_TIMEOUT, Kind.STALL_TIMEOUT})
_FINAL = _TIMEOUTS | _BLAMELESS  # not tried again on another upstream
_IDLE = frozenset({Kind.REFUSED, Kind.LIMITED})  # the engine does not work on the request
_UNAVAILABLE = frozenset({502, 503})  # the engine's own words for what a health check should look into
_UNSERVED = _UNAVAILABLE | REFUSALS
_COUNTED = {402: "refused", 429: "refused", 503: "unavailable", 529: "unavailable"}


class Verdict(NamedTuple):
    """What the supply side is told of an attempt."""

    failure: Failure | None = None  # None: the client has its answer
    counted: str | None = None  # a field of the pool's Errors
    blamed: str | None = None  # why the owner of the engine has to look at it


_SERVED = Verdict()


class Step(enum.Enum):
    """What comes after a failed attempt."""

    ANOTHER = "another upstream is asked"
    ITS_REFUSAL = "the client gets what an upstream refused with"
    OUR_REFUSAL = "the client gets an error of the proxy's own"


def judged(failure: Failure | None, status: int, *, complete: bool, holds_slot: bool) -> Verdict:
    """`status` of the answer; `complete`: the client has all of it. `holds_slot`: the request has a slot."""
    if failure is None:
        return _of_answer(status, complete=complete)
    if failure.kind in _BLAMELESS:
        return Verdict(failure)
    if failure.kind not in _TIMEOUTS:
        return Verdict(failure, "other", failure.kind.value)
    # Who is late beside a slot may wait for a prompt of somebody else's.
    return Verdict(failure, "timeout", "hang" if holds_slot else None)


def _of_answer(status: int, *, complete: bool) -> Verdict:
    if status not in _UNSERVED:
        return _SERVED
    failure = None if complete else Failure(Kind.LIMITED, f"it answered {status}")
    return Verdict(failure, _COUNTED.get(status, "other"), "unavailable" if status in _UNAVAILABLE else None)


def may_be_working(failure: Failure | None) -> bool:
    """Whether the engine may still work on a request that it had."""
    return failure is not None and failure.kind not in _IDLE


def counts(failure: Failure) -> bool:
    """Whether it is one of the engine's."""
    return failure.kind not in _BLAMELESS


def step(failure: Failure, *, begun: bool, may_go_on: bool, has_refusal: bool) -> Step:
    """`begun`: the client saw a byte of an answer. `may_go_on`: there is another to ask. `has_refusal`: of an upstream,
    kept from the client so far.
    """
    if begun or failure.kind in _FINAL:
        return Step.OUR_REFUSAL
    if may_go_on:
        return Step.ANOTHER
    return Step.ITS_REFUSAL if has_refusal else Step.OUR_REFUSAL


def refusal(failure: Failure, *, sent: bool) -> errors.Refusal:
    """What the client is told of it. `sent`: an engine had its request."""
    if failure.kind is Kind.SHUTDOWN:
        return errors.shutting_down()
    if failure.kind in _TIMEOUTS:
        return errors.upstream_timeout(failure.text)
    return errors.upstream_failed(failure.text, sent=sent)
