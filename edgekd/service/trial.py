"""Verifies a model of unknown origin in a process of its own, without root's rights.

A verb of the service runs as root, and an engine is much code that reads a stranger's file. So the engine runs as the
user of the service. A model that ends the process, or never ends it, is refused like any other.
"""

import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgekd.errors import GateError, InputError
from edgekd.service.paths import install_hint, write

USERS = ("edgekd", "nobody")
"""The user of the service, and who takes its place on a machine that only prepares the root of another one."""
PUBLIC_FOLDER = "/tmp"
"""Every user may enter it."""
PASSED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "QEMU_CPU")
"""Environment variables that the process gets: none with a secret. The last names the processor of an emulated board;
the integers of another one may differ."""
LIMIT_S = 120.0
"""Longest wait, seconds; the slowest board needs a few."""
MAX_MESSAGE_BYTES = 4096
OURS = "edgekd: "
"""Start of the line of an error that edgekd raises on purpose."""


def verify(content: bytes, named: Path) -> None:
    """Check that a model reproduces its golden vectors here.

    Args:
        content: bytes of the file.
        named: the file that errors name, with its suffix.

    Raises:
        InputError: a file that cannot be opened or has no golden vectors, or a process that does not end as it should.
        GateError: it computes something else than where it was exported.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-", dir=PUBLIC_FOLDER) as folder, tempfile.TemporaryFile() as errors:
        copy = Path(folder) / f"model{named.suffix}"
        write(copy, content, 0o644)
        copy.parent.chmod(0o711)
        command = [sys.executable, "-P", "-s", "-m", "edgekd.cli", "verify", str(copy)]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd="/",
                env={name: os.environ[name] for name in PASSED if name in os.environ},
                timeout=LIMIT_S,
                start_new_session=True,
                check=False,
                **_identity(),
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"{named}: not verified within {LIMIT_S:g} s; give another model") from None
        except PermissionError:
            raise InputError(
                f"{sys.executable}: only root may run it, and a model is verified without root's rights;"
                f" {install_hint()}"
            ) from None
        if not done.returncode:
            return
        size = errors.seek(0, os.SEEK_END)
        errors.seek(max(size - MAX_MESSAGE_BYTES, 0))
        lines = errors.read().decode(errors="replace").strip().splitlines()
    last = lines[-1] if lines else ""
    if done.returncode < 0:
        raise InputError(f"{named}: the engine was ended by signal {-done.returncode}; give another model")
    if not last.startswith(OURS):
        raise InputError(
            f"{named}: not verified, because its process failed ({last or 'no message'}); {install_hint()}"
        )
    error = GateError if done.returncode == GateError.exit_status else InputError
    raise error(last.removeprefix(OURS).replace(str(copy), str(named)))


def _identity() -> dict[str, Any]:
    """Arguments of a process with the rights of the service's user; none where this process is not root's.

    Raises:
        InputError: this machine has no such user.
    """
    if os.geteuid() != 0:
        return {}
    for name in USERS:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    raise InputError(f"no user {' or '.join(USERS)} is here, and a model is not verified as root; add one of them")
