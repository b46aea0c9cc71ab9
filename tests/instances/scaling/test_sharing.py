import pytest

from slotproxy.instances.readings import Mapping
from slotproxy.instances.scaling.sharing import broken

MIB = 1 << 20
WHOLE = Mapping(rss=94 * MIB, pss=47 * MIB, written=0)


def found(*, own: int, mapping: Mapping | None = WHOLE, kv: int | None = 90, seen: bool = True) -> str | None:
    kv_bytes = None if kv is None else kv * MIB
    return broken(weights=94 * MIB, kv=kv_bytes, own=own * MIB, mapping=mapping, seen=seen)


@pytest.mark.parametrize(("own", "kv"), [(61, 22), (128, 90), (218, 180), (40, None)])
def test_instances_that_map_the_weights_share_them_however_much_else_they_hold(own: int, kv: int | None) -> None:
    assert found(own=own, kv=kv) is None


def test_weights_that_are_not_mapped_are_a_copy() -> None:
    sentence = found(own=150, kv=22, mapping=None)
    assert sentence is not None
    assert "each holds 150.0 MiB of its own beside the 0 bytes that it maps of the model's 94.0 MiB" in sentence


def test_weights_that_are_mapped_and_repacked_are_a_copy() -> None:
    assert found(own=190, kv=90) is not None


def test_what_the_engine_of_a_tiny_model_needs_anyway_is_no_copy() -> None:
    assert broken(weights=15 * MIB, kv=10 * MIB, own=50 * MIB, mapping=WHOLE, seen=True) is None


def test_pages_that_were_written_to_are_not_the_files() -> None:
    assert found(own=150, kv=None, mapping=Mapping(rss=94 * MIB, pss=94 * MIB, written=90 * MIB)) is not None


def test_where_mappings_cannot_be_seen_only_what_is_held_counts() -> None:
    assert found(own=150, kv=None, mapping=None, seen=False) is None
    assert found(own=190, kv=90, mapping=None, seen=False) is not None
