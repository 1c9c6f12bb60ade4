"""`data prepare` of each published data set, from its official layout to a store, on the command line."""

import json

import numpy as np
import pytest
import soundfile
import typer.main

from edgekd import cli
from edgekd.data import prepare as data
from edgekd.data.sets import toy_sets
from edgekd.data.sets.metadata import DATA_SETS
from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.evaluation import evaluate


def evaluation(path):
    for number in range(2):
        toy_sets.wav(path / "audio" / f"{number}.wav")
    toy_sets.table(
        path / "evaluation_setup" / "fold1_test.csv", ("filename",), [[f"audio/{number}.wav"] for number in range(2)]
    )
    return path


def mobile(path, slices=0):
    return toy_sets.scenes(path, slices=slices, recorders=toy_sets.MOBILE_RECORDERS, rate=44100, channels=1)


TREES = {
    "tau22": (lambda path: mobile(path, 2), (), {"train": 144, "evaluate": 42, "unused": 66}),
    "tau22-evaluation": (evaluation, (), {"evaluation": 2}),
    "tau20": (mobile, (), {"train": 72, "evaluate": 21, "unused": 33}),
    "tau19": (toy_sets.scenes, ("--channels", 2), {"train": 12, "evaluate": 3, "unused": 3}),
    "tut18": (toy_sets.tut18, ("--fold", 1), {"train": 12, "evaluate": 3, "unused": 3}),
    "urbansound8k": (toy_sets.urbansound8k, (), dict.fromkeys((f"fold{fold}" for fold in range(1, 11)), 2)),
    "deepship": (toy_sets.deepship, ("--segment", 0.1), {"train": 42, "test": 18}),
    "vtuad": (toy_sets.vtuad, (), {"train": 9, "validation": 9, "test": 9}),
}


def test_every_known_data_set_has_an_adapter_and_is_named_in_the_help():
    assert set(data.ADAPTERS) == set(DATA_SETS)
    assert set(TREES) == set(DATA_SETS) - {"esc50", "folder"}
    arguments = typer.main.get_command(cli.app).commands["data"].commands["prepare"].params
    assert all(name in arguments[0].help for name in DATA_SETS)


@pytest.mark.parametrize("name", TREES)
def test_each_is_prepared_and_described(edgekd, tmp_path, name):
    make, options, splits = TREES[name]
    prepare = ("data", "prepare", name, make(tmp_path / "tree"), "--sample-rate", 8000, *options)
    status, out, err = edgekd(*prepare, "--out", tmp_path / "store")
    assert status == 0, err
    assert f": {name}, {sum(splits.values())} clips" in out
    assert DATA_SETS[name].licence in out
    status, out, _ = edgekd("data", "info", tmp_path / "store", "--json")
    report = json.loads(out)
    assert list(report["splits"].items()) == sorted(
        splits.items(), key=lambda item: (item[0].rstrip("0123456789"), len(item[0]), item[0])
    )
    assert report["channels"] == (2 if name == "tau19" else 1)
    assert bool(report["cities"]) == DATA_SETS[name].cities
    store = ClipStore.open(tmp_path / "store")
    assert min(store.lengths) > 0


def test_info_counts_cities_and_recorders_and_unused_clips_are_no_leaks(edgekd, tmp_path):
    edgekd("data", "prepare", "tau20", mobile(tmp_path / "tree"), "--out", tmp_path / "store", "--sample-rate", 8000)
    _, out, _ = edgekd("data", "info", tmp_path / "store")
    rows = [line.split() for line in out.splitlines()]
    assert ["city", "evaluate", "train", "unused"] in rows
    assert ["milan", "21", "0", "21"] in rows
    assert ["s4", "3", "0", "15"] in rows
    assert "leaks" not in out  # a location that also has unused clips is no leak


def test_a_store_without_labels_is_refused_for_training_and_scoring(edgekd, tmp_path):
    _, out, err = edgekd(
        "data", "prepare", "tau22-evaluation", evaluation(tmp_path / "tree"), "--out", tmp_path / "store"
    )
    assert "no labels: these clips can be predicted, not trained on" in out
    assert "note: these clips have no labels" in err
    store = ClipStore.open(tmp_path / "store")
    with pytest.raises(
        InputError,
        match="tau22-evaluation has no labels",
    ):
        store.partition(["evaluation"], [])
    with pytest.raises(InputError, match=r"no labels .*edgekd predict"):
        evaluate.check_labelled(store)


def test_a_store_of_segments_is_resumed(edgekd, tmp_path):
    tree = toy_sets.deepship(tmp_path / "tree")
    prepare = ("data", "prepare", "deepship", tree, "--segment", 0.1, "--sample-rate", 8000, "--out")
    assert edgekd(*prepare, tmp_path / "expected")[0] == 0
    last = tree / "Tug" / "20171105-4" / "203624.wav"
    audio = last.read_bytes()
    soundfile.write(last, np.full(11200, np.nan), 32000, subtype="FLOAT")
    assert edgekd(*prepare, tmp_path / "store")[0] == 2
    last.write_bytes(audio)
    status, _, err = edgekd(*prepare, tmp_path / "store")
    assert (status, "resuming with" in err) == (0, True)
    assert (tmp_path / "store" / "audio.i16").read_bytes() == (tmp_path / "expected" / "audio.i16").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "tau2", "TREE"), "no data set 'tau2'; did you mean 'tau2"),
        (("prepare", "tau19", "TREE", "--subset", "5"), "--subset belongs to 'data prepare tau22'"),
        (("prepare", "tau22", "TREE", "--segment", "5"), "--segment belongs to 'data prepare deepship'"),
        (
            ("prepare", "urbansound8k", "TREE", "--test-fraction", "0.5"),
            "--test-fraction belongs to 'data prepare deepship, folder'",
        ),
        (("prepare", "tut18", "TREE", "--fold", "0"), "--fold 0: wanted 1 or more"),
    ],
)
def test_bad_usage_is_one_line(edgekd, tmp_path, arguments, message):
    status, out, err = edgekd(
        "data", *(str(tmp_path) if word == "TREE" else word for word in arguments), "--out", tmp_path / "store"
    )
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
