"""The models of the service: numbered versions in one folder, and a link to the one in use.

The folder holds files such as `0003-1a2b3c4d5e6f.tflite` and the link `current`. The number grows with each update, and
the rest is the start of the file's SHA-256. The listener reads only the linked version, so an update takes effect
exactly when the link changes.
"""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from edgekd.errors import InputError
from edgekd.files import remove_unfinished
from edgekd.modelfile.container import read_bytes
from edgekd.service import trial
from edgekd.service.paths import link, write

CURRENT = "current"
KEPT = 5
"""Versions, including the one in use."""
DIGEST = 12
"""Hexadecimal digits of a SHA-256."""
NAME = re.compile(rf"(\d{{4,}})-([0-9a-f]{{{DIGEST}}})\.(tflite|onnx)")


class Version(NamedTuple):
    """A kept version. number: from 1. digest: what its content should have."""

    number: int
    digest: str
    path: Path


def versions(models: Path) -> list[Version]:
    """All kept versions, the oldest first."""
    if not models.is_dir():
        return []
    matches = [NAME.fullmatch(path.name) for path in models.iterdir()]
    return sorted(Version(int(match[1]), match[2], models / match[0]) for match in matches if match)


def current(models: Path) -> Version | None:
    """The version in use; None where there is none.

    Raises:
        InputError: the link is damaged: it is not a link, or its target is not an intact version.
    """
    path = models / CURRENT
    if not path.is_symlink() and not path.exists():
        return None
    target = path.readlink() if path.is_symlink() else None
    found = next(
        (version for version in versions(models) if target is not None and str(target) == version.path.name), None
    )
    if found is None:
        what = "not a link" if target is None else f"a link to {target}, which is not a kept version"
        raise InputError(
            f"{path}: {what}; give a model to 'edgekd service update', or go back with 'edgekd service rollback'"
        )
    if not is_intact(found):
        raise InputError(
            f"{found.path}: not the bytes that were verified; give the model to 'edgekd service update' again, or go"
            " back with 'edgekd service rollback'"
        )
    return found


def is_intact(version: Version) -> bool:
    """Whether a version still has the bytes that were verified."""
    try:
        return digest(read_bytes(version.path)) == version.digest
    except InputError:
        return False


def intact_current(models: Path) -> Version | None:
    """As `current`, but None if the link is damaged."""
    try:
        return current(models)
    except InputError:
        return None


def digest(content: bytes) -> str:
    """The start of the SHA-256 of a file's bytes."""
    return hashlib.sha256(content).hexdigest()[:DIGEST]


def add(models: Path, file: Path) -> Version:
    """Verify a model and keep the same bytes as the newest version. The link does not change.

    Args:
        models: the folder.
        file: .tflite or .onnx.

    Raises:
        InputError: unreadable, or refused.
        GateError: refused.
    """
    content = read_bytes(file)
    trial.verify(content, file)
    remove_unfinished(models)  # left by a process that was killed
    number = max((version.number for version in versions(models)), default=0) + 1
    kept = Version(number, digest(content), models / f"{number:04d}-{digest(content)}{file.suffix}")
    write(kept.path, content, 0o644)
    return kept


def use(models: Path, version: Version) -> None:
    """Point the link to a version."""
    link(models / CURRENT, version.path.name)


def discard(version: Version) -> None:
    """Remove a version that is not in use."""
    version.path.unlink(missing_ok=True)


def prune(models: Path, before: Version | None, now: Version) -> None:
    """Remove versions that nobody can need again: those that a rollback has skipped, and the oldest beyond `KEPT`.

    Args:
        models: the folder.
        before: the version in use before `now`, None where it is not known.
        now: the newest version, which is in use.
    """
    for version in versions(models):
        if before is not None and before.number < version.number < now.number:
            discard(version)
    for version in versions(models)[:-KEPT]:
        discard(version)
