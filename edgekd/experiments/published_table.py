"""A published table and how it is measured here: one TOML file a table in `reproductions/`. No torch here.

A table has rows; rows of the same recipe, settings and teachers are judged on the same runs. So a run that trains
stages gives several
rows: what its teachers, the systems beside it and its back-end do is taken out of its folder.
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
"""Figures in 0..1."""
COUNTS = frozenset({"params", "macs"})
"""Figures of a network, the same in all of its runs."""
PART = re.compile(r"(teachers|beside)/[\w.-]+(/(teachers|beside)/[\w.-]+)*")
"""Folder of a stage inside a run."""
Judge = Literal["network", "svm", "svm_sum"]
Fraction = Annotated[float, Meta(ge=0, le=1)]
AtLeastOne = Annotated[int, Meta(ge=1)]


class Figures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a paper says of a system; what it does not say is left out. Accuracies and log loss of clips, as the paper
    counts them."""

    accuracy: Fraction | None = None
    macro_accuracy: Fraction | None = None
    """Mean over labels."""
    log_loss: Annotated[float, Meta(ge=0)] | None = None
    """Nats."""
    params: AtLeastOne | None = None
    macs: AtLeastOne | None = None
    """Of one inference, by torchinfo: a bias counts at each output position, batch norms are not folded."""


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The data set, what is kept of it, and what is known of it before it is there."""

    set: str
    """Name of `edgekd data prepare`."""
    options: dict[str, Any] = {}
    """Of its adapter, e.g. {subset = 25}."""
    sample_rate: AtLeastOne
    """Hz of the store."""
    channels: AtLeastOne = 1
    """Of the store."""
    train: AtLeastOne
    """Clips trained on, of a fold where there are folds."""
    test: AtLeastOne
    """Clips tested on, likewise."""
    clips: AtLeastOne
    """Of the whole set, which are all prepared."""
    counted: bool = True
    """false: the counts above are a guess."""
    seconds: Annotated[float, Meta(gt=0)]
    """Of a clip."""
    labels: Annotated[int, Meta(ge=2)]
    segments: AtLeastOne = 1
    """Clips of each recording."""
    file_rate: AtLeastOne = 48000
    """Hz of the files."""
    file_channels: AtLeastOne = 1


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    """Label of an earlier row: its runs' [[teachers]] teach this row's too, instead of training such again."""
    part: str = ""
    """Which folder of the run is judged: the run itself, "teachers/NAME" or "beside/NAME"."""
    network: Literal["float", "qat"] = "float"
    """What the paper judges: the float network, or the quantised one."""
    judge: Judge = "network"
    """"svm": the support vector machine on the embedding of `part`, "svm_sum": the sum of all machines' scores of the
    run."""
    mean_of: tuple[str, ...] = ()
    """Labels of earlier rows: the mean of their probabilities is judged, and nothing is trained."""
    not_reproduced: str = ""
    """Why nothing can be trained or judged for it; the paper's figures stand alone."""
    paper: Figures = Figures()
    source: str = ""
    """Where the paper says so, e.g. "Table 3"."""

    @property
    def trained(self) -> bool:
        """Whether runs are made for it."""
        return bool(self.recipe)

    @property
    def key(self) -> str:
        """What all rows of the same runs share."""
        return msgspec.json.encode((self.recipe, self.set, self.teachers, self.teachers_of)).decode()


class Reproduction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table."""

    title: str
    paper: str
    """Who, when and where."""
    notes: tuple[str, ...] = ()
    """What is known to differ from the paper, and what it does not say; printed with the table."""
    data: Source
    folds: tuple[str, ...] = ()
    """Splits that take turns at being tested, all others of them being trained on; figures are means over them. None:
    the recipes' own splits."""
    figures: tuple[str, ...] = ("accuracy",)
    """Of `FIGURES`, measured in each row whether or not the paper gives them."""
    rows: tuple[Row, ...]

    def row(self, label: str) -> Row:
        """The row of a label that is there."""
        return next(row for row in self.rows if row.label == label)


def load_reproduction(name_or_path: str) -> Reproduction:
    """Read a shipped table by name, or any by path.

    Raises:
        InputError: no such file, unknown or mistyped keys, or rows that make no sense.
    """
    path = find(name_or_path, "reproductions")
    found = read_toml(path, Reproduction)
    if not any(row.trained for row in found.rows):
        raise InputError(f"{path}: has no [[rows]] with a recipe; add one")
    for figure in found.figures:
        if figure not in FIGURES:
            raise InputError(f"{path}: figures: '{figure}' is unknown; give some of {', '.join(FIGURES)}")
    if len(set(found.folds)) != len(found.folds) or len(found.folds) == 1:
        raise InputError(f"{path}: folds = {list(found.folds)}: name at least two, each once, or none")
    earlier: dict[str, Row] = {}
    for row in found.rows:
        _check(row, earlier, f"{path}: row '{row.label}'")
        earlier[row.label] = row
    return found


def _check(row: Row, earlier: Mapping[str, Row], where: str) -> None:
    if row.label in earlier:
        raise InputError(f"{where}: there is another of this label; give one of them another")
    for label in (*row.mean_of, *([row.teachers_of] if row.teachers_of else [])):
        if label not in earlier:
            raise InputError(f"{where}: names '{label}', which is no row before it; change their order or the name")
    if sum(map(bool, (row.recipe, row.mean_of, row.not_reproduced))) != 1:
        raise InputError(f"{where}: wants a recipe, mean_of or not_reproduced; give one of them alone")
    if row.not_reproduced and row.paper == Figures():
        raise InputError(
            f"{where}: is not reproduced and has no figure of the paper; give one in paper, or remove the row"
        )
    if any(earlier[label].judge != "network" or not earlier[label].trained for label in row.mean_of):
        raise InputError(f"{where}: mean_of is of networks' probabilities; name rows that are judged as networks")
    if row.part and not PART.fullmatch(row.part):
        raise InputError(f"{where}: part '{row.part}' is no stage of a run; write teachers/NAME or beside/NAME")
    if row.judge != "network" and row.paper.log_loss is not None:
        raise InputError(f"{where}: scores of support vector machines are no probabilities; leave log_loss out")
    if row.teachers_of and (row.teachers == "none" or not earlier[row.teachers_of].trained):
        raise InputError(
            f"{where}: teachers_of and teachers = \"none\" contradict each other, or '{row.teachers_of}' trains nothing"
        )
