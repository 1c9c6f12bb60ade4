"""The UrbanSound8K adapter, on generated files in the official layout."""

import pytest

from edgekd.data.audio.decode import decode
from edgekd.data.sets import toy_sets, urbansound8k
from edgekd.errors import InputError


@pytest.fixture
def path(tmp_path):
    return toy_sets.urbansound8k(tmp_path / "UrbanSound8K")


def test_the_ten_folds_are_kept_and_clips_grouped_by_recording(path):
    found = urbansound8k.read(path)
    assert [source.clip.split for source in found.sources[::2]] == [f"fold{fold}" for fold in range(1, 11)]
    clip = found.sources[3].clip
    assert (clip.path, clip.label, clip.group) == ("fold2/201-1-0-0.wav", "dog_bark", "201")
    assert found.official_folds
    assert found.licence == "CC BY-NC 3.0"
    folds = "fold1,fold2,fold3,fold4,fold5,fold6,fold7,fold8,fold9,fold10"
    assert found.notes == [
        f"the folds must not be mixed: test each once, by edgekd crossval RECIPE --data STORE --out DIR --folds {folds}"
    ]
    assert {decode(source.file, 16000, 1).shape for source in found.sources} == {(800, 1)}


def test_missing_and_extra_files_are_counted(path):
    (path / "audio" / "fold3" / "300-0-0-0.wav").unlink()
    toy_sets.wav(path / "audio" / "fold3" / "copy.wav")
    with pytest.raises(InputError, match=r"1 of 20 clips .*: 1 of 2 of 'fold3'"):
        urbansound8k.read(path)
    found = urbansound8k.read(path, skip_bad=True)
    assert len(found.sources) == 19
    assert "does not list, ignored: fold3/copy.wav" in found.notes[1]


@pytest.mark.parametrize("level", ["..", "audio", "metadata", "audio/fold1"])
def test_a_wrong_folder_level_names_the_right_one(path, level):
    with pytest.raises(InputError, match=r"metadata/UrbanSound8K.csv"):
        urbansound8k.read((path / level).resolve())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("fsID", "fs", "no column 'fsID'"),
        ("0.05,1,7,0", "0.05,1,11,0", "row 14: fold '11'"),
        ("dog_bark", "", "class ''"),
    ],
)
def test_a_damaged_table_is_refused(path, old, new, message):
    table = path / urbansound8k.META
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        urbansound8k.read(path)
