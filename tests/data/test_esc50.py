"""The ESC-50 adapter, on a small set in its layout and on the real data where that is available."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgekd.data.sets import esc50
from edgekd.errors import InputError

REAL = Path(__file__).parents[3] / "shared" / "data" / "esc50"
HEADER = "filename,fold,target,category,esc10,src_file,take"
ROWS = [
    "1-10-A-0.wav,1,0,dog,True,10,A",
    "2-10-A-1.wav,2,1,cat,True,10,A",
    "2-11-A-0.wav,2,0,dog,True,11,A",
    "5-12-A-0.wav,5,0,dog,True,12,A",
]


def make(path, rows=ROWS, files=("1-10-A-0.flac", "2-10-A-1.flac", "2-11-A-0.flac"), header=HEADER):
    (path / "meta").mkdir(parents=True)
    (path / "audio").mkdir()
    (path / "meta" / "esc50.csv").write_text("\n".join([header, *rows]) + "\n")
    for name in files:
        soundfile.write(path / "audio" / name, np.zeros(100), 16000)
    return path


def test_the_official_layout_is_read_whatever_the_format(tmp_path):
    found = esc50.read(make(tmp_path / "esc"))
    assert [source.clip.path for source in found.sources] == ["1-10-A-0.flac", "2-10-A-1.flac", "2-11-A-0.flac"]
    assert [source.clip.split for source in found.sources] == ["fold1", "fold2", "fold2"]
    assert [source.clip.label for source in found.sources] == ["dog", "cat", "dog"]
    assert [source.clip.group for source in found.sources] == ["10", "10", "11"]
    assert found.licence == "CC BY-NC 3.0"
    assert found.official_folds


def test_an_absent_fold_is_noted_and_a_missing_file_is_kept_to_be_named(tmp_path):
    found = esc50.read(make(tmp_path / "esc", files=("1-10-A-0.flac", "2-10-A-1.flac")))
    assert found.notes == ["fold5: none of its 1 clips was found; the store has no fold5"]
    assert found.sources[-1].file.name == "2-11-A-0.wav"


@pytest.mark.parametrize("level", ["..", "audio", "meta"])
def test_a_wrong_folder_level_names_the_right_one(tmp_path, level):
    make(tmp_path / "esc")
    with pytest.raises(InputError, match=r"meta/esc50.csv; .*esc"):
        esc50.read((tmp_path / "esc" / level).resolve())


@pytest.mark.parametrize(
    ("rows", "files", "header", "message"),
    [
        (ROWS, (), HEADER, "holds none of the 4 clips"),
        (["1-10-A-0.wav,7,0,dog,True,10,A"], ("x.wav",), HEADER, "row 2: fold '7'"),
        (ROWS, (), HEADER.replace("category", "kind"), "no column 'category'"),
        ([], (), HEADER, "holds no rows"),
    ],
)
def test_a_damaged_copy_is_refused(tmp_path, rows, files, header, message):
    with pytest.raises(InputError, match=message):
        esc50.read(make(tmp_path / "esc", rows, files, header))


def test_what_is_not_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="it is not a folder"):
        esc50.read(tmp_path / "nothing")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real ESC-50 is not at ../shared/data/esc50")
def test_all_of_the_real_data_is_found():
    found = esc50.read(REAL)
    assert len(found.sources) == 1600
    assert {source.clip.split for source in found.sources} == {"fold1", "fold2", "fold3", "fold4"}
    assert len({source.clip.label for source in found.sources}) == 50
