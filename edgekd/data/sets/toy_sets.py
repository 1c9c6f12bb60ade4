"""Generates small copies of the data sets in their official layouts: same tables, names, formats and irregularities,
few clips, noise as audio.

Used by tests of the data sets and by `edgekd reproduce --smoke`.
"""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

SCENES = ("airport", "bus", "metro")
CITIES, CITIES_OF_2018 = ("lisbon", "milan", "vienna"), ("london", "paris", "vienna")
"""The clips of the second city are evaluated."""
US8K_COLUMNS = ("slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class")
ESC50_COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
MOBILE_RECORDERS = ("a", "b", "c", "s1", "s2", "s3", "s4")
SECONDS = 0.05
"""Default length of a clip."""

Row = tuple[str, str, str, str]
"""File, scene, CITY-LOCATION and recorder."""


def wav(path: Path, rate: int = 44100, channels: int = 1, seconds: float = SECONDS, subtype: str = "PCM_24") -> None:
    """Write a file of noise, seeded by its name."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(list(path.name.encode())).uniform(-0.5, 0.5, (round(rate * seconds), channels))
    soundfile.write(path, noise, rate, subtype=subtype)


def table(path: Path, header: Sequence[object] | None, rows: Iterable[Sequence[object]], delimiter: str = "\t") -> None:
    """Write a table; None for `header` writes no header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [*([header] if header else []), *rows]
    path.write_text("".join(delimiter.join(map(str, line)) + "\n" for line in lines), encoding="utf-8")


def scene_rows(recorders: Sequence[str], slices: int, cities: Sequence[str]) -> list[Row]:
    """Rows of three scenes with one location in each of three cities, two segments at each location."""
    rows: list[Row] = []
    for s, scene in enumerate(SCENES):
        for c, city in enumerate(cities):
            location = 1000 + 10 * s + c
            for segment in range(2):
                for recorder in recorders:
                    stem = f"audio/{scene}-{city}-{location}-{40000 + segment}"
                    names = (
                        [f"{stem}-{k}-{recorder}.wav" for k in range(slices)] if slices else [f"{stem}-{recorder}.wav"]
                    )
                    rows += [(name, scene, f"{city}-{location}", recorder) for name in names]
    return rows


def scenes(
    path: Path,
    *,
    slices: int = 0,
    recorders: Sequence[str] = ("a",),
    rate: int = 48000,
    channels: int = 2,
    suffix: str = ".csv",
    header: bool = True,
    audio: bool = True,
    seconds: float = SECONDS,
    cities: Sequence[str] = CITIES,
) -> Path:
    """An urban-scenes set. The first segments of the second city are evaluated, the second ones unused; recorder s4 is
    never in training.

    Args:
        path: the folder to make.
        slices: slices that each 10 s recording is cut into, 0 for editions of complete recordings.
        recorders: names.
        rate, channels, seconds: of the audio files.
        suffix, header: of the lists.
        audio: False leaves the audio files out.
        cities: three.
    """
    rows = scene_rows(recorders, slices, cities)
    table(path / "meta.csv", ("filename", "scene_label", "identifier", "source_label"), rows)
    train = [row[:2] for row in rows if cities[1] not in row[2] and row[3] != "s4"]
    evaluate = [row[:2] for row in rows if cities[1] in row[2] and "-40000-" in row[0]]
    labelled = ("filename", "scene_label") if header else None
    table(path / "evaluation_setup" / f"fold1_train{suffix}", labelled, train)
    table(path / "evaluation_setup" / f"fold1_evaluate{suffix}", labelled, evaluate)
    table(
        path / "evaluation_setup" / f"fold1_test{suffix}",
        ("filename",) if header else None,
        [row[:1] for row in evaluate],
    )
    for name, *_ in rows if audio else ():
        wav(path / name, rate, channels, seconds)
    return path


