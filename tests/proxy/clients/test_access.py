import pytest

from slotproxy.proxy.clients.access import Access, is_local_name
from slotproxy.proxy.errors import Refusal

OPEN = Access()
KEYED = Access(keys=("one", "two"))


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [
        *(("Bearer one", None), ("bearer   two", None), (None, "two"), ("Basic abc", "one")),
        *(("Bearer three", "one"), ("Bearer two", "three"), ("Bearer one", "two")),
    ],
)
def test_any_of_the_keys_opens(authorization: str | None, api_key: str | None) -> None:
    KEYED.check_key(authorization, api_key)
    KEYED.check_key(authorization, "three", api_key)
    KEYED.check_key(authorization, api_key, "three")


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [
        *((None, None), ("Bearer three", None), ("Bearer", None), ("one", None), (None, "ONE"), (None, "")),
        *(("Bearer three", "four"), ("Basic one", None)),
    ],
)
def test_nothing_else_does(authorization: str | None, api_key: str | None) -> None:
    with pytest.raises(Refusal) as caught:
        KEYED.check_key(authorization, api_key, None)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert caught.value.headers["WWW-Authenticate"] == "Bearer"


def test_a_principal_is_the_label_of_the_first_right_key() -> None:
    labelled = Access(keys=("one", "two", "three"), labels=("alice", "bob", "alice"))
    assert labelled.principal("10.0.0.1", "Bearer one") == "alice"
    assert labelled.principal("10.0.0.1", "Bearer two", "one", None) == "bob"
    assert labelled.principal("10.0.0.1", "Bearer none", None, "three") == "alice"
    assert [KEYED.principal("10.0.0.1", None, key) for key in ("one", "two")] == ["key-1", "key-2"]


def test_without_a_key_it_is_the_address_and_never_a_key() -> None:
    assert OPEN.principal("10.0.0.1", "Bearer one", "two") == "10.0.0.1"
    assert KEYED.principal("::1", "Bearer four", "five") == "::1"
    assert KEYED.principal("::1", None) == "::1"


def test_keys_do_not_show_in_a_repr() -> None:
    assert "one" not in repr(KEYED)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:8080", "localhost", "[::1]", "", "mybox", "host.docker.internal:80", "a.local"),
        *("127.0.0.1:", "localhost."),
    ],
)
def test_a_loopback_server_answers_to_names_nobody_else_controls(host: str) -> None:
    OPEN.check_host(host, required=True)


def test_it_does_not_answer_to_a_name_of_the_internet() -> None:
    with pytest.raises(Refusal) as caught:
        OPEN.check_host("attacker.example", required=True)
    assert caught.value.status == 403


@pytest.mark.parametrize("access", [KEYED, Access(loopback=False), Access(name="ai.example")])
def test_unless_keys_a_public_address_or_that_name_were_configured(access: Access) -> None:
    access.check_host("ai.example:8080", required=True)


@pytest.mark.parametrize(("host", "required"), [(None, True), ("a b", True), ("a b", False)])
def test_a_missing_or_broken_host_is_malformed(host: str | None, required: bool) -> None:
    with pytest.raises(Refusal) as caught:
        OPEN.check_host(host, required=required)
    assert (caught.value.status, caught.value.close) == (400, True)


@pytest.mark.parametrize(
    "origin", [None, "http://localhost:3000", "http://127.0.0.1", "vscode-webview://x", "http://h:1"]
)
def test_local_pages_and_programs_may_ask(origin: str | None) -> None:
    OPEN.check_origin(origin, "h:1")


def test_a_foreign_page_may_not_unless_it_is_allowed() -> None:
    foreign = ("https://evil.example", "null", "http://127.0.0.1.evil.example", "http://u@127.0.0.1")
    for origin in (*foreign, "http://203.0.113.5", "http://192.168.1.5:8080", "http://intranet", "http://a.local"):
        with pytest.raises(Refusal):
            OPEN.check_origin(origin, "127.0.0.1")
    for origins in (("https://evil.example",), ("*",)):
        access = Access(cors_origins=origins)
        access.check_origin("https://evil.example", "127.0.0.1")
        assert b"Allow-Origin: https://evil.example\r\n" in access.cors_fields("https://evil.example")


def test_a_page_from_where_it_asks_may_unless_that_is_a_name_somebody_else_controls() -> None:
    for authority in ("192.168.1.5:8080", "mybox:8080", "[fe80::1]"):
        Access(loopback=False).check_origin(f"http://{authority}", authority)
    with pytest.raises(Refusal):
        Access(loopback=False).check_origin("http://rebound.example:8080", "rebound.example:8080")


def test_a_preflight_is_answered_for_allowed_origins_only() -> None:
    access = Access(cors_origins=("https://a.example",))
    assert access.preflight_fields("https://a.example", "x-y")["Access-Control-Allow-Headers"] == "x-y"
    with pytest.raises(Refusal):
        access.preflight_fields("https://b.example", None)


def test_local_names() -> None:
    assert is_local_name("fe80::1%eth0")
    assert not is_local_name("127.0.0.1.evil.example")
