import pytest

from slotproxy.instances.upstream import Upstream
from slotproxy.proxy.clients.head import HeadReader, RequestHead
from slotproxy.proxy.exchange.engine_request import Recipe
from slotproxy.proxy.headers import SESSIONS

ENGINE = Upstream(instance="0", host="127.0.0.1", port=9, drop_headers=frozenset({b"x-conversation-id"}))


def head(fields: bytes, start: bytes = b"POST /v1/x?a=1") -> RequestHead:
    reader = HeadReader()
    assert reader.read(start + b" HTTP/1.1\r\n" + fields + b"\r\n") == b""
    assert reader.head is not None
    return reader.head


def sent(fields: bytes, upstream: Upstream = ENGINE, *, length: int = 3, strip: bool = False) -> bytes:
    return Recipe(upstream, strip_credentials=strip).head(head(fields), length, b"id-1")


def test_a_request_has_our_host_and_framing_and_its_other_fields_as_they_came() -> None:
    fields = b"Host: evil\r\nX-Odd:   two  \r\nContent-Type: a/b\r\nContent-Length: 99\r\nX-Request-Id: theirs\r\n"
    assert sent(fields) == (
        b"POST /v1/x?a=1 HTTP/1.1\r\nHost: 127.0.0.1:9\r\nX-Odd:   two  \r\nContent-Type: a/b\r\n"
        b"x-request-id: id-1\r\nContent-Length: 3\r\n\r\n"
    )


@pytest.mark.parametrize("name", [b"Connection", b"KEEP-ALIVE", b"te", b"Upgrade", b"Expect", b"Accept-Encoding"])
def test_hop_by_hop_fields_never_reach_an_engine(name: bytes) -> None:
    assert b"secret" not in sent(b"Host: a\r\n%b: secret\r\n" % name)


def test_a_field_that_connection_names_is_for_this_connection_alone() -> None:
    request = sent(
        b"Host: a\r\nConnection: close, X-Private\r\nConnection: Authorization\r\nX-Private: 1\r\nX-Public: 2\r\n"
        b"Authorization: k\r\n"
    )
    assert b"X-Public: 2\r\n" in request
    assert b"X-Private" not in request
    assert b"Authorization" not in request


def test_what_an_engine_must_not_get_it_does_not_get_whatever_its_name() -> None:
    assert b"X-Conversation-Id" not in sent(b"Host: a\r\nX-Conversation-Id: 1\r\n")
    odd = Upstream(instance="0", host="h", port=1, drop_headers=frozenset({b"x-odd"}))
    request = sent(b"Host: a\r\nX-ODD: 1\r\nX-Even: 2\r\n", odd)
    assert b"X-ODD" not in request
    assert b"X-Even: 2" in request


@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_that_is_read_here_reaches_the_engine_as_it_came_however_often(name: bytes) -> None:
    lines = b"%b:  one\t\r\nX-Between: 1\r\n%b: two\r\n" % (name.title(), name)
    anything = Upstream(instance="0", host="h", port=1)
    request = sent(b"Host: a\r\n" + lines, anything)
    assert all(line in request.split(b"\r\n") for line in lines.split(b"\r\n"))
    assert request.index(b"one") < request.index(b"two")
    assert head(b"Host: a\r\n" + lines).named[name] == b"one"
    nominated = sent(b"Host: a\r\nConnection: %b\r\n" % name.upper() + lines, anything)
    assert b"one" not in nominated
    assert b"two" not in nominated


def test_credentials_pass_unless_they_were_for_us() -> None:
    fields = b"Host: a\r\nAuthorization: Bearer k\r\nx-api-key: k\r\nApi-Key: k\r\n"
    assert sent(fields).count(b"k\r\n") == 3
    assert b"k\r\n" not in sent(fields, strip=True)


def test_an_upstreams_own_fields_stand_for_the_clients_and_its_defaults_only_where_the_client_says_nothing() -> None:
    upstream = Upstream(
        instance="u0",
        host="h",
        port=80,
        base_path="/base",
        extra_headers=((b"authorization", b"Bearer ours"),),
        default_headers=((b"anthropic-version", b"2023"), (b"accept", b"a/b")),
    )
    request = sent(b"Host: a\r\nAuthorization: Bearer theirs\r\nAccept: c/d\r\n", upstream)
    assert request.startswith(b"POST /base/v1/x?a=1 HTTP/1.1\r\nHost: h\r\n")
    assert b"theirs" not in request
    assert b"authorization: Bearer ours\r\n" in request
    assert b"anthropic-version: 2023\r\n" in request
    assert b"a/b" not in request


def test_a_request_without_a_body_has_no_length_where_none_is_expected() -> None:
    recipe = Recipe(ENGINE, strip_credentials=False)
    assert b"Content-Length" not in recipe.head(head(b"Host: a\r\n", b"GET /"), 0, b"1")
    assert b"Content-Length: 0\r\n" in recipe.head(head(b"Host: a\r\n"), 0, b"1")


def test_the_same_head_is_written_once_for_each_upstream_and_each_gets_its_own() -> None:
    request = head(b"Host: a\r\nX: 1\r\n")
    first, second = (
        Recipe(Upstream(instance=name, host=name, port=1), strip_credentials=False) for name in ("one", "two")
    )
    assert b"Host: one:1" in first.head(request, 1, b"1")
    assert b"Host: two:1" in second.head(request, 2, b"2")
    assert first.head(request, 3, b"3").endswith(b"x-request-id: 3\r\nContent-Length: 3\r\n\r\n")


def test_a_client_is_told_who_answers_and_how_long_it_waited() -> None:
    recipe = Recipe(ENGINE, strip_credentials=False)
    assert recipe.told == b"x-slotproxy-instance: 0\r\nx-slotproxy-queue-ms: 0\r\n"
    told = b"x-slotproxy-instance: 0\r\nx-slotproxy-queue-ms: 1234\r\nx-slotproxy-queue-position: 3\r\n"
    assert recipe.told_after(1.2344, 3) == told


def test_a_base_path_may_stand_for_the_v1_of_a_request() -> None:
    upstream = Upstream(instance="u0", host="h", port=80, base_path="/api/v4", replaces_v1=True)
    assert sent(b"Host: a\r\n", upstream).startswith(b"POST /api/v4/x?a=1 HTTP/1.1\r\nHost: h\r\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"me"),
        (b"X-Slotproxy-Via: one\r\n", b"one, me"),
        (b"x-slotproxy-via: one, two\r\nx-slotproxy-via:three\r\n", b"one, two, three, me"),
    ],
)
def test_only_upstreams_are_told_the_proxies_that_a_request_has_passed(before: bytes, after: bytes) -> None:
    fields = b"Host: a\r\n" + before
    request = sent(fields, Upstream(instance="u0", host="h", port=80, via=b"me"))
    assert request.lower().count(b"x-slotproxy-via") == 1
    assert b"\r\nx-slotproxy-via: %b\r\n" % after in request
    assert b"x-slotproxy-via" not in sent(fields).lower()
