"""What may follow `--`, and what each refusal says to do instead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.instances.errors import ConfigurationError
from slotproxy.instances.profiles import catalog, own_arguments
from slotproxy.instances.profiles.own_arguments import refusal

ARGS = ["--model", "{model}", "--port={port}", "-c", "{ctx}", "--kv", "{kv}", "-t", "{threads}", "--metrics", "-v"]
RESERVED = {"-m": "--model", "-np": "--instances"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--model", "x"], "--model after -- is set by slotproxy: name the model with --model before --"),
        (["-m", "x"], "-m after -- is set by slotproxy: give --model before --"),
        (["-c", "9"], "-c after -- is set by slotproxy: give --ctx-size before --"),
        (["-c=9"], "-c after -- is set by slotproxy: give --ctx-size before --"),
        (["-np", "4"], "-np after -- is set by slotproxy: give --instances before --"),
        (["--verbose", "--kv", "/x"], "--kv after -- is set by slotproxy: its files belong below --state-dir"),
    ],
)
def test_what_slotproxy_sets_is_refused_with_the_option_to_use(given: list[str], sentence: str) -> None:
    assert refusal(given, ARGS, RESERVED) == sentence


def test_an_address_after_the_dashes_is_told_from_the_one_clients_connect_to() -> None:
    assert "--host and --port before -- are where clients connect" in (refusal(["--port", "1"], ARGS, {}) or "")


@pytest.mark.parametrize(
    "given", [[], ["-t", "4"], ["--threads", "4"], ["-ngl", "99"], ["--metrics"], ["-v"], ["model"], ["--models", "x"]]
)
def test_everything_else_is_the_users_own(given: list[str]) -> None:
    assert refusal(given, ARGS, RESERVED) is None


def test_an_underscore_is_a_dash_as_for_engines() -> None:
    args = ["--ctx-size", "{ctx}"]
    assert refusal(["--ctx_size", "9"], args, {}) is not None


@given(st.lists(st.text(max_size=8), max_size=4))
def test_a_refusal_names_an_argument_that_was_given(given: list[str]) -> None:
    sentence = refusal(given, ARGS, RESERVED)
    assert sentence is None or any(argument.startswith(sentence.split(" after --")[0]) for argument in given)


@pytest.mark.parametrize("name", catalog.names())
def test_no_shipped_engine_can_be_given_another_model_address_or_context(name: str) -> None:
    profile = catalog.load(name)
    ours = ("model", "host", "port", "ctx", "kv", "store")
    for flag, value in zip(profile.args, profile.args[1:], strict=False):
        if flag.startswith("-") and any(f"{{{word}}}" in value for word in ours):
            with pytest.raises(ConfigurationError, match=f"^{flag} after -- is set by slotproxy"):
                own_arguments.check(profile, [flag, "x"])
    own_arguments.check(profile, ["--some-flag-of-its-own", "--threads", "2", "-ngl", "99"])


def test_several_slots_in_one_of_several_instances_are_refused() -> None:
    for name, flag in (("llama-server", "-np"), ("embedded", "--parallel"), ("vllm", "--max-num-seqs")):
        with pytest.raises(ConfigurationError, match="give --instances before --"):
            own_arguments.check(catalog.load(name), [flag, "4"])


HELP = """usage: engine [--model FILE] [--port=N]
  -m, --model FILE   --host H  --port N  --ctx-size N --parallel N  --slot-save-path P --alias S  --threads N
  --metrics  --load-mode M  -ctk, --cache-type-k TYPE   --[no-]warm   -O LEVEL
"""


@pytest.mark.parametrize(
    "given",
    [
        ["--cache-type-k", "q8_0"],
        ["--cache_type_k=q8_0"],
        ["-ctk", "x"],
        ["--no-warm"],
        ["--warm"],
        ["-O3"],
        ["--cache-type"],  # an abbreviation, which some engines take
        ["--load-mode.part", "1"],
        ["value", "-1", "- x"],
    ],
)
def test_what_the_help_names_may_be_given(given: list[str]) -> None:
    own_arguments.check_known(catalog.load("llama-server"), given, HELP)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--cache-typ-k", "q8_0"], "llama-server has no option --cache-typ-k: did you mean --cache-type-k?"),
        (["--warm", "--qqqqqqqq=1"], "llama-server has no option --qqqqqqqq: its --help lists those it has"),
        (["-zz"], "llama-server has no option -zz: its --help lists those it has"),
    ],
)
def test_what_the_help_does_not_name_is_refused_with_the_nearest(given: list[str], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        own_arguments.check_known(catalog.load("llama-server"), given, HELP)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("help_text", ["", "--model only", HELP.replace("--metrics", "")])
def test_a_help_that_does_not_name_our_own_options_is_not_the_whole_list(help_text: str) -> None:
    own_arguments.check_known(catalog.load("llama-server"), ["--bogus"], help_text)


@pytest.mark.parametrize("given", [["--help"], ["--jinja", "-h"], ["--version"]])
def test_an_argument_that_ends_the_engine_is_refused(given: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="would never serve"):
        own_arguments.check(catalog.load("llama-server"), given)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ([], None),
        (["--alias", "x"], "x"),
        (["-a", "x"], "x"),
        (["--alias=x, y"], "x"),
        (["-a", "x", "--alias", "y"], "y"),
    ],
)
def test_the_users_own_name_of_the_model_counts(given: list[str], name: str | None) -> None:
    profile = catalog.load("embedded")
    own_arguments.check(profile, given)
    assert own_arguments.model_name(profile, given) == name