def tut18(path: Path, seconds: float = SECONDS) -> Path:
    """The urban scenes of 2018: lists without header."""
    return scenes(path, suffix=".txt", header=False, seconds=seconds, cities=CITIES_OF_2018)


def subset(path: Path, percent: int) -> Path:
    """Add the list of a subset of the training clips to an urban-scenes set: those of one training city."""
    meta = (path / "meta.csv").read_text(encoding="utf-8").splitlines()[1:]
    names = [line.split("\t")[0] for line in meta if "-lisbon-" in line and not line.endswith("\ts4")]
    table(path / "evaluation_setup" / f"split{percent}.csv", ("filename",), [[name] for name in names])
    return path


def esc50(path: Path, seconds: float = SECONDS) -> Path:
    """Fifteen clips in five folds."""
    rows = []
    for fold, (number, label) in itertools.product(range(1, 6), enumerate(("dog", "rain", "siren"))):
        name, source = f"{fold}-{100 * fold + number}-A-{number}.wav", 100 * fold + number
        rows.append((name, fold, number, label, False, source, "A"))
        wav(path / "audio" / name, seconds=seconds, subtype="PCM_16")
    table(path / "meta" / "esc50.csv", ESC50_COLUMNS, rows, ",")
    return path


def urbansound8k(path: Path, seconds: float = SECONDS) -> Path:
    """Twenty clips in ten folds, of several rates, depths and channel counts."""
    rows = []
    for fold in range(1, 11):
        for number, label in enumerate(("car_horn", "dog_bark")):
            name = f"{100 * fold + number}-{number}-0-0.wav"
            rows.append((name, 100 * fold + number, 0.0, 0.05, 1, fold, number, label))
            wav(
                path / "audio" / f"fold{fold}" / name,
                (44100, 48000, 96000)[fold % 3],
                1 + fold % 2,
                seconds,
                ("PCM_16", "PCM_24")[number],
            )
    table(path / "metadata" / "UrbanSound8K.csv", US8K_COLUMNS, rows, ",")
    (path / "UrbanSound8K_README.txt").write_text("read me")
    return path


def deepship(path: Path, seconds: float = 0.35) -> Path:
    """Four kinds of ships, five passages of `seconds` each; the first two of a kind are by one ship."""
    for kind in ("Cargo", "Passengership", "Tanker", "Tug"):
        rows: list[Sequence[object]] = []
        for number in range(5):
            date, time = f"2017110{number + 1}", f"20362{number}"
            wav(path / kind / f"{date}-{number}" / f"{time}.wav", 32000, seconds=seconds)
            rows.append((number, 70, f"{kind.upper()} {max(number, 1)} ", date, time, 458, "1583-1981", "\t"))
        table(path / kind / f"{kind.lower()}-metafile", None, [*rows[:2], (), *rows[2:]], ",")
    return path


def vtuad(path: Path, shared: bool = False, seconds: float = 0.1) -> Path:
    """A scenario with three clips of each label in each split; the ship of the first clip is in all splits.

    Args:
        path: the folder to make.
        shared: clips of 0.1 s are parts of one file; else each clip is a file of `seconds`.
        seconds: see above.
    """
    for s, split in enumerate(("train", "validation", "test")):
        rows: list[Sequence[object]] = []
        for k, label in enumerate(("background", "cargo", "tug")):
            for number in range(3):
                file = 10 * k if shared else 10 * k + number
                ship = (
                    ""
                    if label == "background"
                    else f"{316000000 + (10 * k if number == 0 else 100 * s + 10 * k + number)}.0"
                )
                rows.append((len(rows), label, 0.1, file, number if shared else 7, 32000, 0, 20170701, ship))
                wav(path / split / "audio" / label / f"{file}.wav", 32000, seconds=2.5 if shared else seconds)
        table(
            path / split / "metadata.csv",
            ("", "label", "duration_sec", "file_index", "sub_init", "sample_rate", "class_code", "date", "MMSI"),
            rows,
            ",",
        )
    return path
