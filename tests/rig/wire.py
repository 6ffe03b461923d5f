"""Byte-level encoders for the raw peers: they write whatever a test asks for, also what no sane endpoint would.

Kept apart from moretta on purpose: an oracle must not share code with what it judges.
"""

from __future__ import annotations

from dataclasses import dataclass

FRAME_DATA = 0x00
FRAME_HEADERS = 0x01
FRAME_CANCEL_PUSH = 0x03
FRAME_SETTINGS = 0x04
FRAME_PUSH_PROMISE = 0x05
FRAME_GOAWAY = 0x07
FRAME_MAX_PUSH_ID = 0x0D

SETTING_QPACK_MAX_TABLE_CAPACITY = 0x01
SETTING_MAX_FIELD_SECTION_SIZE = 0x06
SETTING_QPACK_BLOCKED_STREAMS = 0x07
SETTING_ENABLE_CONNECT_PROTOCOL = 0x08
SETTING_H3_DATAGRAM = 0x33

H3_NO_ERROR = 0x100
H3_GENERAL_PROTOCOL_ERROR = 0x101
H3_INTERNAL_ERROR = 0x102
H3_STREAM_CREATION_ERROR = 0x103
H3_CLOSED_CRITICAL_STREAM = 0x104
H3_FRAME_UNEXPECTED = 0x105
H3_FRAME_ERROR = 0x106
H3_EXCESSIVE_LOAD = 0x107
H3_ID_ERROR = 0x108
H3_SETTINGS_ERROR = 0x109
H3_MISSING_SETTINGS = 0x10A
H3_REQUEST_REJECTED = 0x10B
H3_REQUEST_CANCELLED = 0x10C
H3_REQUEST_INCOMPLETE = 0x10D
H3_MESSAGE_ERROR = 0x10E
H3_CONNECT_ERROR = 0x10F
H3_DATAGRAM_ERROR = 0x33
QUIC_PROTOCOL_VIOLATION = 0x0A

MAX_VARINT = (1 << 62) - 1


def varint(value: int, size: int | None = None) -> bytes:
    """RFC 9000 section 16; `size` (1, 2, 4 or 8) pads the encoding beyond its shortest form."""
    if size is None:
        size = 1 if value < 1 << 6 else 2 if value < 1 << 14 else 4 if value < 1 << 30 else 8
    prefix = {1: 0, 2: 1, 4: 2, 8: 3}[size]
    return (value | prefix << (8 * size - 2)).to_bytes(size, "big")


def read_varint(data: bytes, offset: int = 0) -> tuple[int, int] | None:
    """The value and the offset behind it, or None where `data` ends too early."""
    if offset >= len(data):
        return None
    size = 1 << (data[offset] >> 6)
    if offset + size > len(data):
        return None
    value = int.from_bytes(data[offset : offset + size], "big") & ((1 << (8 * size - 2)) - 1)
    return value, offset + size


def frame(frame_type: int, payload: bytes = b"") -> bytes:
    return varint(frame_type) + varint(len(payload)) + payload


def settings(pairs: list[tuple[int, int]]) -> bytes:
    return frame(FRAME_SETTINGS, b"".join(varint(k) + varint(v) for k, v in pairs))


def capsule(
    capsule_type: int, value: bytes = b"", *, type_size: int | None = None, length_size: int | None = None
) -> bytes:
    return varint(capsule_type, type_size) + varint(len(value), length_size) + value


def datagram_capsule(payload: bytes, context: int = 0) -> bytes:
    return capsule(0x00, varint(context) + payload)


@dataclass(frozen=True)
class Capsule:
    type: int
    value: bytes


def read_capsules(data: bytes) -> list[Capsule]:
    """All complete capsules at the start of `data`."""
    found: list[Capsule] = []
    offset = 0
    while True:
        head = read_varint(data, offset)
        if head is None:
            return found
        length = read_varint(data, head[1])
        if length is None or length[1] + length[0] > len(data):
            return found
        end = length[1] + length[0]
        found.append(Capsule(head[0], data[length[1] : end]))
        offset = end


@dataclass(frozen=True)
class Frame:
    type: int
    payload: bytes


def read_frames(data: bytes) -> list[Frame]:
    """All complete frames at the start of `data`."""
    return [Frame(c.type, c.value) for c in read_capsules(data)]
