"""What the four editions of Tampere's urban acoustic scenes share: meta.csv, audio/, evaluation_setup/, one official
fold.

Tables are tab-separated. meta.csv: filename (audio/...), scene_label, identifier (CITY-LOCATION), source_label (the
recorder). The lists in evaluation_setup name files, those of 2019 and later below a header and those of 2018 without:
fold1_train and fold1_evaluate with scene labels, fold1_test without. What neither list names is the split "unused".
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekd.data.sets.catalogue import KNOWN
from edgekd.data.sets.layout import audio_names, check_columns, check_level, present
from edgekd.data.sets.source import DataSet, Source, read_lines, read_table
from edgekd.data.store.store import Clip, listing
from edgekd.errors import InputError
from edgekd.text import counted

META, AUDIO, SETUP = "meta.csv", "audio", "evaluation_setup"
COLUMNS = ("filename", "scene_label", "identifier")
RECORDER_COLUMN, MAIN_RECORDER = "source_label", "a"
TRAIN, EVALUATE, UNUSED = "train", "evaluate", "unused"
LIST_SUFFIXES = (".csv", ".txt")
TRAINING_RECORDERS = frozenset({"a", "b", "c", "s1", "s2", "s3"})
"""Of the Mobile sets of 2020 and later; s4 to s6 are for evaluation only."""

SLICE_PARTS = 6
"""Of the file name of a slice, SCENE-CITY-LOCATION-SEGMENT-SLICE-RECORDER; that of a whole recording has one less."""
CITIES_OF_2018 = frozenset({"barcelona", "helsinki", "london", "paris", "stockholm", "vienna"})
"""The editions of 2019 and later have more."""

Rest = Callable[[Sequence[Clip], frozenset[str]], set[str]]
"""Tells the training clips from all clips and the names of those evaluated, by what is documented of an edition."""


@dataclass(frozen=True)
class Edition:
    """name: in the catalogue. rest: stands in for a missing fold1_train. sliced: clips are the slices of 10 s
    recordings."""

    name: str
    rest: Rest
    sliced: bool = False


def read(path: Path, edition: Edition, skip_bad: bool = False, fold: int = 1) -> DataSet:
    """Find the clips of an edition's folder.

    Splits are train, evaluate and unused; the group is the location; the parent of a slice is its 10 s recording.

    Args:
        path: the folder that holds meta.csv, audio/ and evaluation_setup/.
        edition: which.
        skip_bad: leave out clips whose files are missing instead of refusing.
        fold: number in the names of the lists; published are those of fold 1.

    Raises:
        InputError: another folder, files missing, tables that are damaged or do not match.
    """
    return with_files(path, edition, read_tables(path, edition, fold), skip_bad)


def read_tables(path: Path, edition: Edition, fold: int = 1) -> list[Clip]:
    """All clips with their splits, by the tables of an edition's folder alone.

    Raises:
        InputError: as `read`.
    """
    title = KNOWN[edition.name].title
    check_level(
        path,
        lambda folder: (folder / META).is_file() and (folder == path or _is(folder, edition)),
        f"the folder of {title} that holds {META} and {AUDIO}/",
        META,
    )
    clips = read_meta(path / META)
    there = told_edition(clips)
    if there != edition.name:
        raise InputError(
            f"{path / META} is that of {KNOWN[there].title}, not of {title}: prepare it as {there}, or give the other"
            " folder"
        )
    if edition.sliced:
        clips = [replace(clip, parent=_parent(path / META, clip.path)) for clip in clips]
    return split(clips, path / SETUP, edition.rest, fold)


def told_edition(clips: Sequence[Clip]) -> str:
    """Name of the edition that a meta.csv is of, told by what each has of its own: slices, recorders, cities."""
    if clips[0].path.count("-") == SLICE_PARTS - 1:
        return "tau22"
    if {clip.recorder for clip in clips} != {MAIN_RECORDER}:
        return "tau20"
    return "tut18" if {clip.group.partition("-")[0] for clip in clips} <= CITIES_OF_2018 else "tau19"


def _is(folder: Path, edition: Edition) -> bool:
    """Whether a folder's meta.csv is that of an edition."""
    try:
        return told_edition(read_meta(folder / META)) == edition.name
    except InputError:
        return False


def with_files(path: Path, edition: Edition, clips: Sequence[Clip], skip_bad: bool) -> DataSet:
    """The data set of those clips whose files are there.

    Raises:
        InputError: as `read`.
    """
    there = {f"{AUDIO}/{name}" for name in audio_names(path / AUDIO)}
    sources, notes = present([Source(path / clip.path, clip) for clip in clips], there, META, skip_bad)
    if _list_file(path / SETUP, "fold1_train") is None:
        notes.append(
            f"no fold1_train.csv: the training clips were told from the rest of {META} and are as many as documented"
        )
    unused = sum(source.clip.split == UNUSED for source in sources)
    if unused:
        notes.append(
            f"{counted(unused, 'clip is', 'clips are')} neither for training nor for evaluation: split '{UNUSED}'"
        )
    return DataSet(edition.name, KNOWN[edition.name].licence, sources, official_folds=True, notes=notes)


