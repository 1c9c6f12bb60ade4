"""The errors that edgekd raises on purpose. The command line turns each into one line and an exit status."""

import difflib
from collections.abc import Iterable


class EdgekdError(Exception):
    """Base class of all errors that edgekd raises on purpose. The message says what is wrong, the value, and what to
    do. Each argument is one line of it; most errors have one."""

    exit_status = 2

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)

    def __str__(self) -> str:
        return "\n".join(self.args)


class InputError(EdgekdError):
    """Wrong usage, data, file or configuration: exit status 2."""


class GateError(EdgekdError):
    """The model failed a gate, for instance `check`, `verify` or a threshold of `evaluate`: exit status 1."""

    exit_status = 1


class MissingExtraError(EdgekdError):
    """An optional dependency is not installed: exit status 2.

    Args:
        what: the package that could not be imported.
        extra: the extra of edgekd that installs it.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed; install it with: pip install 'edgekd[{extra}]'")


TRAINING_PACKAGES = frozenset(
    {"torch", "lightning", "brevitas", "tensorboard", "sklearn", "rich", "torchinfo", "soundfile", "soxr"}
)
"""Packages of the extra "train" that commands import without a check. A device has few of them."""


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """The error for a training package that is not installed; None if another module is missing, which is a bug."""
    package = (error.name or "").partition(".")[0]
    return MissingExtraError(package, "train") if package in TRAINING_PACKAGES else None


def nearest(name: str, allowed: Iterable[str]) -> str:
    """A hint for a mistyped name: `"; did you mean 'X'?"`, or the allowed names if none is similar."""
    names = list(allowed)
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; allowed: {', '.join(sorted(names))}"
