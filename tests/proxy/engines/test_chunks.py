from hypothesis import given
from hypothesis import strategies as st

from slotproxy.proxy.engines.chunks import END, FRAMINGS, LONGEST, OPENINGS


def recognised(segment: bytes) -> bytes | None:
    """The content, as a connection finds it."""
    content = segment.removeprefix(OPENINGS[len(segment)]).removesuffix(END)
    return content if len(segment) - len(content) == FRAMINGS[len(segment)] else None


@given(st.integers(1, LONGEST))
def test_the_length_of_a_whole_chunk_tells_how_it_begins(size: int) -> None:
    chunk = b"%x\r\n%b\r\n" % (size, b"x" * size)
    if len(chunk) < LONGEST:
        assert OPENINGS[len(chunk)] == b"%x\r\n" % size
        assert recognised(chunk) == b"x" * size


@given(st.integers(1, LONGEST), st.sampled_from((b"", b"\n", b"\r\n", b"\r\n\r\n", b"1\r\na\r\n")), st.data())
def test_a_chunk_of_which_any_byte_of_the_framing_is_another_is_not_recognised(
    size: int, end: bytes, data: st.DataObject
) -> None:
    content = (b"x" * size + end)[-size:]
    opening = b"%x\r\n" % size
    chunk = bytearray(opening + content + b"\r\n")
    if len(chunk) < LONGEST:
        place = data.draw(st.sampled_from([*range(len(opening)), -2, -1]))
        chunk[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != chunk[place]))
        assert recognised(bytes(chunk)) is None


@given(st.binary(max_size=12) | st.text("0123aAfF;\r\n", max_size=12).map(str.encode))
def test_whatever_is_recognised_is_a_whole_chunk_framed_as_we_frame(segment: bytes) -> None:
    content = recognised(segment)
    assert content is None or (content and segment == b"%x\r\n%b\r\n" % (len(content), content))


def test_no_length_stands_for_an_empty_chunk_nor_for_one_that_cannot_be() -> None:
    for length, (opening, framing) in enumerate(zip(OPENINGS, FRAMINGS, strict=True)):
        assert (opening, framing) == (b"", -1) or (
            opening[0] != ord("0") and len(opening) + int(opening, 16) + 2 == length and framing == len(opening) + 2
        )
