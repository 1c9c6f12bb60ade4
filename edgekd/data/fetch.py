"""`edgekd data fetch`: downloads a data set whose owner gives it to anybody, after its licence was accepted.

Which files there are, where, and their checksums is told by the owner's record, found by its DOI (pooch). A file that
was cut off goes on where it stopped; one that does not match its checksum is discarded. Archives are unpacked one after
the other and then deleted; an empty NAME.done beside them says that one needs nothing more.
"""

import errno
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.data.prepare import progress
from edgekd.data.sets.catalogue import KNOWN, Known
from edgekd.errors import InputError, MissingExtraError, nearest
from edgekd.files import held, in_use

ARCHIVES = "archives"
"""Folder inside the target for what is being downloaded."""
DONE = ".done"
BLOCK = 1 << 20
"""Bytes that are written at once, and that a broken connection may cost."""
TIMEOUT = (30.0, 120.0)
"""Seconds to connect, and between two blocks."""
GIGABYTE = 1e9
OK, PARTIAL, ALL_THERE = 200, 206, 416
"""HTTP status: the whole file, the rest of it, nothing beyond what is here."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Remote:
    """A file of a record. hash: algorithm:digits."""

    name: str
    url: str
    hash: str


def fetch(name: str, out: Path, accept: Callable[[str], bool], say: Say) -> Path:
    """Download and unpack a data set; called again for the same folder it goes on.

    Args:
        name: in the catalogue.
        out: the folder to fill.
        accept: told of the licence; False stops.
        say: takes lines for the user.

    Returns:
        the folder to prepare from.

    Raises:
        InputError: not to be had freely, licence not accepted, no connection, no space, a wrong checksum, another
            process at work there.
        KeyboardInterrupt: with how to go on.
        MissingExtraError: pooch is not installed.
    """
    known = _free(name)
    if not accept(
        f"{known.title}, by {known.owner}; licence: {known.licence}; its full text is in the record, doi {known.doi}"
    ):
        raise InputError(
            f"{name}: its licence ({known.licence}) was not accepted; nothing was downloaded. Read it in the record doi"
            f" {known.doi}, then add --accept-licence"
        )
    archives = out / ARCHIVES
    try:
        archives.mkdir(parents=True, exist_ok=True)
        if in_use(archives, unknown=False):
            raise InputError(f"{out} is being filled by another edgekd process; wait for it or choose another --out")
    except OSError as error:
        raise InputError(f"{out} cannot be made: {error.strerror}; choose another --out") from None
    with held(archives):
        try:
            _fill(known, out, archives, say)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{out}: interrupted; what came is kept, the same command goes on") from None
    inside = [folder for folder in sorted(out.glob("*/")) if folder.name != ARCHIVES]
    return inside[0] if len(inside) == 1 else out


def _fill(known: Known, out: Path, archives: Path, say: Say) -> None:
    """Download and unpack what is not there yet."""
    wanted = [remote for remote in listing_of(known.doi) if not (archives / (remote.name + DONE)).exists()]
    sizes = [size_of(remote) for remote in wanted]
    _check_space(out, archives, wanted, sizes)
    for number, (remote, size) in enumerate(zip(wanted, sizes, strict=True), start=1):
        say(f"{number} of {len(wanted)}: {remote.name}, {size / GIGABYTE:.2f} GB")
        file = download(remote, archives, size)
        _unpack(file, out)
        (archives / (remote.name + DONE)).touch()
        file.unlink(missing_ok=True)


def _free(name: str) -> Known:
    """What is known of a data set that may be downloaded."""
    if name not in KNOWN:
        raise InputError(f"no data set '{name}'{nearest(name, KNOWN)}")
    known = KNOWN[name]
    if not known.doi:
        raise InputError(
            f"'{name}' is {known.title}: there is nothing to download; go on with edgekd data prepare {name} PATH"
        )
    if not known.free:
        raise InputError(
            f"{known.title} cannot be downloaded from here: it comes from {known.owner} (doi {known.doi}); get it"
            f" there, unpack it, then: edgekd data prepare {name} FOLDER"
        )
    return known


def listing_of(doi: str) -> list[Remote]:
    """The files of a record.

    Raises:
        InputError: no connection, or no such record.
        MissingExtraError: pooch is not installed.
    """
    try:
        import pooch
        from pooch.downloaders import doi_to_repository
        from requests import RequestException
    except ImportError as error:
        raise MissingExtraError(error.name or "pooch", "datasets") from None
    try:
        repository = doi_to_repository(doi)
        box = pooch.create(path=ARCHIVES, base_url="")
        repository.populate_registry(box)
        return [Remote(name, repository.download_url(name), known) for name, known in box.registry.items()]
    except (RequestException, ValueError) as error:
        raise InputError(
            f"the record doi {doi} cannot be read ({type(error).__name__}); check the network and try again"
        ) from None


def size_of(remote: Remote) -> int:
    """Bytes of a file, 0 where its server does not say.

    Raises:
        InputError: no connection.
    """
    import requests

    try:
        answer = requests.head(remote.url, allow_redirects=True, timeout=TIMEOUT)
        answer.raise_for_status()
    except requests.RequestException as error:
        raise InputError(
            f"{remote.name} cannot be reached ({type(error).__name__}); check the network; the same command goes on"
        ) from None
    return int(answer.headers.get("Content-Length", 0))


def _check_space(out: Path, archives: Path, wanted: Sequence[Remote], sizes: Sequence[int]) -> None:
    """Refuse where what is left to download, unpacked, and one archive beside it do not fit. Audio hardly shrinks in
    archives."""
    have = sum(_part(archives, remote).stat().st_size for remote in wanted if _part(archives, remote).exists())
    needed = sum(sizes) + max(sizes, default=0) - have
    free = shutil.disk_usage(out).free
    if needed > free:
        raise InputError(
            f"{out}: about {needed / GIGABYTE:.1f} GB are needed and {free / GIGABYTE:.1f} GB are free; free some or"
            " choose another --out; the same command goes on"
        )


def _part(archives: Path, remote: Remote) -> Path:
    return archives / (remote.name + ".part")


def download(remote: Remote, archives: Path, size: int) -> Path:
    """Bring a file into a folder, from where an earlier try stopped, and check it.

    Args:
        remote: the file.
        archives: the folder.
        size: bytes, for the progress bar.

    Raises:
        InputError: the connection broke or the disk is full (what came is kept), or the checksum is wrong (it is
            discarded).
    """
    import pooch
    import requests

    part = _part(archives, remote)

    def resume(url: str, target: str, _: object) -> None:
        have = part.stat().st_size if part.exists() else 0
        with requests.get(
            url, stream=True, timeout=TIMEOUT, headers={"Range": f"bytes={have}-"} if have else {}
        ) as answer:
            if not (have and answer.status_code == ALL_THERE):
                answer.raise_for_status()
                mode = "ab" if answer.status_code == PARTIAL else "wb"
                with part.open(mode) as file, progress("downloading MiB", size // BLOCK) as step:
                    for block in answer.iter_content(BLOCK):
                        file.write(block)
                        step()
        part.replace(target)

    pooch.get_logger().setLevel("ERROR")
    try:
        return Path(
            pooch.retrieve(remote.url, known_hash=remote.hash, fname=remote.name, path=archives, downloader=resume)
        )
    except requests.RequestException as error:
        raise InputError(
            f"{remote.name}: the connection broke ({type(error).__name__}); what came is kept, the next try goes on"
        ) from None
    except ValueError:
        raise InputError(
            f"{remote.name}: what came does not match the published checksum {remote.hash} and was discarded; run "
            "the same command again, and if it fails again tell the owner of the data set"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"{archives}: the disk is full; what came is kept: free some space, and the same command goes on"
        ) from None


def _unpack(file: Path, out: Path) -> None:
    """Unpack a zip or a tar, as it stands, into a folder; anything else is moved there.

    Raises:
        InputError: damaged, or the disk is full.
    """
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as packed:
                packed.extractall(out)
        elif tarfile.is_tarfile(file):
            with tarfile.open(file) as rolled:
                rolled.extractall(out, filter="data")
        else:
            shutil.move(file, out / file.name)
    except (zipfile.BadZipFile, tarfile.TarError, OSError) as error:
        raise InputError(
            f"{file} cannot be unpacked into {out} ({error}); free space or delete it; the same command goes on"
        ) from None
