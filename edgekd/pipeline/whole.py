"""Files that are seen whole or not at all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekd.errors import InputError


@contextmanager
def whole_file(path: Path, option: str) -> Iterator[Path]:
    """A place beside path to write to, which takes path's place when the block ends, and goes where it fails.

    Args:
        path: what is there is replaced; folders above it are made.
        option: that named it, for instance "--csv".

    Raises:
        InputError: the place can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as partial:
            whole = Path(partial) / path.name
            yield whole
            whole.replace(path)
    except OSError as error:
        raise unwritable(path, error, option) from None


def unwritable(path: Path, error: OSError, option: str) -> InputError:
    """What is said of a place that can't be written."""
    return InputError(f"{path} cannot be written ({error.strerror}); choose another {option}")
