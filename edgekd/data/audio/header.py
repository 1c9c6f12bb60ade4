"""What the header of an audio file says of the file's size: whether the file is cut off, and what to put in place of a
size that a stream's writer never filled in.

libsndfile shortens a file that is cut off without an error, and finds no samples behind some of the unknown sizes. Only
the standard library is needed here.
"""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from edgekd.errors import InputError

UNKNOWN_SIZE = 0x7F000000
"""32-bit sizes from this one on stand for "unknown": the writer streamed the file. SoX writes 0x7F000000 into aiff and
0x7FFFF000 into wav, arecord 0x80000000, ffmpeg 0xFFFFFFFF."""
UNKNOWN_LONG_SIZE = 1 << 62
"""The same for 64-bit sizes, of which -1 is the usual one."""
SLACK_BYTES, SLACK = 64, 0.01
"""Bytes, and share, by which a size in a header may be too large: some writers are not exact."""
MOST_CHUNKS = 1000
"""Chunks that are looked at; a file with more is not followed further."""
OGG_PAGE_BYTES = 27 + 255 + 255 * 255
"""The longest page."""
OGG_HEADER_BYTES = 27
"""Of a page, before the lengths of its segments."""
MP3_HEAD_BYTES = 64
"""From the first frame on; the table of its encoder begins within."""

Order = Literal["little", "big"]


class Header(NamedTuple):
    """What a header says. size: bytes that the file should have; None where it does not say. slack: bytes by which
    `size` may be too large, at least; 0 where it is exact. repairs: (offset, bytes) to read in place of those in the
    file."""

    size: int | None
    slack: int = SLACK_BYTES
    repairs: tuple[tuple[int, bytes], ...] = ()

    def is_cut_off(self, size: int) -> bool:
        """Whether a file of `size` bytes is shorter than the header says."""
        if self.size is None:
            return False
        return self.size - size > (max(self.slack, self.size * SLACK) if self.slack else 0)


def open_repaired(path: Path) -> BinaryIO | None:
    """Check an audio file's header, and open the file where its header needs a repair.

    Returns:
        The file with a repaired header; None where the file is read as it is.

    Raises:
        InputError: the file is empty, or shorter than its header says.
        OSError, ValueError: it cannot be opened.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0 and not file.read(1):
            raise InputError(f"{path}: the file is empty (0 bytes)")
        header = read_header(file, size)
    if header.is_cut_off(size):
        raise InputError(f"{path}: is cut off, {size:,} of {header.size:,} bytes are here; download or copy it again")
    return RepairedFile(path, header.repairs) if header.repairs else None  # type: ignore[return-value]


def read_header(file: BinaryIO, size: int) -> Header:
    """The header of an open file of `size` bytes; one of an unknown kind says nothing."""
    magic = _at(file, 0, 4)
    if magic in READERS:
        return READERS[magic](file, size)
    if magic[:3] == b"ID3" or (magic[:1] == b"\xff" and magic[1:2] >= b"\xe0"):
        return _mp3(file, size)
    return Header(None)


class RepairedFile(io.RawIOBase):
    """A file for reading, with other bytes in some places."""

    def __init__(self, path: Path, repairs: tuple[tuple[int, bytes], ...]) -> None:
        super().__init__()
        self._file, self._repairs = path.open("rb", buffering=0), repairs

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        """As of any file, with the repairs."""
        view = memoryview(buffer).cast("B")
        first = self._file.tell()
        count = self._file.readinto(view) or 0
        for offset, repair in self._repairs:
            begin, end = max(first, offset), min(first + count, offset + len(repair))
            if begin < end:
                view[begin - first : end - first] = repair[begin - offset : end - offset]
        return count

    def close(self) -> None:
        """As of any file."""
        self._file.close()
        super().close()


def _riff(file: BinaryIO, size: int) -> Header:
    """wav: "RIFF", bytes that follow, "WAVE", chunks."""
    total = _number(file, 4, 4, "little")
    begin, length = _chunk(file, b"data", size)
    if length == 0 and begin < size and not _holds_chunks(file, begin, size):
        return Header(None, repairs=((4, b"\xff" * 4), (begin - 4, b"\xff" * 4)))
    if begin < total + 8 and total < UNKNOWN_SIZE:
        return Header(total + 8)
    return Header(begin + length if 0 < length < UNKNOWN_SIZE else None)


def _rf64(file: BinaryIO, size: int) -> Header:
    """rf64: a wav whose sizes are 64-bit numbers in its chunk "ds64"."""
    sizes, _ = _chunk(file, b"ds64", size)
    begin, _ = _chunk(file, b"data", size)
    total, length = (_number(file, sizes + offset, 8, "little") for offset in (0, 8))
    if begin < size and not 0 < length < UNKNOWN_LONG_SIZE:
        return Header(
            None,
            repairs=((sizes, _long(size - 8)), (sizes + 8, _long(size - begin)), (begin - 4, b"\xff" * 4)),
        )
    return Header(total + 8 if 0 < total < UNKNOWN_LONG_SIZE else begin + length)


def _w64(file: BinaryIO, _size: int) -> Header:
    """w64: a 16-byte identity, the size of the file. libsndfile takes an unknown one for the file's own."""
    total = _number(file, 16, 8, "little")
    return Header(total if total < UNKNOWN_LONG_SIZE else None)


