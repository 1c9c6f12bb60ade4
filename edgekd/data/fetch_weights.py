"""`edgekd weights fetch`: downloads published weights into the user's cache folder, once their licence is accepted."""

from collections.abc import Callable
from pathlib import Path

from edgekd.data import weights
from edgekd.data.fetch import RemoteFile, download, filled, size_of
from edgekd.data.prepare import Log
from edgekd.errors import InputError


def fetch(name: str, accept: Callable[[str], bool], log: Log, *, unverified: bool = False) -> Path:
    """Download a file of weights, unless it is on this machine. Called again it resumes, or replaces a damaged file.

    Args:
        name: in `edgekd.data.weights.table`.
        accept: called with a line about lineage and licence; False stops.
        log: receives lines for the user.
        unverified: also download a file whose checksum is not known.

    Returns:
        the file.

    Raises:
        InputError: no such name, no address, no known checksum, the licence was not accepted, the cache folder cannot
            be written, no connection, a wrong checksum, or another process fetches.
        KeyboardInterrupt: its message names the way to resume.
        MissingExtraError: pooch is not installed.
    """
    known, folder = weights.row(name), weights.cache_folder()
    present = _present(name, folder)
    if present is not None:
        log(f"{present} is there already")
        return present
    if not known.address:
        raise InputError(f"'{name}' cannot be downloaded: {weights.how_to_get(name)}")
    if not known.sha256 and not unverified:
        raise InputError(
            f"'{name}': no checksum of {known.file} is known, so that a changed file would not be noticed; download it"
            f" all the same with: {weights.fetch_command(name)}"
        )
    about = f"{known.file}: {known.use}. Lineage: {known.lineage}. Licence: {known.licence}. From {known.address}"
    if not accept(about):
        raise InputError(
            f"'{name}': its licence ({known.licence}) was not accepted; nothing was downloaded. Accept it with:"
            f" {weights.fetch_command(name)} --accept-licence"
        )
    remote = RemoteFile(known.file, known.address, f"sha256:{known.sha256}" if known.sha256 else None)
    with filled(folder, folder, f"set {weights.CACHE} to another folder"):
        path = download(remote, folder, size_of(remote))
    if not known.sha256:
        log(f"not verified: the SHA-256 of this {known.file} is {weights.sha256(path)}")
    return path


def _present(name: str, cache: Path) -> Path | None:
    """The file of a name, if there is one; None for a damaged one in the cache folder, which a download replaces."""
    path = weights.place(name)
    if path is None:
        return None
    try:
        return weights.check(name, path)
    except InputError:
        if path.parent != cache:
            raise
        return None
