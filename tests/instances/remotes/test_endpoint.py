import pytest

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.remotes.endpoint import upstream_of
from slotproxy.instances.settings import Api, UpstreamSpec
from slotproxy.instances.upstream import THIS_PROXY


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("http://10.0.0.5:8080", ("10.0.0.5", 8080, False, "")),
        ("https://api.example/openai/", ("api.example", 443, True, "/openai")),
        ("http://[::1]:9/", ("::1", 9, False, "")),
        ("https://api.openai.com/v1", ("api.openai.com", 443, True, "")),
        ("https://openrouter.example/api/v1/", ("openrouter.example", 443, True, "/api")),
        ("http://h/av1", ("h", 80, False, "/av1")),
    ],
)
def test_a_url_names_host_port_and_base_path(url: str, where: tuple[str, int, bool, str]) -> None:
    upstream = upstream_of("u0", UpstreamSpec(url=url), {})
    assert (upstream.host, upstream.port, upstream.tls, upstream.base_path) == where


@pytest.mark.parametrize(
    ("url", "api", "asked", "there"),
    [
        ("http://h", None, "/v1/chat/completions", "/v1/chat/completions"),
        ("http://h/v1", None, "/v1/chat/completions", "/v1/chat/completions"),
        ("http://h/openai/v1", None, "/v1/models?a=/v1/", "/openai/v1/models?a=/v1/"),
        ("http://h/api/paas/v4", None, "/v1/chat/completions", "/api/paas/v4/chat/completions"),
        ("http://h/api/paas/v4/", None, "/v1/models", "/api/paas/v4/models"),
        ("http://h/v1beta/openai", None, "/v1/embeddings?x", "/v1beta/openai/embeddings?x"),
        ("http://h/api/v4", None, "/health", "/api/v4/health"),
        ("http://h/api/v4", None, "/v1", "/api/v4/v1"),
        ("http://h/api/v4", None, "/v10/x", "/api/v4/v10/x"),
        ("http://h/anthropic", Api.ANTHROPIC, "/v1/messages", "/anthropic/v1/messages"),
    ],
)
def test_a_base_path_stands_before_v1_or_for_it_as_sdks_take_base_urls(
    url: str, api: Api | None, asked: str, there: str
) -> None:
    assert upstream_of("u0", UpstreamSpec(url=url, api=api), {}).target(asked.encode()) == there.encode()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/v4/chat/completions/", "/v1/responses", "/v1/messages"])
def test_the_path_of_a_request_is_no_base_url(path: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--upstream \S+ must be the API's base URL, ") as caught:
        upstream_of("u0", UpstreamSpec(url="http://h" + path), {})
    assert str(caught.value).endswith((": http://h/v1", ": http://h/api/v4"))


def test_its_requests_say_through_whom_they_went() -> None:
    assert upstream_of("u0", UpstreamSpec(url="http://h"), {}).via == THIS_PROXY


@pytest.mark.parametrize(
    "url", ["10.0.0.5:8080", "ftp://x", "http://", "http://x:99999", "http://u:p@x", "http://x/?a=b"]
)
def test_what_is_no_url_of_an_engine_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is no URL such as"):
        upstream_of("u0", UpstreamSpec(url=url), {})


@pytest.mark.parametrize("environment", [{}, {"KEY": " "}, {"KEY": "a\r\nb"}])
def test_a_key_that_is_not_there_is_asked_for_without_showing_one(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"put its API key into the environment variable KEY$"):
        upstream_of("u0", UpstreamSpec(url="http://x", key_env="KEY"), environment)


KEY = {"KEY": "sk-1"}


@pytest.mark.parametrize(
    ("url", "api", "sent"),
    [
        ("https://api.openai.com/v1", None, (b"authorization", b"Bearer sk-1")),
        ("http://10.0.0.5:8080", None, (b"authorization", b"Bearer sk-1")),
        ("https://api.anthropic.com", None, (b"x-api-key", b"sk-1")),
        ("https://API.Anthropic.com/v1", None, (b"x-api-key", b"sk-1")),
        ("https://gateway.example/anthropic", Api.ANTHROPIC, (b"x-api-key", b"sk-1")),
        ("https://api.anthropic.com", Api.OPENAI, (b"authorization", b"Bearer sk-1")),
    ],
)
def test_a_key_is_sent_as_its_host_takes_it_unless_the_user_knows_better(
    url: str, api: Api | None, sent: tuple[bytes, bytes]
) -> None:
    upstream = upstream_of("u0", UpstreamSpec(url=url, key_env="KEY", api=api), KEY)
    assert upstream.extra_headers == (sent,)
    assert "sk-1" not in repr(upstream)


def test_a_key_of_ours_replaces_every_key_of_the_client() -> None:
    ours = upstream_of("u0", UpstreamSpec(url="https://api.anthropic.com", key_env="KEY"), KEY)
    assert {b"authorization", b"x-api-key", b"api-key"} <= ours.drop_headers
    theirs = upstream_of("u0", UpstreamSpec(url="https://api.anthropic.com"), {})
    assert not {b"authorization", b"x-api-key", b"api-key"} & theirs.drop_headers


def test_only_anthropic_is_told_a_version_and_only_if_the_client_tells_none() -> None:
    assert upstream_of("u0", UpstreamSpec(url="https://api.openai.com/v1"), {}).default_headers == ()
    anthropic = upstream_of("u0", UpstreamSpec(url="https://api.anthropic.com"), {})
    assert anthropic.default_headers == ((b"anthropic-version", b"2023-06-01"),)
    assert anthropic.extra_headers == ()


def test_what_it_calls_the_model_is_put_into_requests_there() -> None:
    assert upstream_of("u0", UpstreamSpec(url="http://h", model="big"), {}).model == "big"
    assert upstream_of("u0", UpstreamSpec(url="http://h"), {}).model is None


@pytest.mark.parametrize(
    ("method", "path", "beside"),
    [
        ("GET", "/v1/models", True),
        ("HEAD", "/", True),
        ("GET", "/v1/models/org/name", True),
        ("GET", "/props", True),
        ("POST", "/tokenize", True),
        ("POST", "/v1/messages/count_tokens", True),
        ("POST", "/", False),
        ("POST", "/props", False),
        ("DELETE", "/v1/models/name", False),
        ("POST", "/v1/messages", False),
        ("POST", "/v1/embeddings", False),
        ("GET", "/v1/responses/1", False),
    ],
)
def test_what_is_generated_nowhere_needs_no_slot_of_an_upstream(method: str, path: str, *, beside: bool) -> None:
    assert upstream_of("u0", UpstreamSpec(url="http://h"), {}).slotless.has(method, path) is beside
