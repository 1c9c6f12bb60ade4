"""What a data set's `read` function returns: the clips, before anything is decoded."""

from dataclasses import dataclass, field
from pathlib import Path

from edgekd.data.store.clips import Clip


@dataclass(frozen=True)
class ClipSource:
    """An audio file and the row of the clip that is decoded from it.

    Attributes:
        file: the audio file.
        clip: the row; `seconds` is not known yet.
        cut: (start, length) in seconds of the part of the file that is the clip; None for the complete file.
    """

    file: Path
    clip: Clip
    cut: tuple[float, float] | None = None


@dataclass(frozen=True)
class DataSet:
    """The clips found in the files of a data set.

    Attributes:
        name, licence, official_folds: as in `StoreInfo`.
        sources: one per clip, in order.
        notes: facts that the user should know, one line each.
    """

    name: str
    licence: str
    sources: list[ClipSource]
    official_folds: bool = False
    notes: list[str] = field(default_factory=list)
