from pathlib import Path

import pytest

from slotproxy.instances import profiles
from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.failures import Cause

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


@pytest.mark.parametrize("name", profiles.names())
def test_a_shipped_profile_loads_and_names_itself(name: str) -> None:
    profile = profiles.load(name)
    assert profile.name == name
    assert profile.summary
    assert profile.install


def test_the_shipped_profiles_are_these() -> None:
    assert profiles.names() == ("ds4-server", "embedded", "llama-server")


def test_a_users_file_is_read_like_a_shipped_one_and_needs_little(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    profile = profiles.load(str(path))
    assert (profile.name, profile.ctx, profile.ready.path, profile.http.keepalive) == ("mine", 4096, "/health", 0.0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("nmae = 1", "engine profile f.toml: unknown key 'nmae'"),
        ("[stop]\ntrem = 1", "engine profile f.toml: in stop: unknown key 'trem'"),
        ("ctx = 'many'", "engine profile f.toml: in ctx: Expected 'int', got 'str'"),
        ("ctx = ", "engine profile f.toml is not valid TOML"),
        ("[[fatal]]\npattern = 'a('\nkind = 'other'", r"bad pattern 'a\('"),
        ("[[fatal]]\npattern = 'a'\nkind = 'bad luck'", "Invalid enum value 'bad luck'"),
        ("[env]\nX = '{dri}'", r"unknown placeholder \{dri\}; known are model, name,"),
        ("module = 'x'", "give either 'executable' or 'module'"),
        ("[ready]\npath = 'health'", "in ready.path"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_file_and_the_key(change: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        profiles.parse(MINIMAL + change, "f.toml")
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigurationError, match="missing key 'models'"):
        profiles.parse(MINIMAL.replace('models = ["gguf"]', ""), "f.toml")


@pytest.mark.parametrize("engine", ["./nowhere.toml", "nowhere.toml", "/nowhere"])
def test_a_path_that_does_not_exist_is_named(engine: str) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere.* does not exist; check --engine"):
        profiles.load(engine)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="no engine profile 'lama'; known are ds4-server, embedded"):
        profiles.load("lama")


def test_who_holds_the_lock_and_what_is_fatal_comes_from_the_file() -> None:
    profile = profiles.load("ds4-server")
    assert profile.lock.holder == "engine"
    assert profile.env == {"DS4_LOCK_FILE": "{dir}/engine.lock"}
    assert profile.fatal[0].kind is Cause.LOCK_HELD
