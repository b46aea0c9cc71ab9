import pytest

from slotproxy.instances.upstream import THIS_PROXY
from slotproxy.proxy.clients.access import Access
from slotproxy.proxy.clients.head import HeadReader, RequestHead
from slotproxy.proxy.errors import Refusal
from slotproxy.proxy.exchange.gate import KEPT_HOSTS, Gate, Way

KEYED = Access(keys=("k",))


def gate(access: Access | None = None, *, only_upstreams: bool = False) -> Gate:
    return Gate(access or Access(), 100, lambda: only_upstreams)


def head(start: bytes, fields: bytes = b"Host: localhost\r\n") -> RequestHead:
    reader = HeadReader()
    reader.read(start + b" HTTP/1.1\r\n" + fields + b"\r\n")
    assert reader.head is not None
    return reader.head


def status(refused: Gate, request: RequestHead) -> int:
    with pytest.raises(Refusal) as caught:
        refused.way(request)
    return caught.value.status


@pytest.mark.parametrize(
    ("start", "way"),
    [
        (b"GET /health", Way.PAGE),
        (b"GET /v1/models", Way.PAGE),
        (b"GET /slotproxy/api/state", Way.PAGE),
        (b"GET /slotproxy/nothing", Way.PAGE),
        (b"POST /v1/chat/completions", Way.ENGINE),
        (b"GET /health/", Way.ENGINE),
        (b"OPTIONS *", Way.ENGINE),
        (b"GET /v1/models?x=/health", Way.PAGE),
    ],
)
def test_the_path_as_it_came_says_where_a_request_goes(start: bytes, way: Way) -> None:
    assert gate().way(head(start)) is way


def test_models_are_somebody_elses_where_there_are_only_upstreams_but_only_to_read() -> None:
    there = gate(only_upstreams=True)
    assert there.way(head(b"GET /v1/models")) is Way.ENGINE
    assert there.way(head(b"POST /v1/models")) is Way.PAGE
    assert there.way(head(b"GET /v1/models/org/name")) is Way.ENGINE
    assert there.way(head(b"DELETE /v1/models/name")) is Way.ENGINE
    assert gate().way(head(b"GET /v1/models/org/name")) is Way.PAGE


@pytest.mark.parametrize("path", [b"/v1/models", b"/v1/models/name"])
def test_whose_the_models_are_is_looked_at_again_when_the_same_head_comes_again(path: bytes) -> None:
    theirs = True
    there, request = Gate(Access(), 100, lambda: theirs), head(b"GET " + path)
    assert there.way(request) is Way.ENGINE
    assert request.way is None
    theirs = False
    assert there.way(request) is Way.PAGE


def test_methods_that_nobody_here_knows_are_refused() -> None:
    assert status(gate(), head(b"TRACE /")) == 405


def test_who_has_no_key_gets_nothing_but_health_and_readiness() -> None:
    keyed = gate(KEYED)
    assert keyed.way(head(b"GET /health")) is Way.PAGE
    assert keyed.way(head(b"GET /ready")) is Way.PAGE
    assert status(keyed, head(b"GET /metrics")) == 401
    assert status(keyed, head(b"POST /v1/x")) == 401
    assert keyed.way(head(b"POST /v1/x", b"Host: a.example\r\nx-api-key: k\r\n")) is Way.ENGINE
    assert keyed.way(head(b"POST /v1/x", b"Host: a.example\r\nAPI-Key: k\r\n")) is Way.ENGINE


@pytest.mark.parametrize("right", [b"Authorization: Bearer k", b"x-api-key: k", b"api-key: k"])
def test_credentials_for_somebody_else_beside_the_right_one_do_no_harm(right: bytes) -> None:
    for foreign in (b"Authorization: Bearer other", b"x-api-key: other", b"api-key: other"):
        if foreign.split(b":")[0] != right.split(b":")[0]:
            assert gate(KEYED).way(head(b"POST /v1/x", b"Host: a\r\n%b\r\n%b\r\n" % (foreign, right))) is Way.ENGINE
            assert status(gate(KEYED), head(b"POST /v1/x", b"Host: a\r\n%b\r\n" % foreign)) == 401


