"""Published weights by name: where each file comes from, its licence and lineage, and where it is on this machine.

`weights.toml` is the list. A recipe names weights by a name in it or by a path (`find`). `edgekd.data.fetch_weights`
downloads a file into the user's cache folder.
"""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

import msgspec

from edgekd.errors import InputError, nearest
from edgekd.resources import convert, read_table

TABLE = Path(__file__).with_name("weights.toml")
FOLDER = "EDGEKD_WEIGHTS"
"""Environment variable: a folder of files under their published names. It is searched before the cache folder."""
CACHE = "XDG_CACHE_HOME"
"""Environment variable: the parent of the cache folders of all programs, ~/.cache by default."""
INSIDE_CACHE = Path("edgekd", "weights")


class PublishedWeights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of weights that its authors publish.

    Attributes:
        file: its published name.
        address: from where it is downloaded; "" where no address serves this very file.
        source: where its network is published instead, as the end of an error.
        sha256: 64 hex digits; "" where they are not known.
        bytes: its size; 0 where that is not known.
        licence: of the weights.
        lineage: who trained them, and on what.
        use: which network they are of.
    """

    file: str
    address: str = ""
    source: str = ""
    sha256: str = ""
    bytes: int = 0
    licence: str
    lineage: str
    use: str


def table() -> dict[str, PublishedWeights]:
    """Name -> what is known of a file."""
    return {name: convert(row, PublishedWeights, f"{TABLE}: [{name}]") for name, row in read_table(TABLE).items()}


def row(name: str) -> PublishedWeights:
    """What is known of the file of a name.

    Raises:
        InputError: no such name.
    """
    known = table()
    if name not in known:
        raise InputError(f"no published weights '{name}'{nearest(name, known)}")
    return known[name]


def find(name_or_path: str | Path) -> Path:
    """The file of weights that a recipe names.

    Args:
        name_or_path: a path, which is returned unchecked, or a name in `table`. A file of that name in the working
            folder comes before the table.

    Raises:
        InputError: no such file or name; the weights are not on this machine; damaged, see `check`.
    """
    text, known = str(name_or_path), table()
    try:
        if Path(text).is_file() or (text not in known and Path(text).exists()):
            return Path(text)
    except OSError as error:
        raise InputError(f"weights '{text}' cannot be read ({error.strerror}); give a path or a name") from None
    if text not in known:
        raise InputError(
            f"weights '{text}': no such file, and no such name in 'edgekd weights list'{nearest(text, known)}"
        )
    path = place(text)
    if path is None:
        raise InputError(f"weights '{text}': {known[text].file} is not on this machine; {how_to_get(text)}")
    return check(text, path)


def place(name: str) -> Path | None:
    """Where the file of a name is, unchecked: in the folder of `FOLDER`, else in the cache folder; None if in neither.

    Raises:
        InputError: no such name; `FOLDER` names no folder.
    """
    file = row(name).file
    if own := os.environ.get(FOLDER):
        if not Path(own).is_dir():
            raise InputError(f"{FOLDER}: '{own}' is not a folder; set it to a folder of weights, or unset it")
        if (Path(own) / file).is_file():
            return Path(own) / file
    return cache_folder() / file if (cache_folder() / file).is_file() else None


def check(name: str, path: Path) -> Path:
    """The path, after comparing its file with what is known of it: size first, then SHA-256.

    Raises:
        InputError: another file, or unreadable.
    """
    known = row(name)
    try:
        size = path.stat().st_size
        fits = size == (known.bytes or size) and (not known.sha256 or sha256(path) == known.sha256)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); make it readable") from None
    if not fits:
        raise InputError(
            f"{path}: damaged, or another file than the published one ({size:,} bytes; wanted are {known.bytes:,} of"
            f" SHA-256 {known.sha256[:8]}); delete it; {how_to_get(name)}"
        )
    return path


def fetch_command(name: str) -> str:
    """The command that downloads the file of a name."""
    return f"edgekd weights fetch {name}{'' if row(name).sha256 else ' --unverified'}"


def how_to_get(name: str) -> str:
    """The command that brings the file of a name, or where to get it, for the end of an error."""
    known = row(name)
    if known.address:
        return f"bring it with: {fetch_command(name)}"
    return (
        f"no address serves this {known.file}: put it into a folder that {FOLDER} names, or give the path of another"
        f" copy; {known.source}"
    )


def cache_folder() -> Path:
    """The folder of downloaded weights, which may not exist yet.

    Raises:
        InputError: the user has no home folder.
    """
    try:
        return Path(os.environ.get(CACHE) or Path.home() / ".cache") / INSIDE_CACHE
    except RuntimeError:
        raise InputError(f"there is no home folder for downloaded weights; set {FOLDER} to a folder of them") from None


def sha256(path: Path) -> str:
    """64 hex digits of a file. A file that does not change is hashed once in a process."""
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


@lru_cache
def _sha256(path: Path, _size: int, _changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
