"""How values are written: what is read, what is refused in which words, and that a shown value reads back."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.settings import Api, MemoryLimit, UpstreamSpec
from slotproxy.proxy.options import values


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800.0), ("60s", 60.0), ("1h", 3600.0), ("500ms", 0.5), ("2.5", 2.5), ("7", 7.0), ("1d", 86400.0)],
)
def test_a_time_is_read_as_seconds(text: str, seconds: float) -> None:
    assert values.TIME.read(text) == seconds


@pytest.mark.parametrize("text", ["", "-1s", "1 hour", "inf", "nan", "1e3", "1:30", "٣s", "s"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="500ms, 60s, 30m or 1h"):
        values.TIME_OR_ZERO.read(text)


def test_a_time_of_zero_needs_a_meaning() -> None:
    assert values.TIME_OR_ZERO.read("0") == 0.0
    with pytest.raises(ValueError, match="more than 0"):
        values.TIME.read("0s")


def test_a_time_that_no_timer_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 365d"):
        values.TIME.read("366d")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 << 30),
        ("8GB", 8 * 10**9),
        ("512MiB", 512 << 20),
        ("1.5KiB", 1536),
        ("2TB", 2 * 10**12),
        ("1TiB", 1 << 40),
        ("3kB", 3000),
        ("10mb", 10**7),
        ("4096", 4096),
        ("1 GiB", 1 << 30),
    ],
)
def test_a_size_is_read_as_bytes(text: str, size: int) -> None:
    assert values.SIZE.read(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1GiB", "24G!", "GiB", "24GiBs", "0.1", "1e9"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="512MiB, 24GiB or 8GB"):
        values.SIZE.read(text)


def test_a_size_that_may_be_nothing_is_so_where_it_says_0() -> None:
    for text, size in (("0", 0), ("0GiB", 0), ("24GiB", 24 << 30)):
        assert values.SIZE_OR_ZERO.read(text) == size
        assert values.SIZE_OR_ZERO.read(values.SIZE_OR_ZERO.show(size)) == size
    for text in ("", "none", "-1GiB", "24G!"):
        with pytest.raises(ValueError, match="512MiB, 24GiB or 8GB, or 0"):
            values.SIZE_OR_ZERO.read(text)


def test_a_switch_is_on_or_off() -> None:
    for text, meant in (("on", "on"), ("off", "off"), ("true", "on"), ("No", "off")):
        assert values.SWITCH.read(text) == meant
    with pytest.raises(ValueError, match="must be on or off"):
        values.SWITCH.read("maybe")


@given(st.integers(1, 1 << 45))
def test_a_shown_size_reads_back(size: int) -> None:
    assert values.SIZE.read(values.SIZE.show(size)) == size


@given(st.integers(0, 10**6))
def test_a_shown_time_reads_back(seconds: int) -> None:
    assert values.TIME_OR_ZERO.read(values.TIME_OR_ZERO.show(float(seconds))) == seconds


def test_a_memory_limit_is_a_percentage_or_a_size() -> None:
    assert values.MEMORY_LIMIT.read("80%") == MemoryLimit(percent=80)
    assert values.MEMORY_LIMIT.read("62.5%") == MemoryLimit(percent=62.5)
    assert values.MEMORY_LIMIT.read("24GiB") == MemoryLimit(size=24 << 30)
    assert [values.MEMORY_LIMIT.show(values.MEMORY_LIMIT.read(text)) for text in ("80%", "24GiB")] == ["80%", "24GiB"]


@pytest.mark.parametrize("text", ["0%", "101%", "%", "80 percent", "80k%", "", "-5%", "lots"])
def test_what_is_no_memory_limit_is_refused_in_terms_of_memory_limits(text: str) -> None:
    with pytest.raises(ValueError, match=r"24GiB"):
        values.MEMORY_LIMIT.read(text)


def test_instances_are_auto_or_a_number_over_any_bound() -> None:
    assert values.INSTANCES.read("auto") is None
    assert values.INSTANCES.read("500") == 500


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "AUTO"])
def test_no_other_instances_are_read(text: str) -> None:
    with pytest.raises(ValueError, match="must be auto, or a number from 1"):
        values.INSTANCES.read(text)


def test_a_number_is_refused_outside_its_range() -> None:
    port = values.number(0, 65535)
    assert [port.read("0"), port.read("65535")] == [0, 65535]
    for text in ("-1", "65536", "80a", "", "1_000", "٣"):
        with pytest.raises(ValueError, match="must be a whole number from 0 to 65535"):
            port.read(text)
    with pytest.raises(ValueError, match="must be a whole number, 512 or more"):
        values.number(512).read("511")


def test_a_choice_names_what_there_is() -> None:
    with pytest.raises(ValueError, match="must be one of text, json"):
        values.choice(["text", "json"]).read("xml")


def test_an_upstream_is_a_url_and_what_is_to_be_known_about_it() -> None:
    read = values.UPSTREAM.read
    assert read("http://h:1") == UpstreamSpec(url="http://h:1")
    assert read("https://h/v1,slots=4,key-env=THE_KEY") == UpstreamSpec(url="https://h/v1", slots=4, key_env="THE_KEY")
    assert read("https://h,overflow=true,api=anthropic") == UpstreamSpec(
        url="https://h", overflow=True, api=Api.ANTHROPIC
    )
    assert read("https://h,model=org/big:7b") == UpstreamSpec(url="https://h", model="org/big:7b")
    assert read("http://h,overflow=false") == UpstreamSpec(url="http://h")
    assert read("http://[::1]:8080,key-env=K,slots=2") == UpstreamSpec(url="http://[::1]:8080", slots=2, key_env="K")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("h:8080", "must begin with a URL"),
        ("ftp://h", "must begin with a URL"),
        ("http://", "must begin with a URL"),
        ("http://h:99999", "must begin with a URL"),
        ("http://h:0", "must begin with a URL"),
        ("http://[::1", "must begin with a URL"),
        ("http://h/a b", "must begin with a URL"),
        ("http://h?x=1", "query or a fragment"),
        ("http://h#x", "query or a fragment"),
        ("http://me:secret@h", "may not hold a password"),
        ("http://h,slots=0", "slots must be a number from 1"),
        ("http://h,slots=many", "slots must be a number from 1"),
        ("http://h,slots=1,slots=2", "only slots=K, key-env=VAR, overflow=true, model=NAME and api="),
        ("http://h,weight=2", "only slots=K, key-env=VAR, overflow=true, model=NAME and api="),
        ("http://h,key-env=sk-123", "name of an environment variable"),
        ("http://h,key-env=", "name of an environment variable"),
        ("http://h,overflow", "overflow must be true or false"),
        ("http://h,overflow=yes", "overflow must be true or false"),
        ("http://h,model=", "model must be the name"),
        ("http://h,model=a b", "model must be the name"),
        ("http://h,api=claude", "api must be openai or anthropic"),
    ],
)
def test_a_wrong_upstream_is_refused_for_what_is_wrong_with_it(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        values.UPSTREAM.read(text)


def test_an_origin_has_no_path() -> None:
    for text in ("*", "https://chat.example.org", "http://localhost:3000", "vscode-webview://abc"):
        assert values.ORIGIN.read(text) == text
    for text in ("chat.example.org", "https://chat.example.org/", "null"):
        with pytest.raises(ValueError, match="without a path"):
            values.ORIGIN.read(text)


def test_a_key_can_stand_in_a_header() -> None:
    assert values.KEY.read("sk-a#b") == "sk-a#b"
    for text in ("a b", "schlüssel", "a\n"):
        with pytest.raises(ValueError, match="printable ASCII without blanks"):
            values.KEY.read(text)


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0", 0.0), ("0%", 0.0), ("12.5%", 0.125), ("100%", 1.0)])
def test_a_share_is_written_in_percent(text: str, share: float) -> None:
    assert values.SHARE.read(text) == share
    assert values.SHARE.read(values.SHARE.show(share)) == share


@pytest.mark.parametrize("text", ["", "5", "-1%", "101%", "5%%", "x%", "5 MiB"])
def test_what_is_no_share_says_what_one_is(text: str) -> None:
    with pytest.raises(ValueError, match="must be a percentage from 0% to 100%, such as 5%"):
        values.SHARE.read(text)


KINDS = (
    values.TIME,
    values.SIZE,
    values.SIZE_OR_ZERO,
    values.SWITCH,
    values.MEMORY_LIMIT,
    values.INSTANCES,
    values.UPSTREAM,
    values.ORIGIN,
    values.KEY,
)


@given(st.sampled_from(KINDS), st.text(max_size=40))
def test_any_text_is_read_or_refused_with_a_sentence(kind: values.Kind, text: str) -> None:
    with contextlib.suppress(ValueError):
        kind.read(text)
        return
    with pytest.raises(ValueError, match=r"must be|may"):
        kind.read(text)
