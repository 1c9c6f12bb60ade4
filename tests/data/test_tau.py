"""The urban-scenes adapters, on generated files in the official layouts and on tables of the official size."""

import random
import time
from collections import Counter

import numpy as np
import pytest

from edgekd.data.audio.decode import decode
from edgekd.data.sets import tau, tau19, tau20, tau22, tau22_evaluation, tut18
from edgekd.data.sets.toy_sets import CITIES_OF_2018, MOBILE_RECORDERS, scenes, table, wav
from edgekd.data.sets.toy_sets import tut18 as tut18_tree
from edgekd.data.store.clips import UNLABELLED
from edgekd.errors import InputError


@pytest.fixture
def mobile(tmp_path):
    return scenes(tmp_path / "tau22", slices=2, recorders=MOBILE_RECORDERS, rate=44100, channels=1)


def counts(found):
    return Counter(source.clip.split for source in found.sources)


def test_tau22_is_read_with_its_lists_slices_locations_and_recorders(mobile):
    found = tau22.read(mobile)
    assert counts(found) == {"train": 144, "evaluate": 42, "unused": 66}
    clip = next(source.clip for source in found.sources if source.clip.path == "audio/bus-milan-1011-40000-1-s4.wav")
    assert (clip.label, clip.split, clip.group, clip.recorder) == ("bus", "evaluate", "milan-1011", "s4")
    assert clip.parent == "bus-milan-1011-40000-s4"
    assert found.official_folds
    assert "no commercial use" in found.licence
    assert found.notes == ["66 clips are neither for training nor for evaluation: split 'unused'"]
    pcm = decode(found.sources[0].file, 44100, 1)
    assert pcm.shape == (2205, 1)
    assert len(np.unique(pcm)) > 1000


def test_a_subset_of_the_training_clips_leaves_the_rest_unused(mobile):
    names = [source.clip.path for source in tau22.read(mobile).sources if source.clip.split == "train"][:14]
    table(mobile / "split_setup" / "split10.csv", ("filename",), [[name] for name in names])
    found = tau22.read(mobile, subset=10)
    assert counts(found) == {"train": 14, "evaluate": 42, "unused": 196}
    table(mobile / "evaluation_setup" / "split10.csv", ("filename",), [["audio/bus-milan-1011-40000-1-a.wav"]])
    with pytest.raises(InputError, match=r"1 file .*training list"):
        tau22.read(mobile, subset=10)
    with pytest.raises(InputError, match=r"no evaluation_setup/split5.csv"):
        tau22.read(mobile, subset=5)
    with pytest.raises(InputError, match="--subset 7: wanted 5, 10"):
        tau22.read(mobile, subset=7)


def test_a_partial_download_is_counted_by_split_and_left_out_on_request(mobile):
    for name in ("bus-milan-1011-40000-1-a", "bus-lisbon-1010-40000-0-a", "bus-lisbon-1010-40000-1-a"):
        (mobile / "audio" / f"{name}.wav").unlink()
    wav(mobile / "audio" / "stray.wav")
    (mobile / "audio" / "._hidden.wav").write_bytes(b"")
    with pytest.raises(InputError, match=r"3 of 252 .*: 1 of 42 .*, 2 of 144 "):
        tau22.read(mobile)
    found = tau22.read(mobile, skip_bad=True)
    assert counts(found) == {"train": 142, "evaluate": 41, "unused": 66}
    assert "3 of 252 clips missing and left out: 1 of 42 of 'evaluate', 2 of 144 of 'train'" in found.notes
    assert "1 audio file that meta.csv does not list, ignored: audio/stray.wav" in found.notes


def test_a_folder_without_audio_is_refused_also_with_skip_bad(tmp_path):
    with pytest.raises(InputError, match="holds none of the 18 clips"):
        tau19.read(scenes(tmp_path / "bare", audio=False), skip_bad=True)


