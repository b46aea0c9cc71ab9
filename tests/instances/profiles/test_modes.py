"""Which request warms up an engine that its user's arguments make a server for embeddings."""

import pytest

from slotproxy.instances.profiles import catalog, modes

ENGINES = ("embedded", "llama-server")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("given", "path"),
    [
        ([], "/v1/chat/completions"),
        (["--jinja"], "/v1/chat/completions"),
        (["--embeddings"], "/embedding"),
        (["--embedding", "--pooling", "cls"], "/embedding"),
        (["--reranking"], "/v1/rerank"),
        (["--embeddings", "--rerank"], "/v1/rerank"),
    ],
)
def test_the_warm_up_is_of_the_kind_of_the_server(engine: str, given: list[str], path: str) -> None:
    assert modes.applied(catalog.load(engine), given).warm_up.path == path


@pytest.mark.parametrize("engine", ENGINES)
def test_an_input_to_embed_may_be_as_long_as_the_context(engine: str) -> None:
    profile = catalog.load(engine)
    added = modes.applied(profile, ["--embeddings"]).args[len(profile.args) :]
    assert added == ("--pooling", "{pooling}", "--batch-size", "{ctx}", "--ubatch-size", "{ctx}")


def test_an_engine_without_modes_is_what_it_was() -> None:
    profile = catalog.load("vllm")
    assert modes.applied(profile, ["--embeddings"]) is profile
