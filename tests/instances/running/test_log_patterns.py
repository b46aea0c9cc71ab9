from slotproxy.instances.failures import Cause
from slotproxy.instances.profiles import catalog
from slotproxy.instances.running.log_patterns import LONGEST, LogPatterns


def after(engine: str, *lines: str) -> LogPatterns:
    patterns = LogPatterns(catalog.load(engine))
    for line in lines:
        patterns.read(line)
    return patterns


def test_the_banner_announces_and_an_engine_without_one_needs_none() -> None:
    assert not after("ds4-server", "0521 12:00:00 loading").announced
    assert after("ds4-server", "0521 12:00:00 ds4-server: listening on http://127.0.0.1:8000").announced
    assert after("llama-server").announced


def test_a_particular_reason_replaces_the_mere_fact_that_it_ends() -> None:
    fatal = after(
        "llama-server", "E srv init: exiting due to model loading error", "failed to open GGUF file 'x'"
    ).fatal
    assert fatal is not None
    assert fatal.cause is Cause.MODEL


def test_the_first_reason_stays() -> None:
    fatal = after("llama-server", "failed to open GGUF file 'x'", "out of memory", "exiting due to").fatal
    assert fatal is not None
    assert fatal.sentence == "the engine cannot load the model: failed to open GGUF file 'x'"


def test_the_holder_of_a_foreign_lock_is_quoted() -> None:
    fatal = after("ds4-server", "ds4: another ds4 process is already running (pid 77); refusing to start").fatal
    assert fatal is not None
    assert fatal.cause is Cause.LOCK_HELD
    assert "pid 77" in fatal.sentence


def test_a_quoted_line_is_bounded() -> None:
    fatal = after("llama-server", "out of memory" + "x" * 5000).fatal
    assert fatal is not None
    assert len(fatal.sentence) < LONGEST + 50
