import pytest

from slotproxy.instances.wording import ordinal, size

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (2, "a second"), (8, "an eighth"), (10, "a tenth"), (11, "an 11th"), (12, "a 12th"), (13, "a 13th"),
        (18, "an 18th"), (21, "a 21st"), (22, "a 22nd"), (23, "a 23rd"), (80, "an 80th"), (111, "a 111th"),
    ],
)  # fmt: skip
def test_ordinals_read_as_english(number: int, text: str) -> None:
    assert ordinal(number) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (MIB, "1.0 MiB"),
        (3 * GIB // 2, "1.5 GiB"),
        (1 << 41, "2.0 TiB"),
    ],
)
def test_sizes_have_the_unit_that_fits(count: int, text: str) -> None:
    assert size(count) == text
