"""Which requests are answered here, and which an operator alone may make."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.proxy.operator.paths import is_own, needs_operator

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
below = st.lists(st.sampled_from(["api", "instances", "0", "log", "restart", "state", "", ".."]), max_size=5).map(
    lambda parts: "/slotproxy/" + "/".join(parts)
)


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("/health", True),
        ("/ready", True),
        ("/metrics", True),
        ("/slots", True),
        ("/v1/models", True),
        ("/slotproxy/", True),
        ("/slotproxy/nothing", True),
        ("/slotproxy/api/state", True),
        ("/slotproxy", False),
        ("/slotproxyx/api", False),
        ("/health/", False),
        ("/health%20", False),
        ("//health", False),
        ("/v1/models/demo", True),
        ("/v1/models/a/b", True),
        ("/v1/modelsx", False),
        ("/v1/chat/completions", False),
        ("/", False),
        ("", False),
    ],
)
def test_own_are_the_pages_by_name_and_everything_below_slotproxy(path: str, *, own: bool) -> None:
    assert is_own(path) is own


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", "/slotproxy/api/state", False),
        ("HEAD", "/slotproxy/api/state", False),
        ("GET", "/slotproxy/api/events", False),
        ("GET", "/slotproxy/api/instances", False),
        ("GET", "/slotproxy/api/instances/0", False),
        ("GET", "/slotproxy/api/instances/0/log", True),
        ("HEAD", "/slotproxy/api/instances/0/log", True),
        ("GET", "/slotproxy/api/instances/catalog", False),
        ("POST", "/slotproxy/api/instances", True),
        ("DELETE", "/slotproxy/api/instances/0", True),
        ("POST", "/slotproxy/api/instances/restart", True),
        ("POST", "/health", False),  # refused as no method of that page, whoever asks
        ("POST", "/v1/chat/completions", False),
        ("GET", "/log", False),
    ],
)
def test_an_operator_is_needed_for_changes_and_for_logs(method: str, path: str, *, needed: bool) -> None:
    assert needs_operator(method, path) is needed


@given(below, st.sampled_from(METHODS))
def test_whatever_is_no_reading_needs_an_operator_wherever_it_goes_below_slotproxy(path: str, method: str) -> None:
    reading = method in ("GET", "HEAD")
    assert needs_operator(method, path) is (not reading or path.split("/")[-1] == "log")


@given(st.text(max_size=30), st.sampled_from(METHODS))
def test_only_own_paths_need_an_operator(path: str, method: str) -> None:
    assert is_own(path) or not needs_operator(method, path)
