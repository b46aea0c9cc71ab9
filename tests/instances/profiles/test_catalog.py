import re
from pathlib import Path

import pytest

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.failures import Cause
from slotproxy.instances.profiles import catalog
from slotproxy.instances.slotless import Slotless

MINIMAL = """
name = "mine"
summary = "my engine"
install = "build it"
models = ["gguf"]
executable = "mine"
args = ["-m", "{model}", "-p", "{port}"]
warm-up.body = { prompt = "a" }
idle.kind = "delay"
memory.shared = false
"""


@pytest.mark.parametrize("name", catalog.names())
def test_a_shipped_profile_loads_and_names_itself(name: str) -> None:
    profile = catalog.load(name)
    assert profile.name == name
    assert profile.summary
    assert profile.install


def test_the_shipped_profiles_are_these() -> None:
    assert catalog.names() == (
        "ds4-server",
        "embedded",
        "llama-server",
        "llamafile",
        "mlx_lm.server",
        "mlxcel-server",
        "ollama",
        "tabbyapi",
        "tgi",
        "vllm",
    )


@pytest.mark.parametrize("name", catalog.names())
def test_a_shipped_profile_answers_for_what_users_ask_first(name: str) -> None:
    profile = catalog.load(name)
    assert profile.memory.note
    assert profile.context.note
    assert profile.idle.note
    assert {Cause.PORT_TAKEN, Cause.MODEL, Cause.OUT_OF_MEMORY} <= {fatal.kind for fatal in profile.fatal}
    assert set(profile.scrub) >= {"LLAMA_ARG_", "OLLAMA_", "DS4_"}
    assert "{port}" in " ".join((*profile.args, *profile.env.values()))


def test_conversations_are_handed_over_by_those_engines_that_are_known_to_take_them() -> None:
    how = {name: catalog.load(name).kv.how for name in catalog.names()}
    assert {name: one for name, one in how.items() if one != "none"} == {
        "ds4-server": "files",
        "embedded": "slots",
        "llama-server": "slots",
    }
    assert catalog.parse(MINIMAL, "mine.toml").kv.how == "none"
    assert all(catalog.load(name).kv.note for name in catalog.names())


