import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.remotes.ratelimits import LONGEST, Reason, allowances, exhausted, refusal, retry_after, scarce
from slotproxy.instances.snapshot import Allowance
from slotproxy.instances.upstream import REFUSALS, Field

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z
DATE = (b"Date", b"Fri, 15 Jan 2027 08:00:00 GMT")


def fields(**values: str) -> tuple[Field, ...]:
    return tuple((name.replace("_", "-").encode(), value.encode()) for name, value in values.items())


def openai(limit: str, remaining: str, reset: str) -> tuple[Field, ...]:
    return fields(
        x_ratelimit_limit_requests=limit, x_ratelimit_remaining_requests=remaining, X_RateLimit_Reset_Requests=reset
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("120ms", 0.12),
        ("1h2m3.5s", 3723.5),
        ("0s", 0),
        ("12", 12),
        ("0.5", 0.5),
        ("1d", 86400),
    ],
)
def test_openai_tells_resets_as_durations(text: str, seconds: float) -> None:
    (told,) = allowances(openai("60", "59", text), NOW).values()
    assert (told.limit, told.remaining) == (60, 59)
    assert told.reset == pytest.approx(seconds)


def test_anthropic_tells_resets_as_times_of_day_by_its_own_clock() -> None:
    told = fields(
        anthropic_ratelimit_input_tokens_limit="1000",
        anthropic_ratelimit_input_tokens_remaining="0",
        anthropic_ratelimit_input_tokens_reset="2027-01-15T08:00:40Z",
        request_id="req_1",
    )
    wrong_clock = NOW - 5000
    assert allowances((*told, DATE), wrong_clock)["input-tokens"].reset == 40
    assert allowances(told, NOW + 10)["input-tokens"].reset == 30
    assert allowances(told, NOW + 100)["input-tokens"].reset == 0


@pytest.mark.parametrize(
    ("limit", "remaining", "reset"),
    [
        ("0", "0", "1s"),
        ("-1", "-1", "1s"),
        ("60", "-1", "1s"),
        ("60", "61", "1s"),
        ("60", "many", "1s"),
        ("60", "0", ""),
        ("60", "0", "soon"),
        ("60", "0", "-5"),
        ("60", "0", "99d"),
        ("9" * 5000, "0", "1s"),
    ],
)
def test_a_limit_that_cannot_be_believed_is_no_limit(limit: str, remaining: str, reset: str) -> None:
    assert allowances(openai(limit, remaining, reset), NOW) == {}


def test_a_limit_told_in_part_is_no_limit() -> None:
    assert allowances(fields(x_ratelimit_remaining_requests="0"), NOW) == {}
    assert allowances((), NOW) == {}


def test_nothing_left_is_worth_a_wait_until_a_twentieth_is_there_again() -> None:
    assert exhausted({}) == 0
    assert exhausted({"requests": Allowance(limit=500, remaining=1, reset=60)}) == 0
    assert exhausted({"requests": Allowance(limit=500, remaining=0, reset=60)}) == pytest.approx(3)
    assert exhausted({"requests": Allowance(limit=3, remaining=0, reset=60)}) == pytest.approx(20)


def test_less_than_a_fifth_of_any_limit_is_scarce() -> None:
    plenty, little = Allowance(limit=10, remaining=2, reset=1), Allowance(limit=10, remaining=1, reset=1)
    assert not scarce({"requests": plenty})
    assert scarce({"requests": plenty, "tokens": little})


@pytest.mark.parametrize(
    ("given_fields", "seconds"),
    [
        (fields(retry_after="20"), 20),
        (fields(Retry_After=" 1.5 "), 1.5),
        (fields(retry_after_ms="250", retry_after="1"), 0.25),
        (fields(retry_after="Fri, 15 Jan 2027 08:01:00 GMT"), 60),
        ((*fields(retry_after="Fri, 15 Jan 2027 08:01:00 GMT"), (b"date", b"Fri, 15 Jan 2027 08:00:50 GMT")), 10),
        (fields(retry_after="Fri, 15 Jan 2027 07:00:00 GMT"), 0),
        (fields(retry_after="999999999"), LONGEST),
        (fields(retry_after="-1"), None),
        (fields(retry_after="later"), None),
        ((), None),
    ],
)
def test_how_long_to_wait_is_a_number_or_a_date(given_fields: tuple[Field, ...], seconds: float | None) -> None:
    assert retry_after(given_fields, NOW) == seconds


def error(kind: str, message: str = "", code: str | None = None) -> bytes:
    return json.dumps({"error": {"type": kind, "message": message, "code": code}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (429, error("requests", code="rate_limit_exceeded"), Reason.RATE_LIMIT),
        (429, error("rate_limit_error"), Reason.RATE_LIMIT),
        (429, error("slow_down", code="slow_down"), Reason.RATE_LIMIT),
        (429, b"Too Many Requests", Reason.RATE_LIMIT),
        (429, b"", Reason.RATE_LIMIT),
        (429, error("insufficient_quota", code="insufficient_quota"), Reason.QUOTA),
        (429, error("x", code="credit_balance_exhausted"), Reason.QUOTA),
        (429, error("x", "You exceeded your current quota, please check your plan."), Reason.QUOTA),
        (429, error("rate_limit_error", "This would exceed your organization's monthly spend limit"), Reason.QUOTA),
        (402, b"{}", Reason.QUOTA),
        (503, error("server_error", code="server_is_overloaded"), Reason.OVERLOAD),
        (503, b"<html>", Reason.OVERLOAD),
        (529, error("overloaded_error"), Reason.OVERLOAD),
        (None, error("overloaded_error"), Reason.OVERLOAD),
        (None, error("server_error", code="server_is_overloaded"), Reason.OVERLOAD),
        (None, error("rate_limit_error"), Reason.RATE_LIMIT),
        (None, error("insufficient_quota"), Reason.QUOTA),
        (None, error("invalid_request_error"), None),
        (200, error("overloaded_error"), None),
        (500, error("api_error"), None),
        (400, error("invalid_request_error"), None),
        (413, error("request_too_large"), None),
    ],
)
def test_what_an_answer_refuses_with(status: int | None, body: bytes, reason: Reason | None) -> None:
    found = refusal(status, fields(retry_after="3"), body, NOW)
    assert (found.reason if found is not None else None) is reason
    assert found is None or found.wait == 3


NAMES = st.sampled_from(
    [b"date", b"retry-after", b"retry-after-ms"]
    + [b"x-ratelimit-%b-requests" % part for part in (b"limit", b"remaining", b"reset")]
    + [b"anthropic-ratelimit-tokens-%b" % part for part in (b"limit", b"remaining", b"reset")]
)
VALUES = st.binary(max_size=30) | st.sampled_from(
    [b"0", b"5", b"1s", b"2027-01-15T08:00:40Z", b"9999-12-31T23:59:59-23:59", b"Fri, 15 Jan 2027 08:00:00 GMT"]
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8), st.sampled_from(sorted(REFUSALS)), st.binary(max_size=40))
def test_whatever_a_server_says_is_read_or_ignored(told: list[Field], status: int, body: bytes) -> None:
    for allowance in allowances(told, NOW).values():
        assert 0 <= allowance.remaining <= allowance.limit
        assert 0 <= allowance.reset <= LONGEST
    found = refusal(status, told, body, NOW)
    assert found is not None
    assert found.wait is None or 0 <= found.wait <= LONGEST
    assert 0 <= exhausted(allowances(told, NOW)) <= LONGEST
