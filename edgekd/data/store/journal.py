"""The journal of an unfinished store: one line for each clip whose audio was written, in the order of the audio.

A line is appended after the clip's audio. It holds the key of the clip's source, its number of samples and a hash of
its PCM, so that the next writer can check which audio is complete and still wanted. Reading stops at the first damaged
line.
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
class JournalEntry:
    """A clip whose audio was written.

    Attributes:
        key: of its source, 32 hex digits.
        samples: per channel.
        digest: of its PCM.
    """

    key: str
    samples: int
    digest: bytes


class Journal:
    """The journal in one file, which is created where it does not exist.

    Attributes:
        entries: those in the file, then those added.
    """

    def __init__(self, path: Path) -> None:
        self.entries: list[JournalEntry] = []
        self._ends = [0]
        self._file = path.open("a+b", buffering=0)
        self._file.seek(0)
        for line in self._file.readall().splitlines(keepends=True):
            match = LINE.fullmatch(line)
            if match is None:
                break
            self._append(JournalEntry(match[1].decode(), int(match[2]), bytes.fromhex(match[3].decode())), len(line))
        self._file.truncate(self._ends[-1])

    def add(self, entry: JournalEntry) -> None:
        """Append a clip whose audio this process has written.

        Raises:
            OSError: the line cannot be written.
        """
        line = f"{entry.key} {entry.samples} {entry.digest.hex()}\n".encode()
        if self._file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._append(entry, len(line))

    def truncate(self, count: int) -> None:
        """Remove all entries after the first `count`."""
        self._file.truncate(self._ends[count])
        del self.entries[count:], self._ends[count + 1 :]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, entry: JournalEntry, length: int) -> None:
        self.entries.append(entry)
        self._ends.append(self._ends[-1] + length)


def digest(raw: bytes) -> bytes:
    """A hash of 16 bytes, to compare the audio of clips."""
    return hashlib.blake2b(raw, digest_size=DIGEST_BYTES).digest()
