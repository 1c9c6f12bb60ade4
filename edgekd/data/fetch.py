"""`edgekd data fetch`: downloads a data set that anybody may download, once its licence is accepted. `download` serves
`edgekd weights fetch`, too.

The owner's record, found by its DOI (pooch), lists the files, their addresses and checksums. An incomplete file is
resumed; one that does not match its checksum is discarded. Each archive is unpacked and then deleted; an empty file
NAME.done in the same folder marks it as done.
"""

import errno
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.data.prepare import Log, progress
from edgekd.data.sets.metadata import DATA_SETS, DataSetInfo
from edgekd.errors import InputError, MissingExtraError, nearest
from edgekd.files import held, in_use

ARCHIVES = "archives"
"""Folder, inside the target folder, for downloads."""
DONE = ".done"
BLOCK = 1 << 20
"""Bytes written at once: the most that a broken connection can lose."""
TIMEOUT = (30.0, 120.0)
"""Seconds to connect, and between two blocks."""
GIGABYTE = 1e9
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416
"""HTTP status of a resumed file: the rest follows; there is no rest."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a record. hash: "algorithm:hex digits", None where no checksum is known."""

    name: str
    url: str
    hash: str | None


def fetch(name: str, out: Path, accept: Callable[[str], bool], log: Log) -> Path:
    """Download and unpack a data set; called again for the same folder it resumes.

    Args:
        name: in `DATA_SETS`.
        out: the folder to fill.
        accept: called with a line about the licence; False stops.
        log: receives lines for the user.

    Returns:
        the folder to prepare from.

    Raises:
        InputError: the data set cannot be downloaded freely, the licence was not accepted, no connection, no space, a
            wrong checksum, or another process fills the folder.
        KeyboardInterrupt: its message names the way to resume.
        MissingExtraError: pooch is not installed.
    """
    known = _downloadable(name)
    if not accept(
        f"{known.title}, by {known.owner}; licence: {known.licence}; its full text is in the record, doi {known.doi}"
    ):
        raise InputError(
            f"{name}: its licence ({known.licence}) was not accepted; nothing was downloaded. Read it in the record doi"
            f" {known.doi}, then add --accept-licence"
        )
    archives = out / ARCHIVES
    with filled(archives, out, "choose another --out"):
        _fill(known, out, archives, log)
    inside = [folder for folder in sorted(out.glob("*/")) if folder.name != ARCHIVES]
    return inside[0] if len(inside) == 1 else out


