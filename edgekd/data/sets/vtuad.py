"""VTUAD (Domingos, Skelton and Santos 2022, doi 10.21227/msg0-ag12): one-second clips of four kinds of ships and of
background, 32 kHz.

There are three scenarios, each an archive: inclusion_2000_exclusion_4000 (a ship within 2,000 m of the hydrophone, no
other within 4,000 m), ..3000..5000 and ..4000..6000. Each has train/, validation/ and test/, with metadata.csv (label,
file_index, sub_init, duration_sec, date, MMSI ...) and audio/LABEL/FILE_INDEX.wav. This layout is what the publishers'
code writes and reads; the data are for subscribers, so no copy was available for a test. That code shuffles one-second
clips before it splits them: most ships (MMSI; 0 for background) and recordings are in several splits. Rows that share a
file, as in the table that the code starts from, are parts of it, `sub_init` seconds after its start.
"""

from collections import Counter
from pathlib import Path

from edgekd.data.dataset import ClipSource, DataSet
from edgekd.data.sets.checks import audio_names, check_columns, check_folder, present_sources
from edgekd.data.sets.metadata import DATA_SETS
from edgekd.data.sets.tables import read_table
from edgekd.data.store.clips import Clip
from edgekd.errors import InputError

NAME = "vtuad"
SPLITS = ("train", "validation", "test")
SCENARIOS = "inclusion_*_exclusion_*"
META, AUDIO = "metadata.csv", "audio"
COLUMNS = ("label", "file_index", "MMSI")
START_COLUMN, LENGTH_COLUMN = "sub_init", "duration_sec"


def read(path: Path, skip_bad: bool = False) -> DataSet:
    """Find the clips of one scenario, or of all scenarios of a folder together.

    Splits are train, validation and test; the group is the ship (none for background).

    Args:
        path: a scenario's folder, or the folder that holds scenarios.
        skip_bad: leave out clips whose files are missing instead of refusing.

    Raises:
        InputError: another folder, files missing, or damaged tables.
    """
    check_folder(
        path,
        lambda folder: bool(_scenarios(folder)),
        f"the folder of a scenario or the one that holds {SCENARIOS}",
        f"train/{META} and no {SCENARIOS}/train/{META}",
    )
    sources: list[ClipSource] = []
    found: set[str] = set()
    notes = []
    for scenario in _scenarios(path):
        prefix = "" if scenario == path else f"{scenario.name}/"
        for split in SPLITS:
            folder = scenario / split
            if not (folder / META).is_file():
                notes.append(f"no {prefix}{split}/{META}: the store lacks that split")
                continue
            sources += _split_sources(folder, f"{prefix}{split}", split)
            labels = (folder / AUDIO).glob("*/")
            found |= {f"{prefix}{split}/{AUDIO}/{label.name}/{name}" for label in labels for name in audio_names(label)}
    kept, more = present_sources(sources, found, META, skip_bad, lambda source: source.clip.path.partition("#")[0])
    pairs = {(source.clip.group, source.clip.split) for source in kept if source.clip.group}
    splits_of = Counter(ship for ship, _ in pairs)
    shared = [ship for ship, count in splits_of.items() if count > 1]
    if shared:
        more.append(
            f"{len(shared)} of {len(splits_of)} ships are in more than one split, by the publishers'"
            " choice; their clips are left out of training, or kept by --set data.allow_leaks=true, as in published"
            " figures"
        )
    return DataSet(NAME, DATA_SETS[NAME].licence, kept, official_folds=True, notes=notes + more)


def _scenarios(path: Path) -> list[Path]:
    """The folder where it is a scenario, else the scenarios in it."""
    return [path] if _is_scenario(path) else [folder for folder in sorted(path.glob(SCENARIOS)) if _is_scenario(folder)]


def _is_scenario(path: Path) -> bool:
    return (path / SPLITS[0] / META).is_file()


def _split_sources(folder: Path, prefix: str, split: str) -> list[ClipSource]:
    """Clips of a metadata.csv; a file that several rows share is cut into their clips."""
    table = folder / META
    columns, rows = read_table(table)
    check_columns(table, columns, COLUMNS)
    files = [f"{AUDIO}/{row['label'].lower()}/{_integer(row['file_index'])}.wav" for row in rows]
    shared = {file for file, count in Counter(files).items() if count > 1}
    if shared:
        check_columns(table, columns, (START_COLUMN, LENGTH_COLUMN))
    sources = []
    for number, (row, file) in enumerate(zip(rows, files, strict=True), start=2):
        label, ship = row["label"].lower(), _integer(row["MMSI"])
        path, cut = f"{prefix}/{file}", None
        try:
            if not label or not row["file_index"]:
                raise ValueError
            if file in shared:
                cut = (float(row[START_COLUMN]), float(row[LENGTH_COLUMN]))
                if not (cut[0] >= 0 and cut[1] > 0):
                    raise ValueError
                path = f"{path}#{_integer(row[START_COLUMN])}"
        except ValueError:
            raise InputError(
                f"{table}, row {number}: label '{label}', file_index '{row['file_index']}', {START_COLUMN}"
                f" '{row.get(START_COLUMN)}', {LENGTH_COLUMN} '{row.get(LENGTH_COLUMN)}'; wanted a label and numbers;"
                " unpack it again"
            ) from None
        parent = f"{prefix}/{file}" if cut else ""
        sources.append(
            ClipSource(
                folder / file, Clip(path, label, split, ship if ship not in ("", "0") else "", parent=parent), cut
            )
        )
    return sources


def _integer(number: str) -> str:
    """The number without the ".0" that pandas writes after the integers of a column with gaps."""
    return number.removesuffix(".0")
