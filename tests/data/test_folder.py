"""The folder adapter: trees and CSVs."""

import os
from collections import Counter

import pytest

from edgekd.data.sets import folder
from edgekd.errors import InputError


def tree(path, *names):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).touch()
    return path


def table(path, *lines):
    path.mkdir(exist_ok=True)
    (path / "clips.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path, path / "clips.csv"


def splits(found):
    return {source.clip.path: source.clip.split for source in found.sources}


def test_a_tree_of_labels_is_split_into_train_and_test_the_same_way_every_time(tmp_path):
    names = [f"{label}/{i}.wav" for label in ("cat", "dog") for i in range(10)]
    found = folder.read(tree(tmp_path / "set", *names, ".git/x.wav", "cat/._1.wav", "cat/readme.txt"))
    assert Counter((source.clip.label, source.clip.split) for source in found.sources) == {
        ("cat", "train"): 8,
        ("cat", "test"): 2,
        ("dog", "train"): 8,
        ("dog", "test"): 2,
    }
    assert splits(found) == splits(folder.read(tree(tmp_path / "elsewhere", *names)))
    assert "4 of 20 clips assigned to 'test'" in found.notes[0]
    assert found.name == "set"
    assert found.licence == "unknown"


def test_folders_below_a_label_are_groups_and_stay_together(tmp_path):
    found = folder.read(
        tree(tmp_path, *(f"{label}/place{p}/{i}.wav" for label in ("cat", "dog") for p in range(4) for i in range(5)))
    )
    pairs = {(source.clip.group, source.clip.split) for source in found.sources}
    assert len(pairs) == 8  # each group in one split only
    assert "cat/place0" in {group for group, _ in pairs}
    assert Counter(split for _, split in pairs) == {"train": 6, "test": 2}


def test_a_group_shared_by_labels_is_in_one_split_and_each_label_is_in_both(tmp_path):
    rows = [
        f"{label}{g}{i}.wav,{label},place{g}" for label in ("cat", "dog", "owl") for g in range(6) for i in range(2)
    ]
    found = folder.read(*table(tmp_path / "set", "filename,label,group", *rows))
    assert len({(source.clip.group, source.clip.split) for source in found.sources}) == 6
    assert len({(source.clip.label, source.clip.split) for source in found.sources}) == 6


def test_a_label_with_one_group_stays_in_train(tmp_path):
    found = folder.read(tree(tmp_path, "cat/only.wav", *(f"dog/{i}.wav" for i in range(5))))
    assert splits(found)["cat/only.wav"] == "train"


def test_a_tree_of_splits_keeps_them(tmp_path):
    found = folder.read(tree(tmp_path, "train/cat/1.wav", "train/dog/far/2.flac", "Test/cat/3.mp3", "fold_1/dog/4.ogg"))
    assert splits(found) == {
        "train/cat/1.wav": "train",
        "train/dog/far/2.flac": "train",
        "Test/cat/3.mp3": "Test",
        "fold_1/dog/4.ogg": "fold_1",
    }
    assert {source.clip.label for source in found.sources} == {"cat", "dog"}
    assert {source.clip.group for source in found.sources} == {"", "dog/far"}
    assert found.notes == ["folders read as SPLIT/LABEL: Test, fold_1, train"]


def test_names_that_are_not_utf8_are_written_with_escapes(tmp_path):
    tree(tmp_path, *(os.fsdecode(name) for name in (b"caf\xe9/\xff.wav", b"mus\xc3\xa9e/\xff.wav")))
    clips = [source.clip for source in folder.read(tmp_path).sources]
    assert sorted((clip.label, clip.path) for clip in clips) == [
        ("caf\\xe9", "caf\\xe9/\\xff.wav"),
        ("musée", "musée/\\xff.wav"),
    ]
    assert all(source.file.exists() for source in folder.read(tmp_path).sources)


@pytest.mark.parametrize(
    ("names", "level", "message"),
    [
        (
            ("cat/1.wav", "dog/2.wav"),
            "cat",
            r"1 audio file .*\(1.wav\); .*set",
        ),
        (("cat/1.wav", "dog/2.wav", "3.wav"), "", r"\(3.wav\); move them"),
        (("set/cat/1.wav", "set/dog/2.wav"), "", r"one folder .*\('set'\).*set"),
        (("cat/1.wav",), "", "needs two labels or more"),
        (("train/1.wav", "test/dog/2.wav"), "", r"\(train/1.wav\); .*SPLIT/LABEL/FILE"),
        (("cat/1.txt",), "", "holds no audio"),
        (("cat/1.wav",), "nothing", "is not a folder"),
    ],
)
def test_a_wrong_folder_is_refused(tmp_path, names, level, message):
    with pytest.raises(InputError, match=message):
        folder.read(tree(tmp_path / "set", *names) / level)


def test_a_table_gives_all_columns_and_may_be_the_path_itself(tmp_path):
    header = "\ufefffilename;label;split;group;recorder;parent;mood"
    path, csv = table(tmp_path / "set", header, 'x/1.wav;cat;fold1;g;a;p;"fine; so far"', "2.wav; dog ;fold2")
    found = folder.read(csv)
    first, second = (source.clip for source in found.sources)
    assert (first.path, first.label, first.split, first.group, first.recorder, first.parent) == (
        "x/1.wav",
        "cat",
        "fold1",
        "g",
        "a",
        "p",
    )
    assert (second.label, second.group) == ("dog", "")
    assert found.sources[0].file == path / "x/1.wav"
    assert found.notes == ["clips.csv: columns not read: mood"]


def test_a_table_of_tabs_with_windows_line_ends_and_empty_columns_is_read(tmp_path):
    path, csv = table(tmp_path / "set", "")
    csv.write_bytes(b"filename\tlabel\tsplit\t\r\n./1.wav\tcat\ttrain\t\r\n\r\n2.wav\tdog\ttest\r\n")
    found = folder.read(path, csv)
    assert splits(found) == {"1.wav": "train", "2.wav": "test"}
    assert found.notes == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,label", "1.wav,cat"], "'filename'; did you mean 'file'"),
        (["filename,label", "1.wav,"], "row 2: no label"),
        (["filename,label,split", "1.wav,cat,a", "2.wav,cat,"], "row 3: no split"),
        (["filename,label"], "holds no rows"),
        (["filename,label,label", "1.wav,cat,dog"], "column 'label' more than once"),
        (["filename,label", "1.wav,cat", "2.wav,cat"], r"clips\.csv: .*label 'cat'"),
        (["filename,label", "1,2.wav,cat"], "row 2: 3 fields for 2 columns"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        folder.read(*table(tmp_path / "set", *lines))


def test_a_table_in_another_encoding_or_folder_is_refused(tmp_path):
    path, csv = table(tmp_path / "set", "x")
    csv.write_bytes("filename,label\nmöwe.wav,bird\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        folder.read(path, csv)
    with pytest.raises(InputError, match="cannot be read"):
        folder.read(path, tmp_path / "other.csv")
    with pytest.raises(InputError, match=r"--test-fraction 1\.5"):
        folder.read(path, csv, test_fraction=1.5)