@contextmanager
def filled(folder: Path, shown: Path, other: str) -> Iterator[None]:
    """Make a folder and lock it while the block downloads into it.

    Args:
        folder: for the downloads.
        shown: how errors name it.
        other: how to choose another folder.

    Raises:
        InputError: it cannot be written, or another process fills it.
        KeyboardInterrupt: of the block, with a message that names the way to resume.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if in_use(folder, unknown=False):
            raise InputError(f"{shown} is being filled by another edgekd process; wait for it or {other}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise InputError(f"{shown} cannot be written ({error.strerror}); {other}") from None
    with held(folder):
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{shown}: interrupted; downloaded parts are kept, the same command resumes"
            ) from None


def _fill(known: DataSetInfo, out: Path, archives: Path, log: Log) -> None:
    """Download and unpack the files that are not marked as done."""
    wanted = [remote for remote in files_of_record(known.doi) if not (archives / (remote.name + DONE)).exists()]
    sizes = [size_of(remote) for remote in wanted]
    _check_space(out, archives, wanted, sizes)
    for number, (remote, size) in enumerate(zip(wanted, sizes, strict=True), start=1):
        log(f"{number} of {len(wanted)}: {remote.name}, {size / GIGABYTE:.2f} GB")
        file = download(remote, archives, size)
        _unpack(file, out)
        (archives / (remote.name + DONE)).touch()
        file.unlink(missing_ok=True)


def _downloadable(name: str) -> DataSetInfo:
    """The description of a data set that anybody may download."""
    if name not in DATA_SETS:
        raise InputError(f"no data set '{name}'{nearest(name, DATA_SETS)}")
    known = DATA_SETS[name]
    if not known.doi:
        raise InputError(
            f"'{name}' is {known.title}: there is nothing to download; use it with edgekd data prepare {name} PATH"
        )
    if not known.free:
        raise InputError(
            f"{known.title} cannot be downloaded from here: it comes from {known.owner} (doi {known.doi}); get it"
            f" there, unpack it, then: edgekd data prepare {name} FOLDER"
        )
    return known


def _libraries() -> tuple[Any, Any]:
    """The packages pooch and requests."""
    try:
        import pooch
        import requests
    except ImportError as error:
        raise MissingExtraError(error.name or "pooch", "datasets") from None
    return pooch, requests


def files_of_record(doi: str) -> list[RemoteFile]:
    """The files of a record.

    Raises:
        InputError: no connection, or no such record.
        MissingExtraError: pooch is not installed.
    """
    pooch, requests = _libraries()
    from pooch.downloaders import doi_to_repository

    try:
        repository = doi_to_repository(doi)
        downloads = pooch.create(path=ARCHIVES, base_url="")
        repository.populate_registry(downloads)
        return [RemoteFile(name, repository.download_url(name), known) for name, known in downloads.registry.items()]
    except (requests.RequestException, ValueError) as error:
        raise InputError(
            f"the record doi {doi} cannot be read ({type(error).__name__}); check the network and try again"
        ) from None


def size_of(remote: RemoteFile) -> int:
    """Bytes of a file, 0 where its server does not report them.

    Raises:
        InputError: no connection.
    """
    _, requests = _libraries()
    try:
        response = requests.head(remote.url, allow_redirects=True, timeout=TIMEOUT)
        response.raise_for_status()
    except requests.RequestException as error:
        raise InputError(
            f"{remote.name} cannot be reached ({type(error).__name__}); check the network; the same command resumes"
        ) from None
    return int(response.headers.get("Content-Length", 0))


def _check_space(out: Path, archives: Path, wanted: Sequence[RemoteFile], sizes: Sequence[int]) -> None:
    """Refuse where the disk cannot hold the unpacked files and one archive. Audio is hardly smaller in archives."""
    present = sum(_part(archives, remote).stat().st_size for remote in wanted if _part(archives, remote).exists())
    needed = sum(sizes) + max(sizes, default=0) - present
    free = shutil.disk_usage(out).free
    if needed > free:
        raise InputError(
            f"{out}: about {needed / GIGABYTE:.1f} GB are needed and {free / GIGABYTE:.1f} GB are free; free some or"
            " choose another --out; the same command resumes"
        )


def _part(archives: Path, remote: RemoteFile) -> Path:
    return archives / (remote.name + ".part")


def download(remote: RemoteFile, archives: Path, size: int) -> Path:
    """Download a file into a folder, resuming an earlier try, and check it.

    Args:
        remote: the file.
        archives: the folder.
        size: bytes, for the progress bar.

    Returns:
        the downloaded file.

    Raises:
        InputError: the connection broke or the disk is full (the downloaded part is kept), or the checksum is wrong
            (the file is discarded).
    """
    pooch, requests = _libraries()
    part = _part(archives, remote)

    def resume(url: str, target: str, _: object) -> None:
        present = part.stat().st_size if part.exists() else 0
        with requests.get(
            url, stream=True, timeout=TIMEOUT, headers={"Range": f"bytes={present}-"} if present else {}
        ) as response:
            if not (present and response.status_code == RANGE_NOT_SATISFIABLE):
                response.raise_for_status()
                mode = "ab" if response.status_code == PARTIAL_CONTENT else "wb"
                with part.open(mode) as file, progress("downloading MiB", size // BLOCK) as step:
                    for block in response.iter_content(BLOCK):
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
            f"{remote.name}: the connection broke ({type(error).__name__}); the downloaded part is kept, the same"
            " command resumes"
        ) from None
    except ValueError:
        raise InputError(
            f"{remote.name}: the file does not match the published checksum {remote.hash} and was discarded; run "
            "the same command again, and if it fails again, report it to the file's owner"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"{archives}: the disk is full; the downloaded part is kept: free some space, and the same command resumes"
        ) from None


def _unpack(file: Path, out: Path) -> None:
    """Unpack a zip or a tar into a folder; any other file is moved there.

    Raises:
        InputError: the archive is damaged, or the disk is full.
    """
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                archive.extractall(out)
        elif tarfile.is_tarfile(file):
            with tarfile.open(file) as tar:
                tar.extractall(out, filter="data")
        else:
            shutil.move(file, out / file.name)
    except (zipfile.BadZipFile, tarfile.TarError, OSError) as error:
        raise InputError(
            f"{file} cannot be unpacked into {out} ({error}); free space or delete it; the same command resumes"
        ) from None
