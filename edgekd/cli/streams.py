"""The standard streams of a command line.

A stream that the caller has closed (`>&-`) leads to nowhere. Errors of standard output name it; those of the system do
not.
"""

import io
import os
import sys
from typing import Any

STDIN, STDOUT, STDERR = range(3)
STANDARD_OUTPUT = "standard output"
"""The file name in errors of standard output."""


class _NamedOutput(io.FileIO):
    """Standard output whose errors name it."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, STANDARD_OUTPUT) from None


def prepare_streams() -> None:
    """Open the streams that are closed, and name standard output in its errors. `sys.stdin` stays None where it was
    closed."""
    for stream in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(stream)
        except OSError:
            # the lowest free number, which is that of the stream; otherwise the next file to be opened gets it, and
            # native code prints into that file
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is None:  # `print` takes a file None for standard output
        sys.stderr = io.TextIOWrapper(io.FileIO(STDERR, "wb", closefd=False))
    if sys.stdout is sys.__stdout__:
        before, named = sys.stdout, _NamedOutput(STDOUT, "wb", closefd=False)
        unbuffered = before is not None and before.write_through
        sys.stdout = io.TextIOWrapper(
            named if unbuffered else io.BufferedWriter(named),
            encoding=None if before is None else before.encoding,
            line_buffering=before is not None and before.line_buffering,
            write_through=unbuffered,
        )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal cannot show


def close_output() -> None:
    """Lead standard output to nowhere, because what is still to be written would fail again at the end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, STDOUT)
    os.close(null)
