"""Finds the audio files below a folder: one walk for `data prepare folder`, `predict`, `equalise` and submissions.

Symbolic links to folders are followed. Each folder is read once, those of the tree itself before those that links lead
to, so that no loop and no mesh of links is walked for ever. What is left out is told.
"""

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgekd.data.audio.decode import AUDIO_SUFFIXES, is_audio
from edgekd.errors import InputError

VIDEO = {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".mts", ".webm"}
VIDEO |= {".3g2", ".wmv"}
COMPRESSED = {".aac", ".ac3", ".adts", ".alac", ".amr", ".ape", ".awb", ".dts", ".eac3", ".m4a", ".m4b", ".mka", ".mp2"}
COMPRESSED |= {".mpa", ".mpc", ".mpga", ".ra", ".rm", ".shn", ".tak", ".tta", ".weba", ".wma", ".wv"}
UNCOMPRESSED = {".dff", ".dsf", ".gsm", ".nist", ".pcm", ".raw", ".sph", ".voc"}
NOT_READ = frozenset(VIDEO | COMPRESSED | UNCOMPRESSED)
"""Suffixes of formats that hold audio and are not read."""
SYSTEM_FOLDERS = frozenset({"__MACOSX", "lost+found", "System Volume Information", "$RECYCLE.BIN", "@eaDir"})
"""Folders that unpackers, disks and file servers make, besides hidden ones."""
CONVERT = "convert them to flac or wav, for instance: ffmpeg -i clip{} clip.flac"


@dataclass(frozen=True)
class AudioTree:
    """What is below a folder. Paths begin with that folder; all are sorted.

    Attributes:
        files: audio files.
        not_read: files of formats that hold audio and are not read.
        broken: the reason for each link, folder or file that cannot be looked into, by its path.
        skipped: the reason for each folder that is not read, because it is read by another path.
        folders: all folders that were read.
    """

    files: tuple[Path, ...]
    not_read: tuple[Path, ...] = ()
    broken: tuple[tuple[Path, str], ...] = ()
    skipped: tuple[tuple[Path, str], ...] = ()
    folders: tuple[Path, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """A line for each of `broken`, and one for all of `not_read`."""
        counts = (f"{suffix_counts(self.not_read)}, not read; {convert_hint(self.not_read)}",) if self.not_read else ()
        return (*counts, *(f"{path}: {reason}" for path, reason in self.broken))

    @property
    def left_out(self) -> tuple[str, ...]:
        """The lines of `missing`, and one for each of `skipped`."""
        return (*self.missing, *(f"{path}: {reason}" for path, reason in self.skipped))


def audio_files(path: Path) -> AudioTree:
    """The audio files of a folder and all its subfolders in the order of their paths, or the one file given.

    Raises:
        InputError: nothing is there, or a folder without audio.
    """
    if path.is_file():
        return AudioTree((path,))
    if not path.is_dir():
        raise InputError(f"{path} does not exist; give a folder of audio files")
    found = walk(path)
    if not found.files:
        why = f"; left out: {found.left_out[0]}" if found.left_out else "; give a folder of recordings"
        raise InputError(f"{path} holds no audio file ({', '.join(AUDIO_SUFFIXES)}){why}")
    return found


def walk(folder: Path) -> AudioTree:
    """What is below a folder, without hidden files and folders and without those of `SYSTEM_FOLDERS`."""
    files: list[Path] = []
    not_read: list[Path] = []
    broken: dict[Path, str] = {}
    skipped: dict[Path, str] = {}
    read: dict[tuple[int, int], Path] = {}  # (device, inode) -> the path that it was read by

    def unreadable(error: OSError) -> None:
        broken[Path(error.filename)] = f"cannot be read ({error.strerror}); change its permissions or move it away"

    pending = [folder]
    while pending:
        top = pending.pop(0)
        if top != folder and _holds_itself(top):
            skipped[top] = "is a link to a folder that holds it; not followed"
            continue
        for place, inside, names in os.walk(top, onerror=unreadable):
            here = Path(place)
            found = here.stat()
            same = read.setdefault((found.st_dev, found.st_ino), here)
            if same != here:
                skipped[here] = f"holds what {same} holds; not read again"
                inside.clear()
                continue
            if not os.access(here, os.X_OK):
                unreadable(PermissionError(errno.EACCES, os.strerror(errno.EACCES), place))
                inside.clear()
                continue
            inside[:] = sorted(name for name in inside if not _ignored(name))
            pending += [path for path in map(here.joinpath, inside) if path.is_symlink()]  # os.walk leaves these
            for path in (here / name for name in names if not _ignored(name)):
                if not is_audio(path) and not is_not_read(path) and not path.is_symlink():
                    continue
                if reason := _not_a_file(path):
                    broken[path] = reason
                elif is_audio(path):
                    files.append(path)
                elif is_not_read(path):
                    not_read.append(path)
    return AudioTree(
        tuple(sorted(files)),
        tuple(sorted(not_read)),
        tuple(sorted(broken.items())),
        tuple(sorted(skipped.items())),
        tuple(sorted(read.values())),
    )


def is_not_read(path: Path) -> bool:
    """Whether a file has the suffix of a format that holds audio and is not read, and is not hidden."""
    return path.suffix.lower() in NOT_READ and not path.name.startswith(".")


def suffix_counts(files: Iterable[Path]) -> str:
    """How many files have each suffix, the most frequent first: "30 .m4a, 2 .wma"."""
    counts = Counter(file.suffix.lower() for file in files)
    return ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common())


def convert_hint(files: Iterable[Path]) -> str:
    """How to make files readable that are not read."""
    return CONVERT.format(Counter(file.suffix.lower() for file in files).most_common(1)[0][0])


def _ignored(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_FOLDERS


def _holds_itself(link: Path) -> bool:
    """Whether a link leads to a folder that the link is in, directly or not."""
    return link.parent.resolve().is_relative_to(link.resolve())


def _not_a_file(path: Path) -> str:
    """Why a path is not a file to read, "" where it is one."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        where = f"is a link to {path.readlink()}, which " if path.is_symlink() else ""
        return f"{where}cannot be read ({error.strerror}); mount or copy what is missing, or remove it"
    return "" if stat.S_ISREG(mode) else "is not a regular file; move it away"
