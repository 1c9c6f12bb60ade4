"""Common code of the four editions of Tampere's urban acoustic scenes: meta.csv, audio/, evaluation_setup/, one
official fold.

Tables are tab-separated. meta.csv: filename (audio/...), scene_label, identifier (CITY-LOCATION), source_label (the
recorder). The lists in evaluation_setup name files, those of 2019 and later below a header and those of 2018 without:
fold1_train and fold1_evaluate with scene labels, fold1_test without. Clips in neither list get the split "unused".
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekd.data.dataset import ClipSource, DataSet
from edgekd.data.sets.checks import audio_names, check_columns, check_folder, present_sources
from edgekd.data.sets.metadata import DATA_SETS
from edgekd.data.sets.tables import read_lines, read_table
from edgekd.data.store.clips import Clip
from edgekd.errors import InputError
from edgekd.text import counted, listing

META, AUDIO, SETUP = "meta.csv", "audio", "evaluation_setup"
COLUMNS = ("filename", "scene_label", "identifier")
RECORDER_COLUMN, MAIN_RECORDER = "source_label", "a"
TRAIN, EVALUATE, UNUSED = "train", "evaluate", "unused"
LIST_SUFFIXES = (".csv", ".txt")
TRAINING_RECORDERS = frozenset({"a", "b", "c", "s1", "s2", "s3"})
"""Of the Mobile sets of 2020 and later; s4 to s6 are for evaluation only."""
SLICE_PARTS = 6
"""Of the file name of a slice, SCENE-CITY-LOCATION-SEGMENT-SLICE-RECORDER; that of a 10 s recording has one less."""
CITIES_OF_2018 = frozenset({"barcelona", "helsinki", "london", "paris", "stockholm", "vienna"})
"""The editions of 2019 and later have more."""

TrainingClips = Callable[[Sequence[Clip], frozenset[str]], set[str]]
"""Finds the training clips of an edition without a list of them: (all clips, names of those evaluated) -> names."""


@dataclass(frozen=True)
class Edition:
    """One of the data sets.

    Attributes:
        name: in `DATA_SETS`.
        training_clips: replaces a missing fold1_train.
        sliced: whether clips are slices of 10 s recordings.
    """

    name: str
    training_clips: TrainingClips
    sliced: bool = False


def read(path: Path, edition: Edition, skip_bad: bool = False, fold: int = 1) -> DataSet:
    """Find the clips of an edition's folder.

    Splits are train, evaluate and unused; the group is the location; the parent of a slice is its 10 s recording.

    Args:
        path: the folder that holds meta.csv, audio/ and evaluation_setup/.
        edition: the data set that it must be.
        skip_bad: leave out clips whose files are missing instead of refusing.
        fold: number in the names of the lists; only those of fold 1 are published.

    Raises:
        InputError: another folder, files missing, tables that are damaged or do not match.
    """
    return with_files(path, edition, read_tables(path, edition, fold), skip_bad)


def read_tables(path: Path, edition: Edition, fold: int = 1) -> list[Clip]:
    """All clips with their splits, from the tables of an edition's folder; audio files are not looked at.

    Raises:
        InputError: as `read`.
    """
    title = DATA_SETS[edition.name].title
    check_folder(
        path,
        lambda folder: (folder / META).is_file() and (folder == path or _holds(folder, edition)),
        f"the folder of {title} that holds {META} and {AUDIO}/",
        META,
    )
    clips = read_meta(path / META)
    found = detect_edition(clips)
    if found != edition.name:
        raise InputError(
            f"{path / META} is that of {DATA_SETS[found].title}, not of {title}: prepare it as {found}, or give the"
            " other folder"
        )
    if edition.sliced:
        clips = [replace(clip, parent=_parent(path / META, clip.path)) for clip in clips]
    return assign_splits(clips, path / SETUP, edition.training_clips, fold)


def detect_edition(clips: Sequence[Clip]) -> str:
    """Name of the edition that a meta.csv belongs to, found by its slices, recorders and cities."""
    if clips[0].path.count("-") == SLICE_PARTS - 1:
        return "tau22"
    if {clip.recorder for clip in clips} != {MAIN_RECORDER}:
        return "tau20"
    return "tut18" if {clip.group.partition("-")[0] for clip in clips} <= CITIES_OF_2018 else "tau19"


def _holds(folder: Path, edition: Edition) -> bool:
    """Whether a folder's meta.csv is that of an edition."""
    try:
        return detect_edition(read_meta(folder / META)) == edition.name
    except InputError:
        return False


