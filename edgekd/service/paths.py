"""The paths of the service's files, in this system or below the root directory of another one, and how they are
written."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekd.errors import InputError
from edgekd.files import atomic_write, held, sync_folder
from edgekd.runtime.source.sound_cards import LISTENER_UNIT

UNIT = LISTENER_UNIT
TEMPLATES = Path(__file__).parent / "unit_files"
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""Folders that ProtectHome= and PrivateTmp= hide from the service."""
INSTALL_FOLDER = "/opt/edgekd"
"""The recommended environment of edgekd for a service."""
BACKOFF_SINCE = 254
"""First version of systemd that can lengthen the time between restarts."""
BACKOFF = "RestartSteps=6\nRestartMaxDelaySec=2min"
SAFE_PATH = re.compile(r"/[\w./+@-]+")
"""Path of an interpreter, in characters without a special meaning in a unit file."""
LIBRARY = re.compile(r"libsystemd-shared-(\d+)")


class ServicePaths:
    """A root directory and the paths below it. Links may not lead out of it."""

    def __init__(self, root: Path) -> None:
        """root: "/" or a directory with the files of another system.

        Raises:
            InputError: it does not exist, or holds no system.
        """
        self.root = root.absolute()
        if not (root / "etc").is_dir():
            what = "has no directory etc" if root.is_dir() else "no such directory"
            raise InputError(f"{root}: {what}; give the root directory of a system")
        self.unit = self._below("etc/systemd/system") / UNIT
        self.wanted = self._below("etc/systemd/system/multi-user.target.wants") / UNIT
        self.users = self._below("etc/sysusers.d") / "edgekd.conf"
        self.modes = self._below("etc/tmpfiles.d") / "edgekd.conf"
        self.configuration = self._below("etc/edgekd")
        self.config = self.configuration / "listen.toml"
        self.state = self._below("var/lib/edgekd")
        self.models = self._below("var/lib/edgekd/models")

    def _below(self, folder: str) -> Path:
        path = self.root / folder
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise InputError(f"{path}: leads out of {self.root} to {path.resolve()}; make the link a relative one")
        return path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from changing the service inside the `with` block. Creates the folder of models.

        Raises:
            InputError: another process is changing it.
        """
        make_folder(self.models)
        try:
            with held(self.models):
                yield
        except BlockingIOError:
            raise InputError(f"{self.models}: another 'edgekd service' works there; wait for its end") from None

    def systemd_version(self) -> int:
        """Version of the systemd below the root; 0 where it is unknown."""
        libraries = [
            *self.root.glob("usr/lib/systemd/libsystemd-shared-*"),
            *self.root.glob("usr/lib/*/systemd/libsystemd-shared-*"),
            *self.root.glob("lib/systemd/libsystemd-shared-*"),
        ]
        return max(
            (int(found[1]) for found in map(LIBRARY.match, (path.name for path in libraries)) if found), default=0
        )

    def unit_text(self, python: str) -> str:
        """The unit file. python: path of the interpreter, as the service sees it.

        Raises:
            InputError: a path that the service cannot see, or that a unit file cannot hold.
        """
        if not SAFE_PATH.fullmatch(python):
            raise InputError(
                f"{python}: not an absolute path of letters, digits and ./+@-_, which a unit needs; {install_hint()}"
            )
        require_visible(python)
        backoff = f"{BACKOFF}\n" if self.systemd_version() >= BACKOFF_SINCE else ""
        return template(UNIT).replace("@PYTHON@", python).replace("@BACKOFF@\n", backoff)


def require_visible(*paths: str) -> None:
    """Refuse paths that the service could not see.

    Args:
        paths: absolute.

    Raises:
        InputError: one of them is hidden from the service.
    """
    for path in paths:
        hidden = next((each for each in HIDDEN if Path(path).is_relative_to(each)), None)
        if hidden is not None:
            raise InputError(f"{path} lies below {hidden}, which the service cannot see; {install_hint()}")


def install_hint() -> str:
    """How to install edgekd where a service can see it."""
    return (
        f"install edgekd for all users: sudo python3 -m venv {INSTALL_FOLDER} && "
        f"sudo {INSTALL_FOLDER}/bin/pip install 'edgekd[pi]', "
        f"then sudo {INSTALL_FOLDER}/bin/edgekd service install MODEL"
    )


def template(name: str) -> str:
    """The text of a file in `unit_files`."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def make_folder(folder: Path) -> None:
    """Create a folder and its parents where they do not exist. Everybody may read them, whatever the umask is."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir()
        folder.chmod(0o755)


def write(path: Path, content: bytes, mode: int) -> None:
    """Write a file that appears complete or not at all. Its folder is created.

    Args:
        path: replaced if it exists.
        content: the whole file.
        mode: permissions, whatever the umask is.
    """
    make_folder(path.parent)
    atomic_write(path, content, mode=mode, durable=True)


def link(path: Path, target: str) -> None:
    """Point a link to `target`. A process that follows it finds the old or the new target at any moment. A file at
    `path` is replaced.

    Raises:
        InputError: a directory is at `path`.
    """
    if path.is_dir() and not path.is_symlink():
        raise InputError(f"{path}: is a directory and must be a link; move it away")
    make_folder(path.parent)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)  # left by a process that was killed
    new.symlink_to(target)
    new.replace(path)
    sync_folder(path.parent)