def read_meta(table: Path) -> list[Clip]:
    """The clips of a meta.csv, without splits and parents.

    Raises:
        InputError: damaged.
    """
    columns, rows = read_table(table)
    check_columns(table, columns, COLUMNS)
    clips = []
    for number, row in enumerate(rows, start=2):
        name, scene, place = (row[column] for column in COLUMNS)
        if not name.startswith(f"{AUDIO}/") or not scene or "-" not in place:
            raise InputError(
                f"{table}, row {number}: file '{name}', scene '{scene}', identifier '{place}'; wanted {AUDIO}/NAME.wav,"
                " a scene and CITY-LOCATION; unpack or download it again"
            )
        clips.append(Clip(name, scene, UNUSED, place, row.get(RECORDER_COLUMN) or MAIN_RECORDER))
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


def split(clips: Sequence[Clip], setup: Path, rest: Rest, fold: int = 1) -> list[Clip]:
    """Give clips their splits: what the lists of a fold say, or `rest` where the training list is missing.

    Raises:
        InputError: a list is missing and cannot be told from the rest, damaged, or does not match the clips.
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
            f"{setup} has no fold{fold}_train.csv beside fold{fold}_evaluate; put it there, or take the published"
            " --fold 1"
        )
    if train is None:
        train = rest(clips, frozenset(evaluated))
    both = sorted(train & evaluated)
    if both:
        raise InputError(
            f"{setup}: {counted(len(both), 'clip is', 'clips are')} in the training and in the evaluation list "
            f"({listing(both)}); unpack it again"
        )
    side = dict.fromkeys(train, TRAIN) | dict.fromkeys(evaluated, EVALUATE)
    return [
        Clip(clip.path, clip.label, side.get(clip.path, UNUSED), clip.group, clip.recorder, clip.parent)
        for clip in clips
    ]


def read_list(folder: Path, stem: str, labels: Mapping[str, str], among: str = META) -> set[str] | None:
    """The file names in a list of evaluation_setup, None where there is no such list.

    Args:
        folder: where the list is.
        stem: its name without suffix.
        labels: file -> scene, which the list's own must agree with.
        among: what these files are.

    Raises:
        InputError: damaged, or other files or scenes.
    """
    table = _list_file(folder, stem)
    if table is None:
        return None
    names = dict(listed(table))
    strange = sorted(set(names) - set(labels))
    if strange:
        raise InputError(
            f"{table} names {counted(len(strange), 'file that is', 'files that are')} not in {among} "
            f"({listing(strange)}); unpack both from one archive"
        )
    for name, scene in names.items():
        if scene not in ("", labels[name]):
            raise InputError(
                f"{table} says that {name} is '{scene}', {META} says '{labels[name]}'; unpack both from one archive"
            )
    return set(names)


def listed(table: Path) -> list[tuple[str, str]]:
    """Each file of a list and its scene, "" where the list has none; without a header these are the first two columns.

    Raises:
        InputError: as `read_lines`, or a row without a file.
    """
    lines = read_lines(table)
    file, scene = COLUMNS[:2]
    header, rows = (lines[0], lines[1:]) if file in lines[0] else ([file, scene], lines)
    at, label = header.index(file), header.index(scene) if scene in header else len(header)
    short = next((row for row in rows if len(row) <= at or not row[at]), None)
    if short is not None:
        raise InputError(f"{table}: row '{' '.join(short)}' names no file; unpack it again")
    return [(row[at], row[label] if len(row) > label else "") for row in rows]


def _list_file(folder: Path, stem: str) -> Path | None:
    return next(
        (folder / f"{stem}{suffix}" for suffix in LIST_SUFFIXES if (folder / f"{stem}{suffix}").is_file()), None
    )


def rest_of(train: int, is_train: Callable[[Clip], bool] = lambda _: True) -> Rest:
    """All clips that are not evaluated and pass a test, where those are as many as documented."""

    def rest(clips: Sequence[Clip], evaluated: frozenset[str]) -> set[str]:
        names = {clip.path for clip in clips if clip.path not in evaluated and is_train(clip)}
        return checked(names, train)

    return rest


def mobile_rest(main_recorder: Mapping[str, int], train: int) -> Rest:
    """The training clips of a Mobile set: recorders a, b, c and s1 to s3 wherever nothing is evaluated.

    Where only recorder a was at hand, a location of the evaluation side has no clip in the list of those evaluated. The
    documented number of recorder a's training clips of each scene tells how many clips such a location takes away; it
    is found by that number.

    Args:
        main_recorder: scene -> training clips of recorder a, as documented.
        train: training clips in all, as documented.
    """

    def rest(clips: Sequence[Clip], evaluated: frozenset[str]) -> set[str]:
        places = {(clip.label, clip.group) for clip in clips if clip.path in evaluated}
        free = [
            clip for clip in clips if clip.recorder in TRAINING_RECORDERS and (clip.label, clip.group) not in places
        ]
        recorders: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for clip in free:
            recorders[clip.label, clip.group][clip.recorder] += 1
        heard = Counter(clip.label for clip in free if clip.recorder == MAIN_RECORDER)
        out = set()
        for scene, wanted in main_recorder.items():
            surplus = heard[scene] - wanted
            fitting = [
                place
                for place, counts in recorders.items()
                if place[0] == scene and dict(counts) == {MAIN_RECORDER: surplus}
            ]
            out.update(fitting if surplus and len(fitting) == 1 else [])
        return checked({clip.path for clip in free if (clip.label, clip.group) not in out}, train)

    return rest


def checked(names: set[str], train: int) -> set[str]:
    """The names, if they are as many as documented.

    Raises:
        InputError: they are not.
    """
    if len(names) != train:
        raise InputError(
            f"{SETUP} has no fold1_train.csv, and the rest of {META} makes {counted(len(names), 'training clip')} where"
            f" {train} are documented; unpack the archive *.meta.zip of the data set there"
        )
    return names
