"""The table of llama-server's options."""

from collections import Counter

from slotproxy.instances.profiles.llama_arguments import KNOWN
from slotproxy.instances.profiles.llama_options import OPTIONS, REFUSED


def test_no_spelling_has_two_meanings() -> None:
    counted = Counter(flag for option in OPTIONS for flag in option.flags)
    assert max(counted.values()) == 1
    assert not set(KNOWN) & set(REFUSED)
