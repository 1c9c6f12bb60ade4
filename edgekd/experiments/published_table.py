"""A published table and how it is measured here: one TOML file for each table in `reproductions/`. No torch here.

Rows of the same recipe, settings and teachers are scored on the same runs. So one run that trains stages gives several
rows: its teachers, the systems beside it and its back-end are in its folder.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgekd.errors import InputError
from edgekd.resources import find, read_toml

FIGURES = ("accuracy", "macro_accuracy", "log_loss", "params", "macs")
SHARES = frozenset({"accuracy", "macro_accuracy"})
"""Figures from 0 to 1."""
COUNTS = frozenset({"params", "macs"})
"""Figures of a network, equal in all of its runs."""
PART = re.compile(r"(teachers|beside)/[\w.-]+(/(teachers|beside)/[\w.-]+)*")
"""Folder of a stage inside a run."""
Fraction = Annotated[float, Meta(ge=0, le=1)]
AtLeastOne = Annotated[int, Meta(ge=1)]


class PaperFigures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The figures that a paper gives for a system; None where it gives none. Accuracies and log loss are of clips, as
    the paper counts them."""

    accuracy: Fraction | None = None
    macro_accuracy: Fraction | None = None
    """Mean over labels."""
    log_loss: Annotated[float, Meta(ge=0)] | None = None
    """Nats."""
    params: AtLeastOne | None = None
    macs: AtLeastOne | None = None
    """Of one inference, by torchinfo: a bias counts at each output position, batch norms are not folded."""


class TableData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The data set of a table, what a store keeps of it, and what is known of it before it is downloaded."""

    set: str
    """Its name in `edgekd data prepare`."""
    options: dict[str, Any] = {}
    """Options of its adapter, for instance {subset = 25}."""
    sample_rate: AtLeastOne
    """Of the store, Hz."""
    channels: AtLeastOne = 1
    """Of the store."""
    train: AtLeastOne
    """Clips to train on; of one fold where there are folds."""
    test: AtLeastOne
    """Clips to test on; of one fold where there are folds."""
    clips: AtLeastOne
    """Of the whole set, which is all prepared."""
    counted: bool = True
    """false: the counts above are a guess."""
    seconds: Annotated[float, Meta(gt=0)]
    """Length of a clip."""
    labels: Annotated[int, Meta(ge=2)]
    segments: AtLeastOne = 1
    """Clips of each recording."""
    file_rate: AtLeastOne = 48000
    """Of the published files, Hz."""
    file_channels: AtLeastOne = 1


class TableRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A system of the table."""

    label: str
    """Unique in the table."""
    recipe: str = ""
    """Name of a recipe; "" only with `mean_of` or `not_reproduced`."""
    set: tuple[str, ...] = ()
    """"key=value" settings of the recipe."""
    teachers: Literal["recipe", "none"] = "recipe"
    """"none": labels alone, without any stage."""
    teachers_of: str = ""
    """Label of an earlier row. The [[teachers]] in its runs teach this row too, so that none are trained again."""
    part: str = ""
    """Folder of the run that is scored: "" for the run itself, "teachers/NAME" or "beside/NAME"."""
    network: Literal["float", "qat"] = "float"
    """Network that the paper scores: the float network, or the quantised one."""
    judge: Literal["network", "svm", "svm_sum"] = "network"
    """What predicts the label. "svm": the support vector machine on the embedding of `part`. "svm_sum": the sum of the
    scores of all machines of the run."""
    mean_of: tuple[str, ...] = ()
    """Labels of earlier rows: the mean of their probabilities is scored, and nothing is trained."""
    not_reproduced: str = ""
    """Why nothing can be trained or scored for this row; the paper's figures stand alone."""
    paper: PaperFigures = PaperFigures()
    source: str = ""
    """Where the paper gives them, for instance "Table 3"."""

    @property
    def trained(self) -> bool:
        """Whether the row has runs of its own."""
        return bool(self.recipe)

    @property
    def key(self) -> str:
        """Equal for all rows of the same runs."""
        return msgspec.json.encode((self.recipe, self.set, self.teachers, self.teachers_of)).decode()


class PublishedTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of a paper."""

    title: str
    paper: str
    """Authors, year and venue."""
    notes: tuple[str, ...] = ()
    """Known differences from the paper, and what the paper leaves open; printed with the table."""
    data: TableData
    folds: tuple[str, ...] = ()
    """Splits that are each tested once by networks trained on the others; figures are means over them. Empty: the
    recipes' own splits."""
    figures: tuple[str, ...] = ("accuracy",)
    """Of `FIGURES`; measured in each row, whether or not the paper gives them."""
    rows: tuple[TableRow, ...]

    def row(self, label: str) -> TableRow:
        """The row of a label, which must exist."""
        return next(row for row in self.rows if row.label == label)


def load_table(name_or_path: str) -> PublishedTable:
    """Read a shipped table by name, or any table by path.

    Raises:
        InputError: no such file, unknown or mistyped keys, or rows that contradict each other.
    """
    path = find(name_or_path, "reproductions")
    table = read_toml(path, PublishedTable)
    if not any(row.trained for row in table.rows):
        raise InputError(f"{path}: has no [[rows]] with a recipe; add one")
    for figure in table.figures:
        if figure not in FIGURES:
            raise InputError(f"{path}: figures: '{figure}' is unknown; give some of {', '.join(FIGURES)}")
    if len(set(table.folds)) != len(table.folds) or len(table.folds) == 1:
        raise InputError(f"{path}: folds = {list(table.folds)}: name at least two, each once, or none")
    earlier: dict[str, TableRow] = {}
    for row in table.rows:
        _check(row, earlier, f"{path}: row '{row.label}'")
        earlier[row.label] = row
    return table


def _check(row: TableRow, earlier: Mapping[str, TableRow], where: str) -> None:
    if row.label in earlier:
        raise InputError(f"{where}: another row has this label; give one of them another label")
    for label in (*row.mean_of, *([row.teachers_of] if row.teachers_of else [])):
        if label not in earlier:
            raise InputError(f"{where}: names '{label}', which is no row before it; change their order or the name")
    if sum(map(bool, (row.recipe, row.mean_of, row.not_reproduced))) != 1:
        raise InputError(f"{where}: wants a recipe, mean_of or not_reproduced; give exactly one of them")
    if row.not_reproduced and row.paper == PaperFigures():
        raise InputError(
            f"{where}: is not reproduced and has no figure of the paper; give one in paper, or remove the row"
        )
    if any(earlier[label].judge != "network" or not earlier[label].trained for label in row.mean_of):
        raise InputError(f'{where}: mean_of is of networks\' probabilities; name rows with judge = "network"')
    if row.part and not PART.fullmatch(row.part):
        raise InputError(f"{where}: part '{row.part}' is no stage of a run; write teachers/NAME or beside/NAME")
    if row.judge != "network" and row.paper.log_loss is not None:
        raise InputError(f"{where}: scores of support vector machines are no probabilities; leave log_loss out")
    if row.teachers_of and (row.teachers == "none" or not earlier[row.teachers_of].trained):
        raise InputError(
            f"{where}: teachers_of and teachers = \"none\" contradict each other, or '{row.teachers_of}' trains nothing"
        )
