"""The output folder of an experiment, which one process at a time works in and which belongs to one question.

DIR/plan.json holds what the folder was made for. DIR/recipes/ holds the recipe of every run, DIR/runs/ the run folders,
DIR/jobs/ what they printed. No torch here.
"""

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekd.errors import InputError
from edgekd.files import PART, atomic_write, held, in_use

PLAN_FILE, RECIPES_FOLDER, RUNS_FOLDER, JOBS_FOLDER = "plan.json", "recipes", "runs", "jobs"
FORMAT, VERSION = "edgekd-experiment", 2
"""Of plan.json. Version 1, which wrote no number, named runs by other hashes of their recipes."""
SHOWN_CHARACTERS = 16
"""Of a value in a message; hashes are longer."""


@contextmanager
def experiment_folder(out: Path, identity: Mapping[str, str]) -> Iterator[None]:
    """Make an output folder, or take one that was made for the same identity, and lock it for this process.

    Args:
        out: the folder.
        identity: what must not change between two commands in one folder, by name, for instance {"store": HASH}.

    Raises:
        InputError: the folder holds something else, was made for another identity, is used by another process, or
            cannot be written.
    """
    check_folder(out, identity)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if in_use(out, unknown=False):
            raise InputError(f"{out} is in use by another edgekd process; wait for it or choose another --out")
    except OSError as error:
        raise InputError(f"{out} cannot be made ({error.strerror}); choose another --out") from None
    with held(out):
        try:
            document = {"format": FORMAT, "version": VERSION, **identity}
            atomic_write(out / PLAN_FILE, json.dumps(document, indent=2).encode() + b"\n")
        except OSError as error:
            raise InputError(
                f"{out} cannot be written ({error.strerror}); free space or choose another --out"
            ) from None
        yield


def check_folder(out: Path, identity: Mapping[str, str]) -> None:
    """Check that `experiment_folder` can take a folder, without changing anything.

    Raises:
        InputError: see `experiment_folder`.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; choose another --out")
    if not out.is_dir() or all(child.name.endswith(PART) for child in out.iterdir()):
        return
    earlier = read_identity(out)
    for name in [*identity, *earlier]:
        if earlier.get(name) != identity.get(name):
            old, new = (each.get(name, "none")[:SHOWN_CHARACTERS] for each in (earlier, identity))
            raise InputError(
                f"{out}: was started with another {name} ({old}, now {new}); repeat the command with the earlier"
                " value, remove the folder, or choose another --out"
            )


def read_identity(out: Path, option: str = "--out") -> dict[str, str]:
    """What the runs of a folder have in common, by name, as `experiment_folder` wrote it.

    Raises:
        InputError: no such folder, or one of another version.
    """
    try:
        raw: Any = json.loads((out / PLAN_FILE).read_bytes())
        if raw.pop("format") != FORMAT:
            raise ValueError
        version = raw.pop("version", 1)
        identity = {str(name): str(value) for name, value in raw.items()}
    except (OSError, ValueError, KeyError, AttributeError):
        raise InputError(f"{out} is not empty and no folder of a crossval or sweep; choose another {option}") from None
    if version == 1:
        command = identity.get("command", "crossval")
        raise InputError(
            f"{out}: made by an earlier version of edgekd, whose runs do not mix with new ones; remove the folder and"
            f" make it again with: edgekd {command} ... --out {shlex.quote(str(out))}"
        )
    if version != VERSION:
        raise InputError(
            f"{out / PLAN_FILE}: version {version!r} is unknown (this edgekd reads {VERSION}); update edgekd or choose"
            f" another {option}"
        )
    return identity
