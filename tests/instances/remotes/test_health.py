"""What a look at a server makes of its answers."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from slotproxy.instances.remotes import health
from slotproxy.instances.remotes.health import Condition, Health
from slotproxy.instances.running.probe import Answer
from slotproxy.instances.upstream import Upstream

HERE = Upstream(instance="u0", host="10.0.0.5", port=8080)


@dataclass
class Answers:
    """Stands in for the probe: statuses by path, None for no answer at all."""

    statuses: dict[str, int | None]
    body: bytes = b"{}"
    certificate: str | None = None
    asked: list[str] = field(default_factory=list)

    async def ask(self, upstream: Upstream, path: str) -> Answer | None:
        self.asked.append(path)
        status = self.statuses[path]
        return None if status is None else Answer(status=status, body=self.body)

    async def listens(self, upstream: Upstream) -> bool:
        return self.statuses["port"] is not None

    async def certificate_error(self, upstream: Upstream) -> str | None:
        return self.certificate


async def examined(answers: Answers, upstream: Upstream = HERE) -> Health:
    return await health.examine(answers, upstream)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("at_health", "at_models", "condition", "trouble"),
    [
        (200, 200, Condition.HEALTHY, ""),
        (404, 200, Condition.HEALTHY, ""),
        (None, 200, Condition.HEALTHY, ""),
        (200, 404, Condition.HEALTHY, ""),
        (200, None, Condition.HEALTHY, ""),
        (404, 429, Condition.HEALTHY, ""),
        (508, 508, Condition.HEALTHY, ""),  # a loop: clients are told at once, and do not wait
        (200, 508, Condition.HEALTHY, ""),
        (503, 200, Condition.UNHEALTHY, "/health answers 503"),
        (404, 404, Condition.UNHEALTHY, "neither /health nor /v1/models answers with success"),
        (404, None, Condition.UNHEALTHY, "neither /health nor /v1/models answers with success"),
        (None, None, Condition.SILENT, "it does not answer"),
    ],
)
async def test_health_is_what_its_two_pages_say_together(
    at_health: int | None, at_models: int | None, condition: Condition, trouble: str
) -> None:
    found = await examined(Answers({"/health": at_health, "/v1/models": at_models}))
    assert (found.condition, found.trouble) == (condition, trouble)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_is_asked_for_where_none_was_given_and_named_refused_where_one_was(status: int) -> None:
    answers = Answers({"/health": 200, "/v1/models": status})
    assert (await examined(answers)).trouble.startswith(f"it wants an API key ({status}): name the variable")
    keyed = Upstream(instance="u0", host="10.0.0.5", port=1, extra_headers=((b"authorization", b"Bearer k"),))
    assert (await examined(answers, keyed)).trouble == f"it refuses the API key ({status})"


async def test_pages_are_named_as_they_were_asked_for() -> None:
    versioned = Upstream(instance="u0", host="h", port=80, base_path="/api/v4", replaces_v1=True)
    found = await examined(Answers({"/health": 404, "/v1/models": 404}), versioned)
    assert found.trouble == "neither /api/v4/health nor /api/v4/models answers with success"


async def test_a_certificate_that_is_not_trusted_is_no_silence() -> None:
    answers = Answers({"/health": None, "/v1/models": None}, certificate="self-signed certificate")
    secured = Upstream(instance="u0", host="10.0.0.5", port=443, tls=True)
    found = await examined(answers, secured)
    assert (found.condition, found.trouble) == (
        Condition.UNHEALTHY,
        "its certificate is not trusted (self-signed certificate)",
    )
    assert (await examined(answers)).condition is Condition.SILENT, "without TLS there is no certificate"


@pytest.mark.parametrize(
    ("body", "models", "n_ctx"),
    [
        (b'{"data": [{"id": "m", "meta": {"n_ctx": 2048}}, 7]}', 1, 2048),
        (b'{"data": [{"id": "m"}]}', 1, None),
        (b'{"data": "none"}', 0, None),
        (b"no JSON", 0, None),
    ],
)
async def test_what_it_lists_is_learnt(body: bytes, models: int, n_ctx: int | None) -> None:
    found = await examined(Answers({"/health": 200, "/v1/models": 200}, body))
    assert found.models is not None
    assert (len(found.models), found.n_ctx) == (models, n_ctx)


async def test_one_that_lists_nothing_is_said_to_list_nothing() -> None:
    assert (await examined(Answers({"/health": 200, "/v1/models": 404}))).models is None


async def test_an_api_without_a_page_of_health_is_not_asked_for_it() -> None:
    answers = Answers({"/v1/models": 200})
    await examined(answers, Upstream(instance="u0", host="api.openai.com", port=443, tls=True))
    assert answers.asked == ["/v1/models"]


@pytest.mark.parametrize(("port", "found"), [(1, health.HEALTHY), (None, health.SILENT)])
async def test_a_glance_only_asks_whether_it_listens(port: Any, found: Health) -> None:
    assert await health.glance(Answers({"port": port}), HERE) is found  # type: ignore[arg-type]