def with_files(path: Path, edition: Edition, clips: Sequence[Clip], skip_bad: bool) -> DataSet:
    """The data set of the clips whose files exist.

    Raises:
        InputError: as `read`.
    """
    files = {f"{AUDIO}/{name}" for name in audio_names(path / AUDIO)}
    sources, notes = present_sources([ClipSource(path / clip.path, clip) for clip in clips], files, META, skip_bad)
    if _list_file(path / SETUP, "fold1_train") is None:
        notes.append(f"no fold1_train.csv: the training clips were found by {META}; their number is the documented one")
    unused = sum(source.clip.split == UNUSED for source in sources)
    if unused:
        notes.append(
            f"{counted(unused, 'clip is', 'clips are')} neither for training nor for evaluation: split '{UNUSED}'"
        )
    return DataSet(edition.name, DATA_SETS[edition.name].licence, sources, official_folds=True, notes=notes)


def read_meta(table: Path) -> list[Clip]:
    """The clips of a meta.csv, without splits and parents.

    Raises:
        InputError: damaged.
    """
    columns, rows = read_table(table)
    check_columns(table, columns, COLUMNS)
    clips = []
    for number, row in enumerate(rows, start=2):
        name, scene, location = (row[column] for column in COLUMNS)
        if not name.startswith(f"{AUDIO}/") or not scene or "-" not in location:
            raise InputError(
                f"{table}, row {number}: file '{name}', scene '{scene}', identifier '{location}'; wanted"
                f" {AUDIO}/NAME.wav, a scene and CITY-LOCATION; unpack or download it again"
            )
        clips.append(Clip(name, scene, UNUSED, location, row.get(RECORDER_COLUMN) or MAIN_RECORDER))
    return clips


def _parent(table: Path, name: str) -> str:
    """audio/SCENE-CITY-LOCATION-SEGMENT-SLICE-RECORDER.wav -> SCENE-CITY-LOCATION-SEGMENT-RECORDER, the name in the 10
    s edition."""
    parts = name.removeprefix(f"{AUDIO}/").rpartition(".")[0].rsplit("-", 2)
    if len(parts) != 3 or parts[0].count("-") < 3 or not parts[1].isdigit():
        raise InputError(
            f"{table}: '{name}' is not {AUDIO}/SCENE-CITY-LOCATION-SEGMENT-SLICE-RECORDER.wav; unpack or download it"
            " again"
        )
    return f"{parts[0]}-{parts[2]}"


def assign_splits(clips: Sequence[Clip], setup: Path, training_clips: TrainingClips, fold: int = 1) -> list[Clip]:
    """The clips with their splits: those of the lists of a fold, or of `training_clips` where the training list is
    missing.

    Raises:
        InputError: a list is missing and cannot be replaced, is damaged, or does not match the clips.
    """
    labels = {clip.path: clip.label for clip in clips}
    if len(labels) < len(clips):
        twice = [name for name, count in Counter(clip.path for clip in clips).items() if count > 1]
        raise InputError(
            f"{setup.parent / META} lists {counted(len(twice), 'file')} more than once ({listing(twice)}); unpack it"
            " again"
        )
    evaluated = read_list(setup, f"fold{fold}_evaluate", labels)
    if evaluated is None:
        evaluated = read_list(setup, f"fold{fold}_test", labels)
    if evaluated is None:
        raise InputError(
            f"{setup} has no fold{fold}_evaluate.csv; unpack the archive *.meta.zip of the data set there"
            + ("; the published fold is --fold 1" if fold != 1 else "")
        )
    train = read_list(setup, f"fold{fold}_train", labels)
    if train is None and fold != 1:
        raise InputError(
            f"{setup} has no fold{fold}_train.csv, only fold{fold}_evaluate; put it there, or take the published"
            " --fold 1"
        )
    if train is None:
        train = training_clips(clips, frozenset(evaluated))
    both = sorted(train & evaluated)
    if both:
        raise InputError(
            f"{setup}: {counted(len(both), 'clip is', 'clips are')} in the training and in the evaluation list "
            f"({listing(both)}); unpack it again"
        )
    split = dict.fromkeys(train, TRAIN) | dict.fromkeys(evaluated, EVALUATE)
    return [
        Clip(clip.path, clip.label, split.get(clip.path, UNUSED), clip.group, clip.recorder, clip.parent)
        for clip in clips
    ]


