"""Files after `--`: they must be there, and the engine finds them from its own directory."""

from pathlib import Path

import pytest

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.profiles.named_files import Kind, made_absolute

FILES: dict[str, Kind] = {"--lora": "gguf", "--lora-scaled": "gguf", "--chat-template-file": "any"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.gguf", "b.gguf", "x,y.gguf", "c:1.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    (tmp_path / "t.jinja").write_text("{{ x }}")
    (tmp_path / "empty").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        (["--lora", "a.gguf"], ["--lora", "{}/a.gguf"]),
        (["--lora=a.gguf"], ["--lora={}/a.gguf"]),
        (["--lora", "a.gguf,b.gguf"], ["--lora", "{}/a.gguf,{}/b.gguf"]),
        (["--lora", "x,y.gguf"], ["--lora", "{}/x,y.gguf"]),
        (["--lora_scaled", "a.gguf:0.5,b.gguf:-1"], ["--lora_scaled", "{}/a.gguf:0.5,{}/b.gguf:-1"]),
        (["--lora", "c:1.gguf"], ["--lora", "{}/c:1.gguf"]),
        (["--chat-template-file", "t.jinja", "--jinja"], ["--chat-template-file", "{}/t.jinja", "--jinja"]),
        (["--temp", "a.gguf"], ["--temp", "a.gguf"]),
        (["--lora"], ["--lora"]),
    ],
)
def test_what_is_there_is_given_with_its_whole_path(here: Path, given: list[str], whole: list[str]) -> None:
    assert made_absolute(given, FILES) == tuple(argument.replace("{}", str(here)) for argument in whole)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--lora", "z.gguf"], "--lora z.gguf after -- does not exist"),
        (["--lora=z.gguf"], "--lora z.gguf after -- does not exist"),
        (["--lora", "a.gguf,z.gguf"], "--lora z.gguf after -- does not exist"),
        (["--lora-scaled", "z.gguf:0.5"], "--lora-scaled z.gguf after -- does not exist"),
        (["--lora", "t.jinja"], "--lora t.jinja after -- is not a GGUF file"),
        (["--lora", "empty"], "--lora empty after -- is not a GGUF file"),
        (["--lora", "."], "--lora . after -- is a directory, not a file"),
        (["--chat-template-file", "a\0"], "--chat-template-file a\0 after -- is no path"),
    ],
)
def test_what_is_not_there_is_said(given: list[str], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        made_absolute(given, FILES)
    assert str(caught.value) == sentence