@pytest.mark.parametrize("level", ["..", "../..", "audio", "evaluation_setup"])
def test_a_wrong_folder_level_names_the_right_one(tmp_path, level):
    path = scenes(tmp_path / "data" / "tau19")
    with pytest.raises(InputError, match=r"has no meta.csv; did you mean .*tau19\?"):
        tau19.read((path / level).resolve())


def test_tau19_and_tau20_have_complete_recordings(tmp_path):
    found = tau19.read(scenes(tmp_path / "tau19"))
    assert counts(found) == {"train": 12, "evaluate": 3, "unused": 3}
    assert {source.clip.parent for source in found.sources} == {""}
    assert decode(found.sources[0].file, 48000, 2).shape == (2400, 2)
    found = tau20.read(scenes(tmp_path / "tau20", recorders=MOBILE_RECORDERS, rate=44100, channels=1))
    assert counts(found) == {"train": 72, "evaluate": 21, "unused": 33}


def test_tut18_lists_are_text_without_header_and_other_folds_are_read_on_request(tmp_path):
    path = tut18_tree(tmp_path / "tut18")
    assert counts(tut18.read(path)) == {"train": 12, "evaluate": 3, "unused": 3}
    with pytest.raises(InputError, match=r"no fold2_evaluate.csv; .*--fold 1"):
        tut18.read(path, fold=2)
    setup = path / "evaluation_setup"
    (setup / "fold2_evaluate.txt").write_bytes((setup / "fold1_train.txt").read_bytes())
    with pytest.raises(InputError, match=r"has no fold2_train.csv"):
        tut18.read(path, fold=2)
    (setup / "fold2_train.txt").write_bytes((setup / "fold1_evaluate.txt").read_bytes())
    assert counts(tut18.read(path, fold=2)) == {"train": 3, "evaluate": 12, "unused": 3}


def test_a_missing_evaluate_list_is_replaced_by_the_test_list(mobile):
    (mobile / "evaluation_setup" / "fold1_evaluate.csv").unlink()
    assert counts(tau22.read(mobile))["evaluate"] == 42
    (mobile / "evaluation_setup" / "fold1_test.csv").unlink()
    with pytest.raises(InputError, match=r"no fold1_evaluate.csv"):
        tau22.read(mobile)


@pytest.mark.parametrize(
    ("adapter", "tree", "documented"),
    [
        (tau22, {"slices": 2}, 139620),
        (tau20, {"recorders": MOBILE_RECORDERS}, 13962),
        (tau19, {}, 9185),
        (tut18, {"cities": CITIES_OF_2018}, 6122),
    ],
)
def test_a_missing_training_list_is_refused_where_the_number_of_clips_is_not_the_documented_one(
    tmp_path, adapter, tree, documented
):
    path = scenes(tmp_path / "x", **tree)
    (path / "evaluation_setup" / "fold1_train.csv").unlink()
    with pytest.raises(InputError, match=f"no fold1_train.csv, .* {documented} are"):
        adapter.read(path)


def test_a_missing_training_list_is_replaced_where_the_number_of_clips_is_the_documented_one(tmp_path, monkeypatch):
    path = scenes(tmp_path / "x")
    (path / "evaluation_setup" / "fold1_train.csv").unlink()
    monkeypatch.setattr(
        tau19,
        "EDITION",
        tau.Edition("tau19", tau.all_not_evaluated(12, lambda clip: not clip.group.startswith("milan-"))),
    )
    found = tau19.read(path)
    assert counts(found) == {"train": 12, "evaluate": 3, "unused": 3}
    assert found.notes[0].startswith("no fold1_train.csv")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("meta.csv", "scene_label", "scene", "no column 'scene_label'"),
        ("meta.csv", "\tbus\t", "\t\t", "scene ''"),
        ("meta.csv", "\tlisbon-1000\t", "\tlisbon\t", "identifier 'lisbon'"),
        (
            "meta.csv",
            "audio/bus-lisbon-1010-40001-a.wav",
            "audio/bus-lisbon-1010-40000-a.wav",
            "lists 1 file more than once",
        ),
        ("evaluation_setup/fold1_train.csv", "\tbus", "\ttram", "'tram', but in meta.csv 'bus'"),
        (
            "evaluation_setup/fold1_train.csv",
            "bus-lisbon-1010-40001",
            "bus-lisbon-1010-5",
            "names 1 file that is not in meta.csv",
        ),
        (
            "evaluation_setup/fold1_train.csv",
            "bus-lisbon-1010-40001",
            "bus-milan-1011-40000",
            "1 clip is in the training and in the",
        ),
        ("evaluation_setup/fold1_train.csv", None, "", "holds no rows"),
        ("meta.csv", None, "filename\tscene_label\tidentifier\n", "holds no rows"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, file, old, new, message):
    path = scenes(tmp_path / "x", audio=False)
    text = (path / file).read_text()
    (path / file).write_text(text.replace(old, new) if old else new)
    with pytest.raises(InputError, match=message):
        tau19.read(path)