def _aiff(file: BinaryIO, _size: int) -> Header:
    """aiff: "FORM", bytes that follow. libsndfile takes an unknown size for the file's own."""
    total = _number(file, 4, 4, "big")
    return Header(total + 8 if total < UNKNOWN_SIZE else None)


def _au(file: BinaryIO, size: int, order: Order = "big") -> Header:
    """au: ".snd", where the samples begin, their bytes, of which 0xFFFFFFFF is unknown."""
    begin, length = (_number(file, offset, 4, order) for offset in (4, 8))
    if length == 0 and begin < size:
        return Header(None, repairs=((8, b"\xff" * 4),))
    return Header(begin + length if length < UNKNOWN_SIZE else None)


def _caf(file: BinaryIO, size: int) -> Header:
    """caf: chunks with 64-bit sizes, of which the last, "data", may be -1."""
    begin, length = _chunk(file, b"data", size, first=8, width=8, order="big", pad=1)
    if begin < size and not 0 < length < UNKNOWN_LONG_SIZE:
        return Header(None, repairs=((begin - 8, _long(size - begin, "big")),))
    return Header(begin + length if length < UNKNOWN_LONG_SIZE else None)


def _ogg(file: BinaryIO, size: int) -> Header:
    """ogg: pages, which say their length. No header has that of the file; a file that is cut off ends in a page."""
    tail = _at(file, max(0, size - OGG_PAGE_BYTES), OGG_PAGE_BYTES)
    page = tail.rfind(b"OggS\0")
    if page < 0:
        return Header(None)
    begin, last = size - len(tail) + page, tail[page:]
    segments = last[OGG_HEADER_BYTES:][: last[OGG_HEADER_BYTES - 1]] if len(last) >= OGG_HEADER_BYTES else b""
    return Header(begin + OGG_HEADER_BYTES + len(segments) + sum(segments), slack=0)


def _mp3(file: BinaryIO, _size: int) -> Header:
    """mp3: perhaps a tag, then frames. The first one holds a table of its encoder, which may have the bytes of all."""
    tag = _at(file, 0, 10)
    begin = 0
    if tag[:3] == b"ID3" and len(tag) == 10:
        begin = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    frame = _at(file, begin, MP3_HEAD_BYTES)
    table = max(frame.find(b"Xing"), frame.find(b"Info"))
    if table < 0 or len(frame) < table + 8:
        return Header(None)
    has_frames, has_bytes = frame[table + 7] & 1, frame[table + 7] & 2
    return Header(begin + _number(file, begin + table + 8 + 4 * has_frames, 4, "big") if has_bytes else None)


READERS: dict[bytes, Callable[[BinaryIO, int], Header]] = {
    b"RIFF": _riff,
    b"RF64": _rf64,
    b"riff": _w64,
    b"FORM": _aiff,
    b".snd": _au,
    b"dns.": lambda file, size: _au(file, size, "little"),
    b"caff": _caf,
    b"OggS": _ogg,
}
"""First bytes of a file -> the function that reads its header."""


def _at(file: BinaryIO, offset: int, count: int) -> bytes:
    """Bytes of a file, fewer at its end."""
    file.seek(offset)
    return file.read(count)


def _number(file: BinaryIO, offset: int, width: int, order: Order) -> int:
    return int.from_bytes(_at(file, offset, width), order)


def _long(number: int, order: Order = "little") -> bytes:
    return number.to_bytes(8, order)


def _chunk(
    file: BinaryIO,
    name: bytes,
    size: int,
    *,
    first: int = 12,
    width: int = 4,
    order: Order = "little",
    pad: int = 2,
) -> tuple[int, int]:
    """Where the body of the first chunk of a name begins, and its length; the end of the file and 0 without one."""
    for found, begin, length in _chunks(file, first, size, width, order, pad):
        if found == name:
            return begin, length
    return size, 0


def _chunks(
    file: BinaryIO, offset: int, size: int, width: int = 4, order: Order = "little", pad: int = 2
) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and length of each chunk from an offset on. width: bytes of a length. pad: lengths are rounded up to
    a multiple."""
    for _ in range(MOST_CHUNKS):
        if offset + 4 + width > size:
            return
        head = _at(file, offset, 4 + width)
        begin, length = offset + 4 + width, int.from_bytes(head[4:], order)
        yield head[:4], begin, length
        offset = begin + -(-length // pad) * pad


def _holds_chunks(file: BinaryIO, offset: int, size: int) -> bool:
    """Whether all bytes from an offset on are chunks with names, and no samples."""
    end = offset
    for name, begin, length in _chunks(file, offset, size):
        if not (name.isascii() and name.decode().isprintable()):
            return False
        end = begin + length
    return size - 1 <= end <= size + 1
