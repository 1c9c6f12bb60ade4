"""TAU Urban Acoustic Scenes 2022/2023 Mobile, evaluation (doi 10.5281/zenodo.7870258): 1 s clips 0.wav ..., labels not
published.

The store is for predictions only; training on it is refused. The files are listed in evaluation_setup/fold1_test.csv,
or in the meta.csv of later years. The list of 2025 has a column device_id, the recorder.
"""

from pathlib import Path

from edgekd.data.dataset import ClipSource, DataSet
from edgekd.data.sets.checks import audio_names, check_folder, present_sources
from edgekd.data.sets.metadata import DATA_SETS
from edgekd.data.sets.tables import read_lines
from edgekd.data.sets.tau import AUDIO, META, SETUP, read_file_list
from edgekd.data.store.clips import UNLABELLED, Clip
from edgekd.errors import InputError

NAME = "tau22-evaluation"
SPLIT = "evaluation"
LISTS = (Path(SETUP) / "fold1_test.csv", Path(META))
DEVICE_COLUMN = "device_id"


def read(path: Path, skip_bad: bool = False) -> DataSet:
    """Find the clips of the evaluation set, each with the label `UNLABELLED`.

    Args:
        path: the folder that holds evaluation_setup/ or meta.csv, and audio/.
        skip_bad: leave out clips whose files are missing instead of refusing.

    Raises:
        InputError: another folder (a development set among them), files missing, or a damaged list.
    """
    known = DATA_SETS[NAME]
    wanted = f"the folder of {known.title} that holds {SETUP}/ and {AUDIO}/"
    check_folder(path, lambda folder: _list_of(folder) is not None, wanted, str(LISTS[0]))
    table = _list_of(path)
    files = read_file_list(table) if table else []
    if (path / SETUP / "fold1_evaluate.csv").is_file() or any(scene for _, scene in files):
        raise InputError(f"{path} holds labels: it is a development set; prepare it as tau22")
    names = [name for name, _ in files]
    if len(set(names)) < len(names):
        raise InputError(f"{table} lists a file more than once; unpack it again")
    recorders = _recorders(table, len(names)) if table else []
    sources = [
        ClipSource(path / name, Clip(name, UNLABELLED, SPLIT, recorder=recorder))
        for name, recorder in zip(names, recorders, strict=True)
    ]
    kept, notes = present_sources(
        sources, {f"{AUDIO}/{name}" for name in audio_names(path / AUDIO)}, LISTS[0].name, skip_bad
    )
    return DataSet(
        NAME,
        known.licence,
        kept,
        notes=[*notes, "these clips have no labels: predict them; nothing can be trained on them"],
    )


def _list_of(path: Path) -> Path | None:
    return next((path / table for table in LISTS if (path / table).is_file()), None)


def _recorders(table: Path, files: int) -> list[str]:
    """The recorder of each file of a list, "" where the list has none."""
    header, *rows = read_lines(table)
    if DEVICE_COLUMN not in header:
        return [""] * files
    column = header.index(DEVICE_COLUMN)
    return [row[column] if len(row) > column else "" for row in rows]
