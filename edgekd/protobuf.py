"""Reads and writes protobuf messages, of which .onnx files consist, and numbers ONNX's fields. Standard library only,
no protobuf package."""

from collections.abc import Iterator, Sequence

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf."""
FIXED_SIZES = {FIXED64: 8, FIXED32: 4}
MAX_VARINT_BYTES = 10
MAX_FIELD_NUMBER = 2**29 - 1
"""Protobuf's limit. Some readers drop the higher bits and would read another field."""
MAX_FIELDS = 2**16
"""Most fields of one protobuf message. A graph with more nodes is not a model for a small device, and each node costs
memory and time to read."""

INT64_MASK, INT64_SIGN = 2**64 - 1, 2**63
"""Protobuf writes a negative number as one of 64 bits without a sign."""

MODEL_GRAPH, MODEL_METADATA, MODEL_FUNCTIONS = 7, 14, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_SPARSE = 1, 5, 11, 12, 15
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OPERATOR, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 3, 4, 5, 7
ATTRIBUTE_NAME, ATTRIBUTE_INTEGERS = 1, (3, 8)
TENSOR_DIMS, TENSOR_TYPE, TENSOR_INT64, TENSOR_NAME, TENSOR_RAW, TENSOR_EXTERNAL = 1, 2, 7, 8, 9, (13, 14)
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, TENSOR_ELEMENT, TENSOR_SHAPE, SHAPE_DIM, DIM_VALUE = 1, 2, 1, 1, 2, 1, 1
TENSOR_DOCUMENTATION, VALUE_DOCUMENTATION = 12, 3
"""Field numbers in ONNX's messages."""

Span = tuple[int, int]


class DamagedError(Exception):
    """A file is damaged. The message does not name the file; callers add its path."""


class Message:
    """A protobuf message in `raw`. Fields that occur more than once are read as by protobuf: merged, or the last
    one."""

    def __init__(self, raw: bytes, spans: Sequence[Span]) -> None:
        self.raw = raw
        self._found: dict[int, list[tuple[int, Span]]] = {}
        for span in spans:
            for number, start, payload, end in fields(raw, *span):
                self._found.setdefault(number, []).append((raw[start] & 7, (payload, end)))

    def __contains__(self, number: int) -> bool:
        return number in self._found

    def spans(self, number: int) -> list[Span]:
        """(start, end) of the payloads of a field: texts, bytes or messages."""
        found = self._found.get(number, [])
        if any(wire != LENGTH_DELIMITED for wire, _ in found):
            raise ValueError(f"field {number} of a message has wire type {found[0][0]}")
        return [span for _, span in found]

    def each(self, number: int) -> Iterator["Message"]:
        """The messages of a repeated field."""
        return (Message(self.raw, [span]) for span in self.spans(number))

    def merged(self, number: int) -> "Message":
        """The message of a field that is not repeated."""
        return Message(self.raw, self.spans(number))

    def texts(self, number: int) -> list[str]:
        """The texts of a repeated field; UnicodeDecodeError, a ValueError, where one is not UTF-8."""
        return [self.raw[start:end].decode() for start, end in self.spans(number)]

    def text(self, number: int) -> str:
        """The text of a field that is not repeated; "" where it is absent."""
        return (self.texts(number) or [""])[-1]

    def integers(self, number: int) -> list[int]:
        """The int64 numbers of a field, packed or one by one."""
        numbers = []
        for wire, (start, end) in self._found.get(number, []):
            position = start
            if wire not in (VARINT, LENGTH_DELIMITED):
                raise ValueError(f"field {number} of a message has wire type {wire}")
            while position < end:
                value, position = read_varint(self.raw, position)
                numbers.append(_signed(value))
        return numbers


def _signed(value: int) -> int:
    """An unsigned number of 64 bits as a signed one."""
    value &= INT64_MASK
    return value - 2 * INT64_SIGN if value >= INT64_SIGN else value


def field(number: int, payload: bytes) -> bytes:
    """Bytes of one length-delimited protobuf field."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    """Bytes of a number in protobuf's variable length."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def fields(raw: bytes, position: int = 0, stop: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """Fields of the protobuf message in `raw[position:stop]`, each as (number, start of the field, start of its
    payload, end of its payload).

    Raises:
        DamagedError: cut off, invalid, or more than `MAX_FIELDS` of them.
    """
    stop, count = len(raw) if stop is None else stop, 0
    while position < stop:
        start, count = position, count + 1
        if count > MAX_FIELDS:
            raise DamagedError(f"more than {MAX_FIELDS:,} fields in one message")
        tag, position = read_varint(raw, position)
        wire, number = tag & 7, tag >> 3
        payload = position
        if wire == VARINT:
            _, position = read_varint(raw, position)
        elif wire == LENGTH_DELIMITED:
            length, payload = read_varint(raw, position)
            position = payload + length
        elif wire in FIXED_SIZES:
            position += FIXED_SIZES[wire]
        else:
            raise DamagedError(f"wire type {wire} at byte {start}")
        if not 0 < number <= MAX_FIELD_NUMBER or position > stop:
            raise DamagedError(f"field {number} at byte {start} of {stop} is cut off or garbled")
        yield number, start, payload, position


def read_varint(raw: bytes, position: int) -> tuple[int, int]:
    """The number of variable length at a position, and the position after it.

    Raises:
        DamagedError: cut off or invalid.
    """
    value = 0
    for index, byte in enumerate(raw[position : position + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    raise DamagedError(f"number at byte {position} of {len(raw)} is cut off or garbled")