def read_list(folder: Path, stem: str, labels: Mapping[str, str], among: str = META) -> set[str] | None:
    """The file names in a list of evaluation_setup, None where there is no such list.

    Args:
        folder: where the list is.
        stem: its name without suffix.
        labels: file -> scene; the scenes of the list must be the same.
        among: a name for these files, for messages.

    Raises:
        InputError: the list is damaged, or names other files or scenes.
    """
    table = _list_file(folder, stem)
    if table is None:
        return None
    names = dict(read_file_list(table))
    unknown = sorted(set(names) - set(labels))
    if unknown:
        raise InputError(
            f"{table} names {counted(len(unknown), 'file that is', 'files that are')} not in {among} "
            f"({listing(unknown)}); unpack both from one archive"
        )
    for name, scene in names.items():
        if scene not in ("", labels[name]):
            raise InputError(
                f"{table}: {name} has the scene '{scene}', but in {META} '{labels[name]}'; unpack both from one archive"
            )
    return set(names)


def read_file_list(table: Path) -> list[tuple[str, str]]:
    """Each file of a list and its scene, "" where the list has none. Without a header these are the first two columns.

    Raises:
        InputError: as `read_lines`, or a row without a file.
    """
    lines = read_lines(table)
    file, scene = COLUMNS[:2]
    header, rows = (lines[0], lines[1:]) if file in lines[0] else ([file, scene], lines)
    column, label = header.index(file), header.index(scene) if scene in header else len(header)
    short = next((row for row in rows if len(row) <= column or not row[column]), None)
    if short is not None:
        raise InputError(f"{table}: row '{' '.join(short)}' names no file; unpack it again")
    return [(row[column], row[label] if len(row) > label else "") for row in rows]


def _list_file(folder: Path, stem: str) -> Path | None:
    return next(
        (folder / f"{stem}{suffix}" for suffix in LIST_SUFFIXES if (folder / f"{stem}{suffix}").is_file()), None
    )


def all_not_evaluated(count: int, is_train: Callable[[Clip], bool] = lambda _: True) -> TrainingClips:
    """All clips that are not evaluated and for which `is_train` is true; `count` is their documented number."""

    def training_clips(clips: Sequence[Clip], evaluated: frozenset[str]) -> set[str]:
        names = {clip.path for clip in clips if clip.path not in evaluated and is_train(clip)}
        return _check_count(names, count)

    return training_clips


def mobile_training_clips(main_recorder: Mapping[str, int], count: int) -> TrainingClips:
    """The training clips of a Mobile set: recorders a, b, c and s1 to s3 at all locations where nothing is evaluated.

    A location of the evaluation side where only recorder a was used has no clip in the list of evaluated clips. Such a
    location is found by its number of clips: the clips of recorder a that a scene has beyond the documented number.

    Args:
        main_recorder: scene -> documented number of training clips of recorder a.
        count: documented number of training clips.
    """

    def training_clips(clips: Sequence[Clip], evaluated: frozenset[str]) -> set[str]:
        evaluated_at = {(clip.label, clip.group) for clip in clips if clip.path in evaluated}
        free = [
            clip
            for clip in clips
            if clip.recorder in TRAINING_RECORDERS and (clip.label, clip.group) not in evaluated_at
        ]
        recorders: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for clip in free:
            recorders[clip.label, clip.group][clip.recorder] += 1
        of_main = Counter(clip.label for clip in free if clip.recorder == MAIN_RECORDER)
        left_out = set()
        for scene, wanted in main_recorder.items():
            surplus = of_main[scene] - wanted
            fitting = [
                location
                for location, counts in recorders.items()
                if location[0] == scene and dict(counts) == {MAIN_RECORDER: surplus}
            ]
            left_out.update(fitting if surplus and len(fitting) == 1 else [])
        return _check_count({clip.path for clip in free if (clip.label, clip.group) not in left_out}, count)

    return training_clips


def _check_count(names: set[str], count: int) -> set[str]:
    """The names, if they are as many as documented.

    Raises:
        InputError: they are not.
    """
    if len(names) != count:
        raise InputError(
            f"{SETUP} has no fold1_train.csv, and {META} alone gives {counted(len(names), 'training clip')} where"
            f" {count} are documented; unpack the archive *.meta.zip of the data set there"
        )
    return names
