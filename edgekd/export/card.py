"""`edgekd export --card` and `edgekd info --card`: gathers the contents of a model card, which `report.model_card`
formats. No torch here."""

from collections.abc import Sequence
from pathlib import Path

from edgekd.complexity import gate
from edgekd.complexity.check import DEFAULT_TARGET
from edgekd.complexity.counts import count_model
from edgekd.complexity.reports.formatting import number
from edgekd.complexity.target import load_target
from edgekd.errors import MissingExtraError
from edgekd.files import output_file
from edgekd.modelfile.container import read_manifest
from edgekd.report.model_card import BudgetRow, CountRow, card

SUFFIX = ".md"


def card_of(files: Sequence[Path], target: str = DEFAULT_TARGET) -> str:
    """The card of model files that hold the same student in one precision. Its complexity is that of the first file.

    Raises:
        InputError: no manifest, a damaged file, or an unknown target.
        MissingExtraError: PyYAML is not installed.
    """
    limits = load_target(target)
    counts: list[CountRow] = []
    budgets: list[BudgetRow] = []
    try:
        counted = count_model(files[0])
    except MissingExtraError:  # without the extra "check" the card has no counts
        pass
    else:
        counts = [
            (name, each.macs, each.params, each.param_bytes)
            for name, each in counted.conventions.items()
            if each is not None
        ]
        budgets = [
            (each.name, number(each.value), number(each.limit), each.status)
            for each in gate.check_counts(counted, limits).budgets
        ]
    return card(read_manifest(files[0]), [path.name for path in files], counts, budgets, limits.name)


def card_path(folder: Path, name: str, precision: str) -> Path:
    """Path of the card of exported files, in their folder."""
    return folder / f"{name}.{precision}{SUFFIX}"


def write_card(path: Path, files: Sequence[Path]) -> Path:
    """Write the card of files, and return its path.

    Raises:
        InputError: see `card_of`; the path cannot be written.
    """
    text = card_of(files)
    with output_file(path, "--out") as part:
        part.write_bytes(text.encode("utf-8", "backslashreplace"))
    return path