def test_no_edition_is_taken_for_another(tmp_path):
    made = {
        "tau22": scenes(tmp_path / "a", slices=2, recorders=MOBILE_RECORDERS),
        "tau20": scenes(tmp_path / "b", recorders=MOBILE_RECORDERS),
        "tau19": scenes(tmp_path / "c"),
        "tut18": tut18_tree(tmp_path / "d"),
    }
    adapters = {"tau22": tau22, "tau20": tau20, "tau19": tau19, "tut18": tut18}
    for name, path in made.items():
        for wanted, adapter in adapters.items():
            if wanted == name:
                assert adapter.read(path).name == name
                continue
            with pytest.raises(InputError, match=f"meta.csv .*: prepare it as {name}"):
                adapter.read(path)
    for name, adapter in adapters.items():
        with pytest.raises(InputError, match=rf"has no meta.csv; did you mean {made[name]}\?"):
            adapter.read(tmp_path)


def test_names_of_slices_are_checked(tmp_path):
    path = scenes(tmp_path / "x", slices=2)
    (path / "meta.csv").write_text(
        (path / "meta.csv").read_text().replace("bus-lisbon-1010-40001-1-a", "bus-lisbon-1010-40001-a")
    )
    with pytest.raises(
        InputError,
        match=r"'audio/bus-lisbon-1010-40001-a.wav'",
    ):
        tau22.read(path)


def test_the_evaluation_set_has_no_labels(tmp_path, mobile):
    path = tmp_path / "evaluation"
    for number in range(3):
        wav(path / "audio" / f"{number}.wav")
    table(path / "evaluation_setup" / "fold1_test.csv", ("filename",), [[f"audio/{number}.wav"] for number in range(3)])
    found = tau22_evaluation.read(path)
    assert [(source.clip.path, source.clip.label, source.clip.split) for source in found.sources] == [
        (f"audio/{number}.wav", UNLABELLED, "evaluation") for number in range(3)
    ]
    assert "no labels" in found.notes[-1]
    (path / "audio" / "1.wav").unlink()
    with pytest.raises(InputError, match=r"1 of 3 clips that fold1_test.csv"):
        tau22_evaluation.read(path)
    with pytest.raises(InputError, match="prepare it as tau22"):
        tau22_evaluation.read(mobile)


LOCATIONS = ((28, 12), (51, 20), (47, 20), (40, 17), (30, 11), (31, 12), (26, 10), (32, 14), (31, 12), (49, 21))
"""Locations for training and for evaluation of each scene."""


