"""`edgekd export --card` and `edgekd info --card`: gathers what a model card tells; `evaluate.card` knows how it
looks."""

from collections.abc import Sequence
from pathlib import Path

from edgekd.complexity import gate
from edgekd.complexity.check import DEFAULT_TARGET
from edgekd.complexity.counts import count_model
from edgekd.complexity.reports.formatting import number
from edgekd.complexity.target import load_target
from edgekd.errors import InputError, MissingExtraError
from edgekd.modelfile.container import read_manifest
from edgekd.report.model_card import BudgetRow, CountRow, card

SUFFIX = ".md"


def card_of(files: Sequence[Path], target: str = DEFAULT_TARGET) -> str:
    """The card of model files that hold the same student in one precision; what they cost is counted on the first.

    Raises:
        InputError: no manifest, a damaged file, or an unknown target.
    """
    judge = load_target(target)
    counts: list[CountRow] = []
    budgets: list[BudgetRow] = []
    try:
        counted = count_model(files[0])
    except MissingExtraError:  # a device without the extra "check" still gets the rest
        pass
    else:
        counts = [
            (name, each.macs, each.params, each.param_bytes)
            for name, each in counted.conventions.items()
            if each is not None
        ]
        budgets = [
            (each.name, number(each.value), number(each.limit), each.status)
            for each in gate.check_counts(counted, judge).budgets
        ]
    return card(read_manifest(files[0]), [path.name for path in files], counts, budgets, judge.name)


def card_path(folder: Path, name: str, precision: str) -> Path:
    """Where the card of exported files stands: beside them."""
    return folder / f"{name}.{precision}{SUFFIX}"


def write_card(path: Path, files: Sequence[Path]) -> Path:
    """Write the card of files; its place.

    Raises:
        InputError: as `card_of`, or a place that cannot be written.
    """
    text = card_of(files)
    try:
        path.write_bytes(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another --out") from None
    return path
