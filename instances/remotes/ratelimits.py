"""What an API says about its limits: in the header fields of every answer, and in the error it refuses with. Pure.

OpenAI: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, a reset being a duration such as `6m0s`. Others that
speak its API leave some out, or send 0 or -1. Anthropic: `anthropic-ratelimit-{requests,tokens,input-tokens,
output-tokens}-{limit,remaining,reset}`, a reset being a time of day (RFC 3339). With both, a reset is when *all* of a
limit is there again: it refills bit by bit.
"""

import enum
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

from slotproxy.instances.snapshot import Allowance
from slotproxy.instances.upstream import REFUSALS, Field

LONGEST = 24 * 3600.0  # seconds; a later moment is taken for a mistake
REFILL = 0.05  # part of a limit that should be there again before the next request is sent
_KINDS = ("requests", "tokens", "input-tokens", "output-tokens")
_OPENAI = re.compile(rb"x-ratelimit-(limit|remaining|reset)-(requests|tokens)")
_ANTHROPIC = re.compile(rb"anthropic-ratelimit-(requests|tokens|input-tokens|output-tokens)-(limit|remaining|reset)")
_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?(?:ms|d|h|m|s))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|d|h|m|s)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,9})?")
_QUOTA = frozenset({"insufficient_quota", "credit_balance_exhausted", "credit_balance_too_low", "billing_error"})
_QUOTA_TEXT = re.compile(r"current quota|credit balance|(?:spend|spending|usage|billing) limit", re.IGNORECASE)
_LIMITED = frozenset({"rate_limit_exceeded", "rate_limit_error", "slow_down"})
_OVERLOADED = frozenset({"server_is_overloaded", "overloaded_error", "overloaded"})


class Reason(enum.Enum):
    """Why a server took no request; the values are the label of a metric."""

    RATE_LIMIT = "rate-limit"
    OVERLOAD = "overload"
    QUOTA = "quota"  # no money, or a spend limit: waiting does not help


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A request that was not served."""

    reason: Reason
    wait: float | None  # seconds before the next one, at least; None: the server does not say


@lru_cache(maxsize=256)
def mentioned(fields: tuple[Field, ...]) -> bool:
    """Whether `fields` hold one about limits. Cached: most servers say the same every time, and have none."""
    return any(b"ratelimit" in name.lower() for name, _ in fields)


def allowances(fields: Sequence[Field], wall: float) -> dict[str, Allowance]:
    """The limits that `fields` tell completely and believably, by kind. `wall`: seconds since 1970, for servers that
    tell a time of day and not what time it is there.
    """
    told: dict[str, dict[str, bytes]] = {}
    for name, value in fields:
        lower = name.lower()
        if match := _OPENAI.fullmatch(lower):
            told.setdefault(match[2].decode(), {})[match[1].decode()] = value
        elif match := _ANTHROPIC.fullmatch(lower):
            told.setdefault(match[1].decode(), {})[match[2].decode()] = value
    if not told:
        return {}
    now = _sent_at(fields, wall)
    found = {kind: _allowance(told[kind], now) for kind in _KINDS if kind in told}
    return {kind: allowance for kind, allowance in found.items() if allowance is not None}


def exhausted(limits: Mapping[str, Allowance]) -> float:
    """Seconds until something is left again of every limit; 0 when something is left now."""
    return max((max(REFILL, 1 / one.limit) * one.reset for one in limits.values() if not one.remaining), default=0.0)


def scarce(limits: Mapping[str, Allowance]) -> bool:
    """Whether less than a fifth of a limit is left: no time to ask for more at once."""
    return any(one.remaining < one.limit / 5 for one in limits.values())


def retry_after(fields: Sequence[Field], wall: float) -> float | None:
    """Seconds to wait at least: `Retry-After` as a number or a date (RFC 9110 section 10.2.3), `retry-after-ms`."""
    given = {name.lower(): value.decode("latin-1").strip() for name, value in fields}
    if _NUMBER.fullmatch(milliseconds := given.get(b"retry-after-ms", "")):
        return min(float(milliseconds) / 1000, LONGEST)
    text = given.get(b"retry-after", "")
    if _NUMBER.fullmatch(text):
        return min(float(text), LONGEST)
    moment = _date(text)
    return None if moment is None else min(max(0.0, moment - _sent_at(fields, wall)), LONGEST)


def refusal(status: int | None, fields: Sequence[Field], body: bytes, wall: float) -> Refusal | None:
    """What an answer refuses with, or None when it is no refusal. `status` None: an error event within a stream."""
    if status is not None and status not in REFUSALS:
        return None
    words, message = _error(body)
    wait = retry_after(fields, wall)
    if status == 402 or words & _QUOTA or (status in (None, 429) and _QUOTA_TEXT.search(message)):
        return Refusal(reason=Reason.QUOTA, wait=wait)
    if status in (503, 529) or (status is None and words & _OVERLOADED):
        return Refusal(reason=Reason.OVERLOAD, wait=wait)
    if status == 429 or words & _LIMITED:
        return Refusal(reason=Reason.RATE_LIMIT, wait=wait)
    return None


def _allowance(told: Mapping[str, bytes], now: float) -> Allowance | None:
    try:
        limit, remaining = int(told["limit"]), int(told["remaining"])
        reset = _reset(told["reset"].decode("ascii").strip(), now)
    except (KeyError, ValueError):
        return None
    if limit <= 0 or not 0 <= remaining <= limit or reset is None:
        return None
    return Allowance(limit=limit, remaining=remaining, reset=reset)


def _reset(text: str, now: float) -> float | None:
    if _NUMBER.fullmatch(text):
        seconds = float(text)
    elif _DURATION.fullmatch(text):
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    else:
        seconds = _stamp(datetime.fromisoformat(text)) - now
    return max(0.0, seconds) if seconds <= LONGEST else None


def _sent_at(fields: Sequence[Field], wall: float) -> float:
    """The server's own clock, if it tells it: ours may be wrong."""
    for name, value in fields:
        if name.lower() == b"date":
            moment = _date(value.decode("latin-1"))
            return wall if moment is None else moment
    return wall


def _date(text: str) -> float | None:
    try:
        return _stamp(parsedate_to_datetime(text))
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _stamp(moment: datetime) -> float:
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _error(body: bytes) -> tuple[set[str], str]:
    """Type and code of an error object, and its message, in OpenAI's shape or Anthropic's."""
    try:
        error = json.loads(body)["error"]
        words = {error.get("type"), error.get("code")}
        message = error.get("message")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return set(), ""
    return {word for word in words if isinstance(word, str)}, message if isinstance(message, str) else ""