def full_size():
    """(rows, training files, evaluated files) of a table with the counts of TAU 2022: 514 locations, 230,350 slices."""
    rng = random.Random(0)
    locations_of = dict(zip(tau22.MAIN_RECORDER_CLIPS, LOCATIONS, strict=True))
    rows, train, evaluate = [], set(), set()

    def add(scene, location, segments, recorder, into=None):
        for segment in segments:
            for piece in range(10):
                name = f"audio/{scene}-{location}-{segment}-{piece}-{recorder}.wav"
                rows.append((name, scene, location, recorder))
                if into is not None:
                    into.add(name)

    for scene, (train_locations, test_locations) in locations_of.items():
        one_recorder = scene in ("bus", "metro_station", "tram")  # a location with recorder a alone
        trained = tau22.MAIN_RECORDER_CLIPS[scene] // 10
        for side, locations, total in ((train, train_locations, trained), (evaluate, test_locations, 1440 - trained)):
            shares = Counter(rng.choices(range(locations), k=total - 12 * locations)) + Counter(
                dict.fromkeys(range(locations), 12)
            )
            for number in range(locations):
                location = f"city-{scene}{'t' if side is train else 'e'}{number}"
                segments = range(shares[number])
                if side is train:
                    add(scene, location, segments, "a", train)
                else:
                    count = (
                        0
                        if one_recorder and number == 0
                        else len(share(33, locations - one_recorder, number - one_recorder))
                    )
                    add(scene, location, segments[:count], "a", evaluate)
                    add(scene, location, segments[count:], "a")
                    for recorder in ("b", "c", "s1", "s2", "s3", "s4", "s5", "s6"):
                        fewer = number == locations - 1 and (scene, recorder) in (("airport", "b"), ("airport", "c"))
                        add(scene, location, segments[: count - fewer], recorder, evaluate)
        for recorder in ("b", "c", "s1", "s2", "s3", "s4", "s5", "s6"):
            lacks = (recorder == "b") * (scene == "park") + (recorder == "c") * (scene in ("park", "tram"))
            for number in range(train_locations - 3):  # three locations with recorder a alone
                some = share(75 - lacks, train_locations - 3, number)
                add(scene, f"city-{scene}t{number}", some, recorder, train if recorder < "s4" else None)
    return rows, train, evaluate


def share(total, parts, part):
    """A range of one part's share of `total`."""
    return range(total // parts + (part < total % parts))


@pytest.mark.slow
def test_fold_1_of_tau22_at_full_size_with_and_without_its_training_list(tmp_path):
    rows, train, evaluate = full_size()
    scene = {name: label for name, label, *_ in rows}
    table(tmp_path / "meta.csv", ("filename", "scene_label", "identifier", "source_label"), rows)
    setup = tmp_path / "evaluation_setup"
    for name, files in (("train", train), ("evaluate", evaluate)):
        table(setup / f"fold1_{name}.csv", ("filename", "scene_label"), [(file, scene[file]) for file in sorted(files)])
    began = time.process_time()
    listed = tau.read_tables(tmp_path, tau22.EDITION)
    seconds = time.process_time() - began
    assert Counter(clip.split for clip in listed) == {"train": 139620, "evaluate": 29680, "unused": 61050}
    by_recorder = Counter((clip.split, clip.recorder) for clip in listed)
    assert [by_recorder["train", recorder] for recorder in ("a", "b", "c", "s1")] == [102150, 7490, 7480, 7500]
    assert by_recorder["evaluate", "a"] == by_recorder["evaluate", "s6"] == 3300
    assert by_recorder["evaluate", "b"] == by_recorder["evaluate", "c"] == 3290
    locations = {split: {clip.group for clip in listed if clip.split == split} for split in ("train", "evaluate")}
    assert (len(locations["train"]), len(locations["evaluate"]), len(locations["train"] & locations["evaluate"])) == (
        365,
        146,
        0,
    )
    assert len({clip.parent for clip in listed}) == 23035
    assert seconds < 30
    (setup / "fold1_train.csv").unlink()
    assert tau.assign_splits(listed, setup, tau22.EDITION.training_clips) == listed


def test_lists_may_have_columns_of_their_own(mobile):
    names = [source.clip.path for source in tau22.read(mobile).sources if source.clip.split == "train"][:14]
    table(
        mobile / "split25.csv",
        ("", "identifier", "filename"),
        [[number, "x-1", name] for number, name in enumerate(names)],
    )
    assert counts(tau22.read(mobile, subset=25))["train"] == 14
    table(mobile / "split25.csv", ("", "filename"), [[0, names[0]], [1, ""]])
    with pytest.raises(InputError, match="row '1 ' names no file"):
        tau22.read(mobile, subset=25)
