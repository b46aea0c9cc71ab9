"""What the settings mean together, whichever way they came."""

import os
import pwd
from dataclasses import replace
from pathlib import Path

import pytest

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.settings import MemoryLimit, SupplySettings, UpstreamSpec
from slotproxy.proxy.options.config import Settings
from slotproxy.proxy.options.sources import load

ELSEWHERE = UpstreamSpec(url="http://127.0.0.1:1")


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = Settings()
    assert (settings.model, settings.engine, settings.instances, settings.max_instances) == ("demo", "auto", None, 8)
    assert (settings.host, settings.port, settings.routing) == ("127.0.0.1", 8080, "least-busy")
    assert (settings.queue_limit, settings.queue_timeout) == (64, 60.0)
    assert (settings.prefill_timeout, settings.stall_timeout, settings.drain_timeout) == (1800.0, 60.0, 60.0)
    assert (settings.max_body, settings.memory_limit) == (64 * 1024 * 1024, MemoryLimit(percent=80))
    assert (settings.log_format, settings.log_level) == ("text", "info")
    assert (settings.affinity, settings.kv_store_limit) == ("on", None)
    assert (settings.kv_keep, settings.kv_share) == (False, "on")
    assert settings.state_path.name == "slotproxy"


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME, and a user id without a name, as an arbitrary user of a container has."""

    def nobody(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for variable in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_the_state_directory_must_be_given_where_it_is_needed() -> None:
    settings = Settings(upstream=(ELSEWHERE,))
    with pytest.raises(ConfigurationError, match="--state-dir"):
        settings.supply(None)
    given = replace(settings, state_dir=Path("/state"))
    assert given.supply(None).state_dir == Path("/state")


@pytest.mark.usefixtures("homeless")
def test_without_a_home_a_path_with_a_tilde_is_refused_in_a_sentence() -> None:
    with pytest.raises(ConfigurationError, match="--state-dir is '~/x', but ~ is no home directory"):
        load(["--state-dir", "~/x"], {})


def test_upstreams_without_a_model_start_no_engine_here() -> None:
    settings = Settings(upstream=(ELSEWHERE,))
    assert not settings.local
    assert settings.model is None


def test_upstreams_beside_a_named_model_start_it_too() -> None:
    assert Settings(upstream=(ELSEWHERE,), model="demo").local
    assert Settings().local


def test_a_model_path_begins_at_home_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Settings(model="~/x.gguf").model_path == Path("/home/somebody/x.gguf")


def test_keys_do_not_show_in_what_is_printed(tmp_path: Path) -> None:
    settings = Settings(api_key=("hunter2",), engine_args=("--api-key", "hunter2"))
    assert "hunter2" not in repr(settings)


def test_keys_of_the_option_and_of_the_file_are_put_together(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\nsk-one\n\n  sk-two # of the laptop\nsk-with#inside\n")
    settings = Settings(api_key=("sk-zero",), api_key_file=path)
    assert settings.keys() == ("sk-zero", "sk-one", "sk-two", "sk-with#inside")


def test_a_key_without_a_label_is_known_by_its_place_among_all(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("alice: sk-one\nsk-two\nsk-three # bob\n")
    found = Settings(api_key=("sk-zero",), api_key_file=path).labelled_keys()
    labelled = tuple((one.label, one.key) for one in found)
    assert labelled == (("key-1", "sk-zero"), ("alice", "sk-one"), ("key-3", "sk-two"), ("bob", "sk-three"))
    assert Settings().labelled_keys() == ()


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfsk-one\nsk-two\n",
        b"sk-one\r\nsk-two\r\n",
        b"\xef\xbb\xbf# ours\r\n\tsk-one\t# of the laptop\r\n\r\nsk-two",
    ],
)
def test_a_key_file_may_come_from_any_editor(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    assert Settings(api_key_file=path).keys() == ("sk-one", "sk-two")


@pytest.mark.parametrize("around", ["\v", "\f", "\x1c", "\x85", "\xa0", "\u2028"])
def test_what_no_key_may_hold_is_not_passed_over_beside_one(tmp_path: Path, around: str) -> None:
    path = tmp_path / "keys"
    for line in (around + "sk-one", "sk-one" + around, around):
        path.write_bytes(f"sk-zero\n{line}\n".encode())
        with pytest.raises(ConfigurationError, match=r"^line 2 of --api-key-file .* is no key"):
            Settings(api_key_file=path).keys()


@pytest.mark.parametrize("between", ["\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\ufeff", "\x85# "])
def test_only_a_line_feed_ends_a_line_of_a_key_file(tmp_path: Path, between: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(f"sk-zero\nsk-one{between}sk-two\n".encode())
    with pytest.raises(ConfigurationError, match=r"^line 2 of --api-key-file .* is no key"):
        Settings(api_key_file=path).keys()


def test_a_key_file_that_every_user_can_read_is_warned_about(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("sk-one\n")
    path.chmod(0o644)
    warning = f"--api-key-file {path} can be read by every user of this machine: chmod 600 helps"
    assert [*Settings(api_key_file=path).warnings()] == [warning]
    for private in (0o600, 0o640, 0o643):
        path.chmod(private)
        assert [*Settings(api_key_file=path).warnings()] == []
    assert [*Settings(api_key_file=tmp_path / "none").warnings()] == []


def test_a_key_file_without_a_key_does_not_mean_an_open_server(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# sk-one\n")
    with pytest.raises(ConfigurationError, match="holds no key"):
        Settings(api_key_file=path).check({})


def test_a_key_file_is_refused_by_line_without_its_text(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("sk-one\nhunter2 hunter3\n")
    with pytest.raises(ConfigurationError, match=r"^line 2 of --api-key-file") as caught:
        Settings(api_key_file=path).check({})
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_key_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"--api-key-file {path} cannot be read: "):
        Settings(api_key_file=path).check({})


def test_tls_takes_both_files_or_neither() -> None:
    with pytest.raises(ConfigurationError, match="--tls-cert needs --tls-key"):
        Settings(tls_cert=Path("c")).check({})
    with pytest.raises(ConfigurationError, match="--tls-key needs --tls-cert"):
        Settings(tls_key=Path("k")).check({})
    Settings(tls_cert=Path("c"), tls_key=Path("k")).check({})


def test_the_variable_that_holds_a_key_must_be_set() -> None:
    settings = Settings(upstream=(UpstreamSpec(url="http://h", key_env="THE_KEY"),))
    for environ in ({}, {"THE_KEY": ""}):
        with pytest.raises(ConfigurationError, match="the environment variable THE_KEY is not set"):
            settings.check(environ)
    settings.check({"THE_KEY": "x"})


def test_a_small_context_is_warned_about() -> None:
    assert [*Settings(ctx_size=1024).warnings()] == []
    assert ["--ctx-size 1023 is small" in sentence for sentence in Settings(ctx_size=1023).warnings()] == [True]


def test_more_instances_than_the_upper_bound_of_auto_are_warned_about() -> None:
    assert [*Settings(instances=8).warnings()] == []
    assert [*Settings(instances=9).warnings()] == ["--instances 9 is more than --max-instances 8: all are started"]
    assert [*Settings(instances=9, max_instances=9).warnings()] == []


def test_the_supply_side_is_told_everything_it_asks_for(tmp_path: Path) -> None:
    settings = Settings(
        engine="fake",
        engine_bin="/bin/fake",
        engine_args=("-t", "1"),
        instances=2,
        max_instances=3,
        ctx_size=2048,
        memory_limit=MemoryLimit(size=1 << 30),
        upstream=(ELSEWHERE,),
        state_dir=tmp_path,
        drain_timeout=5.0,
        affinity="off",
        kv_store_limit=1 << 20,
        kv_keep=True,
        kv_share="off",
    )
    assert settings.supply(tmp_path / "m.gguf") == SupplySettings(
        model=tmp_path / "m.gguf",
        engine="fake",
        engine_bin="/bin/fake",
        engine_args=("-t", "1"),
        instances=2,
        max_instances=3,
        ctx_size=2048,
        memory_limit=MemoryLimit(size=1 << 30),
        upstreams=(ELSEWHERE,),
        state_dir=tmp_path,
        drain_timeout=5.0,
        affinity=False,
        kv_store_limit=1 << 20,
        kv_keep=True,
        kv_share=False,
    )


def test_without_a_model_the_supply_side_has_upstreams_only() -> None:
    assert Settings(upstream=(ELSEWHERE,)).supply(None).model is None


def test_settings_can_be_changed_by_replacing_them_only() -> None:
    settings = Settings()
    with pytest.raises(AttributeError):
        settings.port = 1  # type: ignore[misc]
    assert replace(settings, port=1).port == 1


def test_making_settings_reads_no_variable_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SLOTPROXY_PORT", "1")
    assert Settings().port == 8080
