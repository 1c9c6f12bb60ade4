"""Data sets in their official layouts, made up: same tables, names, formats and traps, small counts, noise for audio."""

import numpy as np
import soundfile

SCENES = ("airport", "bus", "metro")
CITIES = ("lisbon", "milan", "vienna")
US8K_COLUMNS = ("slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class")
MOBILE_RECORDERS = ("a", "b", "c", "s1", "s2", "s3", "s4")


def wav(path, rate=44100, channels=1, seconds=0.05, subtype="PCM_24"):
    """Writes a file of noise, the same for the same path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(list(path.name.encode())).uniform(-0.5, 0.5, (round(rate * seconds), channels))
    soundfile.write(path, noise, rate, subtype=subtype)


def table(path, header, rows, delimiter="\t"):
    """Writes a table; header None writes none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [*([header] if header else []), *rows]
    path.write_text("".join(delimiter.join(map(str, line)) + "\n" for line in lines), encoding="utf-8")


def scene_rows(recorders, slices):
    """(file, scene, place, recorder): three scenes, three cities, a location each, two segments."""
    rows = []
    for s, scene in enumerate(SCENES):
        for c, city in enumerate(CITIES):
            place = 1000 + 10 * s + c
            for segment in range(2):
                for recorder in recorders:
                    stem = f"audio/{scene}-{city}-{place}-{40000 + segment}"
                    names = [f"{stem}-{k}-{recorder}.wav" for k in range(slices)] if slices else [f"{stem}-{recorder}.wav"]
                    rows += [(name, scene, f"{city}-{place}", recorder) for name in names]
    return rows


def scenes(path, *, slices=0, recorders=("a",), rate=48000, channels=2, suffix=".csv", header=True, audio=True):
    """An urban-scenes set. Milan is evaluated, the second of its segments unused; s4 is never trained on."""
    rows = scene_rows(recorders, slices)
    table(path / "meta.csv", ("filename", "scene_label", "identifier", "source_label"), rows)
    train = [row[:2] for row in rows if "milan" not in row[2] and row[3] != "s4"]
    evaluate = [row[:2] for row in rows if "milan" in row[2] and "-40000-" in row[0]]
    labelled = ("filename", "scene_label") if header else None
    table(path / "evaluation_setup" / f"fold1_train{suffix}", labelled, train)
    table(path / "evaluation_setup" / f"fold1_evaluate{suffix}", labelled, evaluate)
    table(path / "evaluation_setup" / f"fold1_test{suffix}", ("filename",) if header else None, [row[:1] for row in evaluate])
    for name, *_ in rows if audio else ():
        wav(path / name, rate, channels)
    return path


def urbansound8k(path):
    """Twenty clips in ten folds, of several rates, depths and channel counts."""
    rows = []
    for fold in range(1, 11):
        for number, label in enumerate(("car_horn", "dog_bark")):
            name = f"{100 * fold + number}-{number}-0-0.wav"
            rows.append((name, 100 * fold + number, 0.0, 0.05, 1, fold, number, label))
            wav(path / "audio" / f"fold{fold}" / name, (44100, 48000, 96000)[fold % 3], 1 + fold % 2, subtype=("PCM_16", "PCM_24")[number])
    table(path / "metadata" / "UrbanSound8K.csv", US8K_COLUMNS, rows, ",")
    (path / "UrbanSound8K_README.txt").write_text("read me")
    return path


def deepship(path):
    """Four kinds of ships, five passages of 0.35 s each; the first two of a kind are of one ship."""
    for kind in ("Cargo", "Passengership", "Tanker", "Tug"):
        rows = []
        for number in range(5):
            date, time = f"2017110{number + 1}", f"20362{number}"
            wav(path / kind / f"{date}-{number}" / f"{time}.wav", 32000, seconds=0.35)
            rows.append((number, 70, f"{kind.upper()} {max(number, 1)} ", date, time, 458, "1583-1981", "\t"))
        table(path / kind / f"{kind.lower()}-metafile", None, [*rows[:2], (), *rows[2:]], ",")
    return path


def vtuad(path, shared=False):
    """A scenario: three clips of each label in each split; the ship of the first is in all of them. shared: clips are parts of one file."""
    for s, split in enumerate(("train", "validation", "test")):
        rows = []
        for k, label in enumerate(("background", "cargo", "tug")):
            for number in range(3):
                file = 10 * k if shared else 10 * k + number
                ship = "" if label == "background" else f"{316000000 + (10 * k if number == 0 else 100 * s + 10 * k + number)}.0"
                rows.append((len(rows), label, 0.1, file, number if shared else 7, 32000, 0, 20170701, ship))
                wav(path / split / "audio" / label / f"{file}.wav", 32000, seconds=2.5 if shared else 0.1)
        table(path / split / "metadata.csv",
              ("", "label", "duration_sec", "file_index", "sub_init", "sample_rate", "class_code", "date", "MMSI"), rows, ",")
    return path