def test_what_changes_something_needs_a_key_or_this_machine() -> None:
    restart = b"POST /slotproxy/api/instances/restart"
    assert gate().way(head(restart)) is Way.PAGE
    assert status(gate(Access(loopback=False)), head(restart)) == 403
    assert gate(Access(loopback=False)).way(head(b"GET /slotproxy/api/state")) is Way.PAGE


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"http://127.0.0.1/x?a=1", b"/x?a=1"),
        (b"HTTPS://localhost:8080/x", b"/x"),
        (b"http://localhost?x=1", b"/?x=1"),
        (b"http://localhost", b"/"),
    ],
)
def test_an_absolute_target_becomes_a_path(target: bytes, expected: bytes) -> None:
    request = head(b"GET " + target)
    gate().way(request)
    assert (request.target, request.path) == (expected, expected.partition(b"?")[0].decode())


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"http://evil.example/", 403),
        (b"http://u@localhost/", 400),
        (b"http:///x", 400),
        (b"http://:80/x", 400),
        (b"http://://x", 400),
        (b"file:///etc/passwd", 400),
        (b"ftp://localhost/", 400),
        (b"*", 400),
    ],
)
def test_a_target_that_is_no_path_of_ours_is_refused(target: bytes, expected: int) -> None:
    assert status(gate(), head(b"GET " + target)) == expected


def test_a_host_is_needed_and_has_to_be_ours_also_when_it_comes_again() -> None:
    there = gate()
    for _ in range(2):
        there.way(head(b"GET /x"))
        assert status(there, head(b"GET /x", b"Host: evil.example\r\n")) == 403
        assert status(there, head(b"GET /x", b"X: 1\r\n")) == 400


def test_what_is_remembered_about_hosts_is_bounded_and_forgotten_with_the_rules() -> None:
    there = gate(KEYED)
    for number in range(3 * KEPT_HOSTS):
        there.way(head(b"GET /health", b"Host: h%d.example\r\n" % number))
    there.reconfigure(Access(), 100)
    assert status(there, head(b"GET /health", b"Host: h1.example\r\n")) == 403


def test_pages_ask_whether_they_may_and_foreign_ones_may_not() -> None:
    asks = b"Host: localhost\r\nOrigin: http://localhost:3000\r\n"
    assert gate().way(head(b"OPTIONS /x", asks + b"Access-Control-Request-Method: POST\r\n")) is Way.PREFLIGHT
    assert gate().way(head(b"OPTIONS /x", asks)) is Way.ENGINE
    assert status(gate(), head(b"POST /x", b"Host: localhost\r\nOrigin: http://203.0.113.5\r\n")) == 403


def test_only_one_expectation_is_known() -> None:
    assert gate().way(head(b"POST /x", b"Host: a\r\nExpect: 100-Continue\r\n")) is Way.ENGINE
    assert status(gate(), head(b"POST /x", b"Host: a\r\nExpect: magic\r\n")) == 417


def test_who_stops_takes_nothing_for_engines_and_shows_its_pages() -> None:
    there = gate()
    request = head(b"POST /v1/x")
    assert there.way(request) is Way.ENGINE
    there.stop()
    assert status(there, request) == 503
    assert status(there, head(b"POST /v1/x")) == 503
    assert there.way(head(b"GET /ready")) is Way.PAGE


def test_a_request_has_the_id_its_client_gave_it_or_one_of_its_own() -> None:
    there = gate()
    given = head(b"GET /", b"Host: a\r\nX-Request-Id: mine\r\n")
    assert there.request_id(given) == "mine"
    assert there.request_id(head(b"GET /", b"Host: a\r\nX-Request-Id: a b\r\n")) != "a b"
    assert len({there.request_id(None) for _ in range(10)}) == 10


@pytest.mark.parametrize("start", [b"POST /v1/chat/completions", b"GET /health", b"GET /v1/models"])
@pytest.mark.parametrize("passed", [b"%b", b"one, %b", b"one,%b , two", b"one\r\nX-Slotproxy-Via: %b"])
def test_a_request_that_has_passed_this_proxy_before_is_refused(start: bytes, passed: bytes) -> None:
    here = gate()
    request = head(start, b"Host: localhost\r\nx-slotproxy-via: " + passed % THIS_PROXY + b"\r\n")
    assert status(here, request) == 508
    assert status(here, request) == 508


@pytest.mark.parametrize(
    "passed", [b"", b"one, two", THIS_PROXY[:-1], THIS_PROXY + b"0"], ids=["none", "others", "less", "more"]
)
def test_one_that_has_passed_others_is_none(passed: bytes) -> None:
    request = head(b"POST /v1/chat/completions", b"Host: localhost\r\nx-slotproxy-via: " + passed + b"\r\n")
    assert gate().way(request) is Way.ENGINE