def test_a_users_file_is_read_like_a_shipped_one_and_needs_little(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    profile = catalog.load(str(path))
    assert (profile.name, profile.ctx, profile.ready.path, profile.http.keepalive) == ("mine", 4096, "/health", 0.0)
    path.write_text(MINIMAL, encoding="utf-8-sig")
    assert catalog.load(str(path)) == profile


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("nmae = 1", "f.toml, line 11: unknown key 'nmae'"),
        ("[stop]\n\ntrem = 1", "f.toml, line 13: in stop: unknown key 'trem'"),
        ("stop = { trem = 1 }", "f.toml, line 11: in stop: unknown key 'trem'"),
        ("ctx = 'many'", "f.toml, line 11: in ctx: Expected 'int', got 'str'"),
        ("ctx = \n", r"f.toml is not valid TOML: .* \(at line 11, column 7\)"),
        ("[[fatal]]\npattern = 'a('\nkind = 'other'", r"line 12: in fatal.0.pattern: bad pattern 'a\('"),
        (
            "[[fatal]]\npattern = 'a'\nkind = 'other'\n[[fatal]]\npattern = 'a'\nkind = 'bad luck'",
            "line 16: in fatal.1.kind: Invalid enum value 'bad luck'",
        ),
        ("[env]\nX = '{dri}'", r"line 12: in \{dri\}: unknown placeholder \{dri\}; known are model, parent,"),
        ("module = 'x'", "line 11: in module: give either 'executable' or 'module'"),
        ("[ready]\npath = 'health'", "line 12: in ready.path"),
        (
            "[http]\nslotless = ['GET /x', 'tokenize']",
            "line 12: in http.slotless.1: 'tokenize' is neither a path nor a method",
        ),
        ("[context]\npath = '/slots'", "line 11: in context.pointer: 'path' needs a 'pointer'"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_file_the_line_and_the_key(change: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        catalog.parse(MINIMAL + change, "f.toml")
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigurationError, match="missing key 'models'"):
        catalog.parse(MINIMAL.replace('models = ["gguf"]', ""), "f.toml")


@pytest.mark.parametrize("engine", ["./nowhere.toml", "nowhere.toml", "/nowhere"])
def test_a_path_that_does_not_exist_is_named(engine: str) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere.* does not exist; check --engine"):
        catalog.load(engine)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="no engine profile 'lama'; known are ds4-server, embedded"):
        catalog.load("lama")


def test_who_holds_the_lock_and_what_is_fatal_comes_from_the_file() -> None:
    profile = catalog.load("ds4-server")
    assert profile.lock.holder == "engine"
    assert profile.env == {"DS4_LOCK_FILE": "{dir}/engine.lock"}
    assert profile.fatal[0].kind is Cause.LOCK_HELD


@pytest.mark.parametrize("name", catalog.names())
@pytest.mark.parametrize(
    "line",
    [
        "INFO: loading config.json and tokenizer.json from /models/m",
        "model loaded, 3.1 of 24 GiB of memory in use, 20 GiB out of 24 GiB free",
        "WARNING: file generation_config.json does not exist, using defaults",
        "INFO: Uvicorn running on http://127.0.0.1:8000 (Press CTRL+C to quit)",
        "127.0.0.1 - - POST /v1/chat/completions HTTP/1.1 200 -",
        "KV cache: allocated 512 MiB, limit of memory 90 %",
    ],
)
def test_an_ordinary_line_is_not_taken_for_a_fatal_one(name: str, line: str) -> None:
    patterns = [fatal.pattern for fatal in catalog.load(name).fatal]
    assert [pattern for pattern in patterns if re.search(pattern, line)] == []


TABLES = """name = "x"
warm-up.body = { a = 1 }

[stop] # how it ends
term = 1

[[fatal]]
pattern = "a"

[[fatal]]
"pattern" = "b"
args = [
    "--port", "{prot}",
]
"""


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("name",), 1),
        (("warm-up", "body"), 2),
        (("warm-up", "body", "a"), 2),
        (("stop",), 4),
        (("stop", "term"), 5),
        (("stop", "trem"), 4),
        (("fatal", 0, "pattern"), 8),
        (("fatal", 1, "pattern"), 11),
        (("fatal", 1, "kind"), 10),
        (("{prot}",), 13),
        (("{other}",), None),
        (("elsewhere",), None),
        ((), None),
    ],
)
def test_a_key_is_found_or_else_what_contains_it(keys: tuple[str | int, ...], line: int | None) -> None:
    assert catalog.line_of(TABLES, keys) == line


@pytest.mark.parametrize("name", ["embedded", "llama-server"])
@pytest.mark.parametrize(
    ("request_line", "beside"),
    [
        ("GET /models", True),
        ("HEAD /", True),
        ("GET /favicon.ico", True),
        ("GET /lora-adapters", True),
        ("OPTIONS /v1/chat/completions", True),
        ("POST /v1/messages/count_tokens", True),
        ("POST /v1/responses/input_tokens", True),
        ("POST /apply-template", True),
        ("POST /", False),
        ("POST /lora-adapters", False),
        ("POST /v1/messages", False),
        ("POST /v1/chat/completions", False),
        ("POST /v1/embeddings", False),
        ("POST /infill", False),
        ("POST /slots/0", False),
    ],
)
def test_what_llama_cpp_answers_beside_its_slot(name: str, request_line: str, *, beside: bool) -> None:
    method, path = request_line.split()
    assert Slotless(catalog.load(name).http.slotless).has(method, path) is beside


@pytest.mark.parametrize("name", catalog.names())
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/embeddings", "/infill"]
)
def test_no_shipped_profile_lets_a_generation_pass_without_a_slot(name: str, path: str) -> None:
    assert not Slotless(catalog.load(name).http.slotless).has("POST", path)
