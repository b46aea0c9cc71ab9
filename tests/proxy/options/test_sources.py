"""The command line, the environment and the file: who counts, and what each refuses in one sentence."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.settings import MemoryLimit, UpstreamSpec
from slotproxy.proxy.options.config import Settings
from slotproxy.proxy.options.option import options
from slotproxy.proxy.options.sources import load, read


def refusal(*argv: str, environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(argv, environ or {})
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "╭" not in sentence
    return sentence


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "slotproxy.toml"


def test_without_anything_said_every_option_has_its_default() -> None:
    assert load([], {}) == Settings()


def test_serve_is_the_command_that_is_meant_without_one() -> None:
    assert load(["serve", "--port", "9"], {}) == load(["--port", "9"], {}) == Settings(port=9)


def test_a_value_may_follow_an_equals_sign() -> None:
    assert load(["--port=9"], {}).port == 9


def test_of_an_option_given_twice_the_last_counts() -> None:
    assert load(["--port", "9", "--port", "10"], {}).port == 10


def test_a_repeatable_option_keeps_every_value() -> None:
    settings = load(["--upstream", "http://a", "--upstream", "http://b,slots=2"], {})
    assert settings.upstream == (UpstreamSpec(url="http://a"), UpstreamSpec(url="http://b", slots=2))


def test_the_command_line_counts_before_the_environment_before_the_file_before_the_default(file: Path) -> None:
    file.write_text('port = 1\nhost = "file"\nqueue-limit = 1\n')
    environ = {"SLOTPROXY_PORT": "2", "SLOTPROXY_HOST": "environment", "SLOTPROXY_CONFIG": str(file)}
    settings = load(["--port", "3"], environ)
    assert (settings.port, settings.host, settings.queue_limit, settings.max_instances) == (3, "environment", 1, 8)


EXAMPLES: dict[str, tuple[str, object]] = {
    "model": ("x.gguf", "x.gguf"),
    "engine": ("llama-server", "llama-server"),
    "engine-bin": ("/bin/x", "/bin/x"),
    "instances": ("3", 3),
    "max-instances": ("4", 4),
    "ctx-size": ("4096", 4096),
    "memory-limit": ("24GiB", MemoryLimit(size=24 << 30)),
    "memory-metric": ("resident", "resident"),
    "min-gain": ("10%", 0.1),
    "recalibrate": ("yes", True),
    "upstream": ("http://h:1,slots=2", (UpstreamSpec(url="http://h:1", slots=2),)),
    "host": ("::1", "::1"),
    "port": ("0", 0),
    "state-dir": ("/tmp/x", Path("/tmp/x")),
    "routing": ("random", "random"),
    "affinity": ("off", "off"),
    "kv-store-limit": ("0", 0),
    "kv-keep": ("true", True),
    "kv-share": ("false", "off"),
    "queue-limit": ("0", 0),
    "queue-per-client": ("4", 4),
    "sse-ping": ("15s", 15.0),
    "queue-timeout": ("500ms", 0.5),
    "prefill-timeout": ("1h", 3600.0),
    "stall-timeout": ("2.5", 2.5),
    "drain-timeout": ("0", 0.0),
    "max-body": ("1MB", 1_000_000),
    "api-key": ("sk-1", ("sk-1",)),
    "cors-origin": ("*", ("*",)),
    "log-format": ("json", "json"),
    "log-level": ("debug", "debug"),
    "engine-args": ("--threads", ("--threads",)),
}
TOGETHER = {"api-key-file", "tls-cert", "tls-key", "config"}  # need files, or each other: tested on their own


def test_every_option_has_an_example() -> None:
    assert {name for name, _, _ in options(Settings)} == set(EXAMPLES) | TOGETHER


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_option_means_the_same_from_each_source(name: str, file: Path) -> None:
    text, value = EXAMPLES[name]
    file.write_text(f'{name} = "{text}"\n')
    field = name.replace("-", "_")
    lines = {"engine-args": ["--", text], "recalibrate": ["--recalibrate"], "kv-keep": ["--kv-keep"]}
    by_line = load(lines.get(name, [f"--{name}", text]), {})
    by_environment = load([], {f"SLOTPROXY_{field.upper()}": text})
    by_file = load(["--config", str(file)], {})
    assert [getattr(settings, field) for settings in (by_line, by_environment, by_file)] == [value] * 3


def test_a_flag_is_given_by_its_name_alone_and_may_be_taken_back(file: Path) -> None:
    file.write_text("recalibrate = true\n")
    assert load(["--recalibrate", "--port", "9"], {}) == Settings(recalibrate=True, port=9)
    assert load(["--config", str(file)], {}).recalibrate
    assert not load(["--config", str(file)], {"SLOTPROXY_RECALIBRATE": "false"}).recalibrate
    with pytest.raises(ConfigurationError, match="SLOTPROXY_RECALIBRATE is 'x', but must be true or false"):
        load([], {"SLOTPROXY_RECALIBRATE": "x"})


def test_paths_of_tls_and_keys_are_read(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sk-1\n")
    settings = load(["--api-key-file", str(keys), "--tls-cert", "c.pem", "--tls-key", "k.pem"], {})
    assert (settings.keys(), settings.tls_cert, settings.tls_key) == (("sk-1",), Path("c.pem"), Path("k.pem"))


def test_the_file_may_begin_with_a_byte_order_mark(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfport = 9\r\n")
    assert load(["--config", str(file)], {}).port == 9


def test_numbers_and_lists_may_stand_in_the_file_as_such(file: Path) -> None:
    file.write_text('port = 9\nqueue-timeout = 0.5\nupstream = ["http://a", "http://b"]\nengine-args = ["-t", 4, ""]\n')
    settings = load(["--config", str(file)], {})
    assert (settings.port, settings.queue_timeout) == (9, 0.5)
    assert [upstream.url for upstream in settings.upstream] == ["http://a", "http://b"]
    assert settings.engine_args == ("-t", "4", "")


def test_several_values_in_the_environment_are_separated_by_blanks() -> None:
    environ = {"SLOTPROXY_UPSTREAM": "http://a,slots=2  http://b", "SLOTPROXY_API_KEY": "one two"}
    settings = load([], environ)
    assert [upstream.url for upstream in settings.upstream] == ["http://a", "http://b"]
    assert settings.api_key == ("one", "two")


def test_values_of_one_source_replace_those_of_the_next() -> None:
    settings = load(["--api-key", "mine"], {"SLOTPROXY_API_KEY": "theirs"})
    assert settings.api_key == ("mine",)


def test_engines_get_what_follows_two_dashes_untouched() -> None:
    settings = load(["--port", "9", "--", "--threads", "4", "--port", "5", "--", "x"], {})
    assert settings.port == 9
    assert settings.engine_args == ("--threads", "4", "--port", "5", "--", "x")


def test_engine_arguments_in_the_environment_are_split_as_by_a_shell() -> None:
    environ = {"SLOTPROXY_ENGINE_ARGS": "--name 'a b' -t 4"}
    assert load([], environ).engine_args == ("--name", "a b", "-t", "4")
    assert load(["--", "-t", "5"], environ).engine_args == ("-t", "5")
    assert "cannot be split" in refusal(environ={"SLOTPROXY_ENGINE_ARGS": "'"})


def test_engine_arguments_are_no_option_of_the_command_line() -> None:
    assert "after --" in refusal("--engine-args", "x")
    assert "after --" in refusal("--engine-args", "x", "--", "y")


def test_settings_can_be_loaded_again_with_what_the_file_says_now(file: Path) -> None:
    argv = ["--config", str(file)]
    file.write_text("port = 1\n")
    assert load(argv, {}).port == 1
    file.write_text("port = 2\n")
    assert load(argv, {}).port == 2


def test_an_unknown_option_is_named_with_the_nearest_one() -> None:
    assert refusal("--instnaces", "2") == "--instnaces is no option of slotproxy; did you mean --instances?"
    assert refusal("--instnaces=2") == "--instnaces is no option of slotproxy; did you mean --instances?"
    assert refusal("--zzz") == "--zzz is no option of slotproxy: see slotproxy --help"
    assert refusal("-p", "9") == "-p is no option of slotproxy: see slotproxy --help"


def test_an_unknown_variable_is_named_with_the_nearest_one() -> None:
    sentence = refusal(environ={"SLOTPROXY_INSTNACES": "2"})
    assert (
        sentence
        == "the environment variable SLOTPROXY_INSTNACES is no option of slotproxy; did you mean SLOTPROXY_INSTANCES?"
    )


def test_variables_of_others_are_none_of_our_business() -> None:
    assert load([], {"PORT": "x", "MY_SLOTPROXY_PORT": "x", "slotproxy_port": "x"}) == Settings()


def test_an_unknown_key_of_the_file_is_named_with_the_nearest_one(file: Path) -> None:
    file.write_text("instnaces = 2\n")
    assert refusal("--config", str(file)) == f"instnaces in {file} is no option of slotproxy; did you mean instances?"
    file.write_text("queue_limit = 2\n")
    assert (
        refusal("--config", str(file)) == f"queue_limit in {file} is no option of slotproxy; did you mean queue-limit?"
    )
    file.write_text("[server]\nport = 2\n")
    assert refusal("--config", str(file)).startswith(f"server in {file} is no option of slotproxy")


def test_an_unknown_name_is_refused_even_where_another_source_counts_first(file: Path) -> None:
    file.write_text("portt = 2\n")
    assert "portt" in refusal("--port", "1", "--config", str(file))


def test_a_wrong_value_is_refused_by_the_place_it_stands_in(file: Path) -> None:
    file.write_text("port = 99999\n")
    assert refusal("--port", "x") == "--port is 'x', but must be a whole number from 0 to 65535"
    assert refusal("--port", "-1") == "--port is '-1', but must be a whole number from 0 to 65535"
    assert refusal(environ={"SLOTPROXY_PORT": "tcp://10.0.0.1:80"}).startswith(
        "SLOTPROXY_PORT is 'tcp://10.0.0.1:80', but"
    )
    assert refusal("--config", str(file)).startswith(f"port in {file} is '99999', but must be")


def test_a_wrong_value_is_refused_even_where_another_counts_first(file: Path) -> None:
    file.write_text("port = 99999\n")
    assert refusal("--port", "1", "--config", str(file)).startswith(f"port in {file} is '99999', but must be")
    assert refusal("--port", "1", environ={"SLOTPROXY_PORT": "x"}).startswith("SLOTPROXY_PORT is 'x', but must be")
    environ = {"SLOTPROXY_CONFIG": str(file), "SLOTPROXY_PORT": "1"}
    assert refusal(environ=environ).startswith(f"port in {file} is '99999', but must be")
    file.write_text('upstream = ["nonsense"]\n')
    assert "upstream in" in refusal("--upstream", "http://a", "--config", str(file))


def test_sound_values_of_lesser_sources_stay_without_effect(file: Path) -> None:
    file.write_text('port = 2\nupstream = ["http://a"]\nengine-args = []\n')
    settings = load(["--port", "1", "--upstream", "http://b", "--config", str(file), "--", "-t", "1"], {})
    assert (settings.port, [one.url for one in settings.upstream], settings.engine_args) == (
        1,
        ["http://b"],
        ("-t", "1"),
    )


def test_a_context_under_512_tokens_is_refused() -> None:
    assert refusal("--ctx-size", "511") == "--ctx-size is '511', but must be a whole number, 512 or more"


def test_an_option_without_its_value_is_named() -> None:
    assert refusal("--port").startswith("--port needs a value")
    assert refusal("--api-key", "--port", "1").startswith("--api-key needs a value")
    assert refusal("--port=").startswith("--port is empty")
    assert refusal(environ={"SLOTPROXY_API_KEY": ""}).startswith("SLOTPROXY_API_KEY is empty")


def test_a_value_that_begins_with_a_dash_follows_an_equals_sign() -> None:
    assert load(["--api-key=-x"], {}).api_key == ("-x",)


def test_what_is_neither_option_nor_command_is_refused() -> None:
    assert refusal("model.gguf") == "'model.gguf' was not expected on the command line: see slotproxy --help"
    assert "'b'" in refusal("--api-key", "a", "b")


def test_a_secret_is_never_repeated() -> None:
    assert "hunter" not in refusal("--api-key", "hunter2 hunter3")


@pytest.mark.parametrize("value", ["true", "2026-01-01", "{ a = 1 }", "[1, 2]"])
def test_a_value_of_a_type_no_option_has_is_refused(file: Path, value: str) -> None:
    file.write_text(f"port = {value}\n")
    assert refusal("--config", str(file)) == f"port in {file} must be a string or a number"


def test_a_list_holds_strings_and_numbers(file: Path) -> None:
    file.write_text("upstream = [true]\n")
    assert refusal("--config", str(file)).endswith("must be a string or a number, or a list of these")


def test_a_file_does_not_name_a_file(file: Path) -> None:
    file.write_text('config = "other.toml"\n')
    assert "cannot stand" in refusal("--config", str(file))


def test_a_file_that_is_no_toml_is_refused_with_the_line(file: Path) -> None:
    file.write_text("port = 1\nport 2\n")
    sentence = refusal("--config", str(file))
    assert sentence.startswith(f"--config {file} is not valid TOML: ")
    assert "line 2" in sentence


def test_a_file_that_cannot_be_read_is_refused_by_the_source_that_names_it(tmp_path: Path, file: Path) -> None:
    assert refusal("--config", str(file)) == f"--config {file} cannot be read: No such file or directory"
    environ = {"SLOTPROXY_CONFIG": str(tmp_path)}
    assert refusal(environ=environ) == f"SLOTPROXY_CONFIG {tmp_path} cannot be read: Is a directory"
    file.write_bytes(b"host = '\xff'")
    assert refusal("--config", str(file)) == f"--config {file} is not UTF-8 text"


def test_what_does_not_go_together_is_refused() -> None:
    assert refusal("--tls-cert", "c").startswith("--tls-cert needs --tls-key")
    assert "THE_KEY is not set" in refusal("--upstream", "http://h,key-env=THE_KEY")
    assert load(["--upstream", "http://h,key-env=THE_KEY"], {"THE_KEY": "x"}).model is None


@pytest.mark.parametrize("argv", [["--help"], ["serve", "--help"], ["-h"]])
def test_help_lists_every_option_and_no_secret(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load(argv, {"SLOTPROXY_API_KEY": "hunter2"})
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "hunter2" not in shown
    assert "Usage: slotproxy" in shown
    assert "[-- ENGINE_ARGS...]" in shown
    for name, found, _ in options(Settings):
        assert (f"--{name} " in shown) is not found.tail


def test_version_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(["--version"], {})
    assert capsys.readouterr().out.strip().count(".") == 2


def test_help_meant_for_the_engine_is_not_answered() -> None:
    assert load(["--", "--help"], {}).engine_args == ("--help",)


def test_a_command_is_read_with_the_settings_of_every_source(file: Path) -> None:
    file.write_text("ctx-size = 2048\n")
    argv = ["--json", "--config", str(file), "--", "--threads", "2"]
    plan = read(["plan", *argv], {"SLOTPROXY_INSTANCES": "3", "SLOTPROXY_PORT": "9"})
    assert (plan.command, plan.json, plan.engine) == ("plan", True, None)
    settings = plan.settings
    assert (settings.ctx_size, settings.instances, settings.engine_args) == (2048, 3, ("--threads", "2"))
    engines = read(["engines", "embedded", *argv], {})
    assert (engines.command, engines.json, engines.engine, engines.settings.ctx_size) == (
        "engines",
        True,
        "embedded",
        2048,
    )
    assert read(["engines"], {}).engine is None
    assert read([], {}).command == read(["serve"], {}).command == "serve"


def test_what_a_command_does_not_know_is_refused_as_elsewhere(file: Path) -> None:
    assert refusal("plan", "--instnaces", "2") == "--instnaces is no option of slotproxy; did you mean --instances?"
    assert refusal("plan", "x.gguf") == "'x.gguf' was not expected on the command line: see slotproxy --help"
    assert "'b'" in refusal("engines", "a", "b")
    assert "SLOTPROXY_JSON is no option" in refusal("plan", environ={"SLOTPROXY_JSON": "1"})
    assert refusal("plan", "--ctx-size", "511").startswith("--ctx-size is '511', but must be")


@pytest.mark.parametrize("command", ["plan", "engines"])
def test_the_help_of_a_command_shows_the_options_that_matter_to_it(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        read([command, "--help"], {})
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert f"Usage: slotproxy {command} " in shown
    assert "--json" in shown
    for name, found, _ in options(Settings):
        assert (f"\n --{name} " in shown) is (found.plan and not found.tail)


def test_json_is_an_option_of_commands_that_print() -> None:
    assert "--json is no option" in refusal("--json")
