"""An `--upstream` as requests are sent to it: host, base path, credentials. Pure."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.settings import Api, UpstreamSpec
from slotproxy.instances.slotless import Slotless
from slotproxy.instances.upstream import THIS_PROXY, Upstream

MODELS = "/v1/models"
ANTHROPIC_HOST = "api.anthropic.com"
WITHOUT_HEALTH = frozenset({"api.openai.com", ANTHROPIC_HOST})  # what they would answer to /health means nothing
ANTHROPIC_VERSION = (b"anthropic-version", b"2023-06-01")  # every request must name one; clients' own SDKs do
PLAIN_KEEPALIVE = 60.0  # seconds; an engine that closes sooner is noticed, and to connect costs as much as 12 events
KEEPALIVE = 30.0  # seconds for TLS: a middlebox may drop an idle connection without telling
ANSWERS = ("/chat/completions", "/completions", "/responses", "/embeddings", "/messages")  # paths of requests
# What engines and APIs answer at these paths is never generated. Who has no such path says so at once.
METADATA = Slotless(
    (
        *(f"GET {path}" for path in (MODELS, f"{MODELS}/*", "/models", "/models/*", "/v1/model")),
        *(f"GET {path}" for path in ("/", "/favicon.ico", "/v1/health", "/props", "/info", "/version")),
        *(f"GET {path}" for path in ("/lora-adapters", "/api/version", "/api/tags", "/api/ps")),
        *(f"POST {path}" for path in ("/tokenize", "/detokenize", "/apply-template", "/api/show")),
        *(f"POST /v1/{path}" for path in ("messages/count_tokens", "responses/input_tokens")),
    )
)
CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key"})


def upstream_of(name: str, spec: UpstreamSpec, environment: Mapping[str, str]) -> Upstream:
    """Raises ConfigurationError when the URL or the variable with its key is no good."""
    parts = urlsplit(spec.url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or parts.username or parts.query:
        raise ConfigurationError(f"--upstream {spec.url} is no URL such as http://10.0.0.5:8080 or https://host/path")
    path = parts.path.rstrip("/")
    if (answer := next((answer for answer in ANSWERS if path.endswith(answer)), None)) is not None:
        base = spec.url.rstrip("/").removesuffix(answer)
        raise ConfigurationError(f"--upstream {spec.url} must be the API's base URL, without {answer}: {base}")
    tls = parts.scheme == "https"
    api = spec.api or (Api.ANTHROPIC if parts.hostname == ANTHROPIC_HOST else Api.OPENAI)
    credentials = _credentials(spec, api, environment)
    return Upstream(
        instance=name,
        host=parts.hostname,
        port=port or (443 if tls else 80),
        slots=spec.slots,
        overflow=spec.overflow,
        model=spec.model,
        tls=tls,
        observed=True,
        via=THIS_PROXY,
        # OpenAI's SDKs are given a base URL with the version at its end, mostly /v1, and the paths that clients ask us
        # for begin with /v1. Anthropic's are given one without.
        base_path=path.removesuffix("/v1"),
        replaces_v1=api is Api.OPENAI and bool(path) and not path.endswith("/v1"),
        keepalive=KEEPALIVE if tls else PLAIN_KEEPALIVE,
        slotless=METADATA,
        # A key of ours must not arrive beside one of the client's: which of the two counts is not defined.
        drop_headers=frozenset({b"x-conversation-id"}) | (CREDENTIALS if credentials else frozenset()),
        extra_headers=credentials,
        default_headers=(ANTHROPIC_VERSION,) if api is Api.ANTHROPIC else (),
    )


def _credentials(spec: UpstreamSpec, api: Api, environment: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    if spec.key_env is None:
        return ()
    key = environment.get(spec.key_env, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigurationError(f"--upstream {spec.url}: put its API key into the environment variable {spec.key_env}")
    if api is Api.ANTHROPIC:
        return ((b"x-api-key", key.encode()),)
    return ((b"authorization", b"Bearer " + key.encode()),)
