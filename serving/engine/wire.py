"""Walks protobuf's wire format without copying: for messages whose large parts must not be parsed while others are served.

Python's protobuf parses a message whole and holds the GIL meanwhile; a frozen graph has hundreds of MB of constants. Walking over
the fields costs a few µs each and no memory.
Source: https://protobuf.dev/programming-guides/encoding/.
"""

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Malformed(ValueError):
    """The bytes aren't a protobuf message, or end too early."""


def read_varint(view: memoryview, place: int) -> tuple[int, int]:
    """The varint at `place` and the place after it. Raises Malformed."""
    value = shift = 0
    try:
        while True:
            byte = view[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, place
            shift += 7
            if shift > 63:
                raise Malformed(f"varint too long at byte {place}")
    except IndexError:
        raise Malformed(f"ends within a varint at byte {place}") from None


def walk(view: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """The fields of one message: (number, start of the field, its bytes); numbers other than length-delimited give an empty view.

    Raises Malformed.
    """
    place, end = 0, len(view)
    while place < end:
        start = place
        tag, place = read_varint(view, place)
        number, kind = tag >> 3, tag & 7
        size = 0
        if kind == VARINT:
            _, place = read_varint(view, place)
        elif kind == BYTES:
            size, place = read_varint(view, place)
        elif kind == FIXED64:
            place += 8
        elif kind == FIXED32:
            place += 4
        else:
            raise Malformed(f"unknown wire type {kind} at byte {start}")
        if place + size > end or not number:
            raise Malformed(f"field {number} at byte {start} goes beyond the end")
        yield number, start, view[place : place + size]
        place += size
