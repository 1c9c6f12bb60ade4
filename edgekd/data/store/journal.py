"""What a writer keeps beside the audio of a store in the making: one line per clip that is in the audio, in its order.

A line is written after the clip's audio. It holds the key of what the clip was made from, its samples and a hash of its
PCM, so that the next writer can tell what of the audio is whole and still wanted. A torn or damaged line ends the
journal.
"""

import errno
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

LINE = re.compile(rb"([0-9a-f]{32}) ([1-9][0-9]{0,15}) ([0-9a-f]{32})\n")
DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """A clip in the audio. key: of its source, 32 hex digits; samples: per channel; digest: of its PCM."""

    key: str
    samples: int
    digest: bytes


class Journal:
    """The journal of one folder, read when it is opened.

    Attributes:
        entries: clips found, then added.
    """

    def __init__(self, path: Path) -> None:
        self.entries: list[Entry] = []
        self._ends = [0]
        self._file = path.open("a+b", buffering=0)
        self._file.seek(0)
        for line in self._file.readall().splitlines(keepends=True):
            match = LINE.fullmatch(line)
            if match is None:
                break
            self._note(Entry(match[1].decode(), int(match[2]), bytes.fromhex(match[3].decode())), len(line))
        self._file.truncate(self._ends[-1])

    def add(self, entry: Entry) -> None:
        """Append a clip; its audio has left this process.

        Raises:
            OSError: it cannot be written.
        """
        line = f"{entry.key} {entry.samples} {entry.digest.hex()}\n".encode()
        if self._file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._note(entry, len(line))

    def cut(self, count: int) -> None:
        """Forget all but the first `count` clips."""
        self._file.truncate(self._ends[count])
        del self.entries[count:], self._ends[count + 1 :]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _note(self, entry: Entry, length: int) -> None:
        self.entries.append(entry)
        self._ends.append(self._ends[-1] + length)


def digest(raw: bytes) -> bytes:
    """What tells one clip's audio from another's."""
    return hashlib.blake2b(raw, digest_size=DIGEST_BYTES).digest()
