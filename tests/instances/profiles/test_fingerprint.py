import os
from dataclasses import replace
from pathlib import Path

import pytest

from slotproxy.instances.profiles.fingerprint import of_build
from slotproxy.instances.profiles.launch import Launch
from tests.instances.conftest import stub_launch


@pytest.fixture
def plan(gguf: Path) -> Launch:
    return stub_launch(gguf)


def test_the_same_engine_has_the_same_fingerprint_with_any_number_of_threads(plan: Launch) -> None:
    assert of_build(plan) == of_build(replace(plan)) == of_build(replace(plan, threads=7))


def test_another_context_argument_engine_or_help_is_another_build(plan: Launch) -> None:
    others = [
        replace(plan, ctx=8192),
        replace(plan, extra_args=("--quality",)),
        replace(plan, program=("/bin/true",)),
        replace(plan, help_text="--new"),
    ]
    assert len({of_build(one) for one in (plan, *others)}) == 5


def test_a_model_file_that_was_replaced_is_another_build(plan: Launch) -> None:
    before = of_build(plan)
    os.utime(plan.model, (1, 1))
    assert of_build(plan) != before


def test_a_model_and_an_engine_that_are_gone_have_a_fingerprint_too(plan: Launch) -> None:
    assert of_build(replace(plan, model=Path("/none"), program=("/none",))) != of_build(plan)
