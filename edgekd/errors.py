"""The one tree of errors that edgekd raises on purpose; the command line turns each into one line and an exit
status."""

import difflib
from collections.abc import Iterable


class EdgekdError(Exception):
    """Base of every deliberate error. The message says what was wrong, the value got, and what to do."""

    exit_status = 2


class InputError(EdgekdError):
    """Bad usage, data, file or configuration: exit status 2."""


class GateError(EdgekdError):
    """A gate (check, verify, a threshold of evaluate) judged against the model: exit status 1."""

    exit_status = 1


class MissingExtraError(EdgekdError):
    """An optional dependency is not installed: exit status 2.

    Args:
        what: the package that could not be imported.
        extra: the edgekd extra that brings it.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed; install it with: pip install 'edgekd[{extra}]'")


TRAINING_PACKAGES = frozenset(
    {"torch", "lightning", "brevitas", "tensorboard", "sklearn", "rich", "torchinfo", "soundfile", "soxr"}
)
"""Packages of the extra "train" that commands import at once; a device has few of them."""


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """The error to show when a training package is not installed; None where another module is missing, which is a
    bug."""
    package = (error.name or "").partition(".")[0]
    return MissingExtraError(package, "train") if package in TRAINING_PACKAGES else None


def nearest(name: str, allowed: Iterable[str]) -> str:
    """A hint for a mistyped name: `"; did you mean 'X'?"`, or the allowed names when nothing is near."""
    names = list(allowed)
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; allowed: {', '.join(sorted(names))}"
