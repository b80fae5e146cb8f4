"""Protocol buffers' wire format, as much of it as ONNX's files need: a field is its number, a kind, and a value.

https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from chorus.errors import CheckpointError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
MOST_BYTES = 10  # of a number of 64 bits, seven in each


def varint(value: int) -> bytes:
    """A whole number, seven bits a byte, the lowest first; negative ones as their 64 bits.

    >>> varint(300).hex()
    'ac02'
    """
    value &= (1 << 64) - 1
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def whole(field: int, value: int) -> bytes:
    """A field that is a whole number."""
    return varint(field << 3 | VARINT) + varint(value)


def real(field: int, value: float) -> bytes:
    """A field that is a float of 32 bits."""
    return varint(field << 3 | FIXED32) + struct.pack("<f", value)


def opening(field: int, length: int) -> bytes:
    """The beginning of a field whose bytes, so many, are written after it."""
    return varint(field << 3 | LENGTH) + varint(length)


def part(field: int, value: bytes | str) -> bytes:
    """A field that is a text, bytes, or a message."""
    data = value.encode() if isinstance(value, str) else value
    return opening(field, len(data)) + data


@dataclass(frozen=True)
class Field:
    """A field that was read: `value` of a number, `start` to `stop` of bytes, which are left where they are."""

    number: int
    kind: int
    value: int
    start: int
    stop: int


def fields(data: memoryview, start: int, stop: int, where: object) -> Iterator[Field]:
    """The fields of a message, none of them unfolded; `CheckpointError` where one is none or goes beyond the end."""
    while start < stop:
        tag, start = read_varint(data, start, stop, where)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, start = read_varint(data, start, stop, where)
            yield Field(number, kind, value, start, start)
            continue
        if kind == LENGTH:
            size, start = read_varint(data, start, stop, where)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise damaged(where, f"at byte {start:,} stands no field of a message")
        if size > stop - start:
            raise damaged(where, f"a part at byte {start:,} has {size:,} bytes, of which {stop - start:,} are there")
        value = int.from_bytes(data[start : start + size], "little") if kind != LENGTH else 0
        yield Field(number, kind, value, start, start + size)
        start += size


def signed(value: int) -> int:
    """A number of 64 bits with its sign."""
    return value - (1 << 64) if value >> 63 else value


def damaged(where: object, why: str) -> CheckpointError:
    """What is raised of a file that cannot be followed."""
    return CheckpointError(f"{where}: no whole ONNX file: {why}", "export or download it again")


def read_varint(data: memoryview, start: int, stop: int, where: object) -> tuple[int, int]:
    """(a number, where it ends)."""
    found = 0
    for i in range(MOST_BYTES):
        if start + i >= stop:
            raise damaged(where, f"it ends at byte {stop:,}, in the middle of a number")
        byte = data[start + i]
        found |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return found & ((1 << 64) - 1), start + i + 1
    raise damaged(where, f"at byte {start:,} stands no number")
