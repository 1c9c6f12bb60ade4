"""ESC-50 (Piczak 2015, doi 10.1145/2733373.2806390): 2,000 clips of 5 s, 50 labels, five official folds."""

from collections import Counter
from pathlib import Path

from edgekd.data.audio.decode import is_audio
from edgekd.data.dataset import ClipSource, DataSet
from edgekd.data.sets.checks import check_columns, check_folder
from edgekd.data.sets.metadata import DATA_SETS
from edgekd.data.sets.tables import read_table
from edgekd.data.store.clips import Clip
from edgekd.errors import InputError

NAME = "esc50"
META = Path("meta/esc50.csv")
AUDIO = Path("audio")
COLUMNS = ("filename", "fold", "category", "src_file")
FOLDS = ("fold1", "fold2", "fold3", "fold4", "fold5")


def read(path: Path) -> DataSet:
    """Find the clips of an ESC-50 folder in its official layout, audio/ and meta/esc50.csv; audio may be of any format.

    Splits are fold1 to fold5, those that have files; the group is the source recording (`src_file`). Four source
    recordings occur in two folds; as the folds are official, leaking clips are left out of training.

    Raises:
        InputError: not an ESC-50 folder, a level too high or too deep, or a damaged table.
    """
    check_folder(
        path, lambda folder: (folder / META).is_file(), "the ESC-50 folder that holds audio/ and meta/", str(META)
    )
    meta = path / META
    columns, rows = read_table(meta)
    check_columns(meta, columns, COLUMNS)
    if not (path / AUDIO).is_dir():
        raise InputError(f"{path} has no folder {AUDIO}; unpack ESC-50 again")
    files = {file.stem: file for file in sorted((path / AUDIO).iterdir()) if is_audio(file)}
    sources = []
    for number, row in enumerate(rows, start=2):
        fold = f"fold{row['fold']}"
        if fold not in FOLDS or not row["category"] or not row["filename"]:
            raise InputError(
                f"{meta}, row {number}: fold '{row['fold']}', category '{row['category']}', filename"
                f" '{row['filename']}'; wanted a fold of 1 to 5, a label and a file"
            )
        file = files.get(Path(row["filename"]).stem, path / AUDIO / row["filename"])
        sources.append(ClipSource(file, Clip(file.name, row["category"], fold, group=row["src_file"])))
    present = {source.clip.split for source in sources if source.file.stem in files}
    if not present:
        raise InputError(
            f"{path / AUDIO} holds none of the {len(sources)} clips that {META} lists; unpack ESC-50 again"
        )
    absent_folds = Counter(source.clip.split for source in sources if source.clip.split not in present)
    notes = [
        f"{fold}: none of its {count} clips was found; the store has no {fold}"
        for fold, count in sorted(absent_folds.items())
    ]
    return DataSet(
        NAME,
        DATA_SETS[NAME].licence,
        [source for source in sources if source.clip.split in present],
        official_folds=True,
        notes=notes,
    )
