from dataclasses import replace
from pathlib import Path

from slotproxy.proxy.options.config import Settings
from slotproxy.proxy.options.reload import possible, summary

BEFORE = Settings(instances=2, port=8080, state_dir=Path("/state"))


def test_what_is_settled_at_the_start_stays_and_the_rest_changes() -> None:
    wanted = replace(BEFORE, instances=3, port=9000, state_dir=Path("/other"), queue_limit=7)
    assert possible(BEFORE, wanted) == replace(BEFORE, instances=3, queue_limit=7)


def test_saved_conversations_follow_a_configuration_that_is_read_again() -> None:
    wanted = replace(BEFORE, affinity="off", kv_store_limit=0, kv_keep=True, kv_share="off")
    assert possible(BEFORE, wanted) == wanted
    assert summary(BEFORE, wanted) == "new values: --affinity, --kv-store-limit, --kv-keep, --kv-share"


def test_the_user_is_told_what_changes_and_what_needs_a_new_start() -> None:
    wanted = replace(BEFORE, queue_limit=7, port=9000)
    assert summary(BEFORE, wanted) == "new values: --queue-limit; only after a new start: --port"


def test_no_change_is_said_too() -> None:
    assert summary(BEFORE, BEFORE) == "no option has changed; keys and certificates were read again"


def test_the_value_of_a_key_is_not_said() -> None:
    assert "secret" not in summary(BEFORE, replace(BEFORE, api_key=("secret",)))
