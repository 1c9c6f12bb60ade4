"""UrbanSound8K (Salamon, Jacoby and Bello 2014, doi 10.1145/2647868.2655045): 8,732 clips of at most 4 s, 10 labels,
ten official folds.

Clips have any rate, depth and channel count. The folds must not be mixed: all clips of one recording are in one fold,
and scores on other folds cannot be compared with published ones.
"""

from pathlib import Path

from edgekd.data.dataset import ClipSource, DataSet
from edgekd.data.sets.checks import audio_names, check_columns, check_folder, present_sources
from edgekd.data.sets.metadata import DATA_SETS
from edgekd.data.sets.tables import read_table
from edgekd.data.store.clips import Clip
from edgekd.errors import InputError

NAME = "urbansound8k"
META, AUDIO = Path("metadata/UrbanSound8K.csv"), Path("audio")
COLUMNS = ("slice_file_name", "fsID", "fold", "class")
FOLDS = tuple(f"fold{number}" for number in range(1, 11))


def read(path: Path, skip_bad: bool = False) -> DataSet:
    """Find the clips of UrbanSound8K: metadata/UrbanSound8K.csv and audio/fold1 to audio/fold10.

    Splits are fold1 to fold10; the group is the recording that a clip was cut from (`fsID`).

    Args:
        path: the folder that holds metadata/ and audio/.
        skip_bad: leave out clips whose files are missing instead of refusing.

    Raises:
        InputError: another folder, files missing, or a damaged table.
    """
    check_folder(
        path,
        lambda folder: (folder / META).is_file(),
        "the UrbanSound8K folder that holds audio/ and metadata/",
        str(META),
    )
    columns, rows = read_table(path / META)
    check_columns(path / META, columns, COLUMNS)
    sources = []
    for number, row in enumerate(rows, start=2):
        file, recording, fold, label = (row[column] for column in COLUMNS)
        if f"fold{fold}" not in FOLDS or not file or not label:
            raise InputError(
                f"{path / META}, row {number}: fold '{fold}', class '{label}', file '{file}'; wanted a fold of 1 to 10,"
                " a class and a file; unpack it again"
            )
        name = f"fold{fold}/{file}"
        sources.append(ClipSource(path / AUDIO / name, Clip(name, label, f"fold{fold}", group=recording)))
    found = {f"{fold}/{name}" for fold in FOLDS for name in audio_names(path / AUDIO / fold)}
    kept, notes = present_sources(sources, found, META.name, skip_bad)
    notes.append(
        "the folds must not be mixed: test each once, by edgekd crossval RECIPE --data STORE --out DIR --folds"
        f" {','.join(FOLDS)}"
    )
    return DataSet(NAME, DATA_SETS[NAME].licence, kept, official_folds=True, notes=notes)
