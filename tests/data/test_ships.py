"""The DeepShip and VTUAD adapters, on generated files in the official layouts."""

from collections import Counter

import numpy as np
import pytest
import soundfile

from edgekd.data.audio.decode import decode, decode_one, source_key
from edgekd.data.sets import deepship, toy_sets, vtuad
from edgekd.errors import InputError


def test_deepship_recordings_are_cut_and_split_by_ship(tmp_path):
    found = deepship.read(toy_sets.deepship(tmp_path / "DeepShip"), segment=0.1, test_fraction=0.25)
    assert Counter(source.clip.label for source in found.sources) == dict.fromkeys(
        ("cargo", "passengership", "tanker", "tug"), 15
    )
    first, second = found.sources[0], found.sources[1]
    assert (first.clip.path, first.clip.parent, first.clip.group) == (
        "Cargo/20171101-0/203620.wav#0",
        "Cargo/20171101-0/203620.wav",
        "CARGO 1",
    )
    assert (first.cut, second.cut) == ((0.0, 0.1), (0.1, 0.1))
    splits = Counter(group for group, _ in {(source.clip.group, source.clip.split) for source in found.sources})
    assert set(splits.values()) == {1}
    assert {source.clip.split for source in found.sources} == {"train", "test"}
    assert len({source.clip.parent for source in found.sources if source.clip.group == "CARGO 1"}) == 2
    assert "20 recordings in 60 segments of 0.1 s; the ship of 20 recordings is known" in found.notes
    assert not found.official_folds


def test_a_cut_is_that_part_of_the_file_and_has_a_key_of_its_own(tmp_path):
    found = deepship.read(toy_sets.deepship(tmp_path / "DeepShip"), segment=0.1)
    first, second = found.sources[:2]
    complete = decode(first.file, 32000, 1)
    np.testing.assert_array_equal(decode_one(second, 32000, 1).pcm, complete[3200:6400])
    assert source_key(first) != source_key(second)


def test_a_recording_no_longer_than_a_segment_is_one_clip(tmp_path):
    found = deepship.read(toy_sets.deepship(tmp_path / "DeepShip"), segment=0.35)
    assert {source.cut for source in found.sources} == {None}
    assert found.sources[0].clip.path == "Cargo/20171101-0/203620.wav"


def test_the_published_part_of_deepship_is_grouped_by_recording(tmp_path):
    path = tmp_path / "DeepShip"
    for kind in ("Cargo", "Passengership"):
        toy_sets.table(
            path / kind / f"{kind.lower()}-metafile", None, [(1, 70, "SWIFT", "20171104", "203623", 458, "1-2")], ","
        )
        for number in (1, 2, 3):
            toy_sets.wav(path / kind / f"{number}.wav", 32000, seconds=0.1)
    found = deepship.read(path)
    assert [source.clip.group for source in found.sources[:2]] == ["Cargo/1.wav", "Cargo/2.wav"]
    assert "6 recordings of a ship that is not known" in " ".join(found.notes)
    assert "no clips of tanker, tug" in found.notes


def test_the_ship_of_a_recording_is_found_by_date_and_number_too(tmp_path):
    path = toy_sets.deepship(tmp_path / "DeepShip")
    (path / "Cargo" / "20171104-3" / "203623.wav").rename(path / "Cargo" / "20171104-3" / "203624.wav")
    (path / "Cargo" / "20171103-2").rename(path / "Cargo" / "20171103b-2")
    found = deepship.read(path, segment=0.1)
    groups = {source.clip.parent: source.clip.group for source in found.sources}
    assert groups["Cargo/20171104-3/203624.wav"] == "CARGO 3"
    assert groups["Cargo/20171103b-2/203622.wav"] == "CARGO 2"
    with (path / "Cargo" / "cargo-metafile").open("a") as table:
        table.write("3,70,ANOTHER,20171104,101010,458,1583-1981,\n")
    found = deepship.read(path, segment=0.1)  # two ships of one day and number
    groups = {source.clip.parent: source.clip.group for source in found.sources}
    assert groups["Cargo/20171104-3/203624.wav"] == "Cargo/20171104-3/203624.wav"
    assert groups["Cargo/20171105-4/203624.wav"] == "CARGO 4"


def test_deepship_refuses_a_wrong_folder_damage_and_bad_options(tmp_path):
    path = toy_sets.deepship(tmp_path / "DeepShip")
    for level in ("..", "Cargo", "Cargo/20171101-0"):
        with pytest.raises(InputError, match=r"did you mean .*DeepShip\?"):
            deepship.read((path / level).resolve())
    (path / "Tug" / "20171101-0" / "203620.wav").write_bytes(b"no audio")
    with pytest.raises(InputError, match=r"203620.wav: .*--skip-bad"):
        deepship.read(path, segment=0.1)
    notes = deepship.read(path, segment=0.1, skip_bad=True).notes
    assert "1 recording that cannot be read left out: Tug/20171101-0/203620.wav" in notes
    with pytest.raises(InputError, match="--segment 0: wanted more than 0"):
        deepship.read(path, segment=0)
    with pytest.raises(InputError, match="--test-fraction 1"):
        deepship.read(path, test_fraction=1)


def test_a_scenario_of_vtuad_is_read_and_ships_in_several_splits_are_noted(tmp_path):
    found = vtuad.read(toy_sets.vtuad(tmp_path / "inclusion_2000_exclusion_4000"))
    assert Counter(source.clip.split for source in found.sources) == {"train": 9, "validation": 9, "test": 9}
    cargo = next(source for source in found.sources if source.clip.label == "cargo")
    assert (cargo.clip.path, cargo.clip.group, cargo.cut) == ("train/audio/cargo/10.wav", "316000010", None)
    assert {source.clip.group for source in found.sources if source.clip.label == "background"} == {""}
    assert found.official_folds
    assert len(found.notes) == 1
    assert found.notes[0].startswith(
        "2 of 14 ships are in more than one split, by the publishers' choice; their clips are left out"
    )


def test_rows_of_vtuad_that_share_a_file_are_parts_of_it(tmp_path):
    found = vtuad.read(toy_sets.vtuad(tmp_path / "inclusion_2000_exclusion_4000", shared=True))
    second = found.sources[1]
    file = "train/audio/background/0.wav"
    assert (second.clip.path, second.clip.parent, second.cut) == (f"{file}#1", file, (1.0, 0.1))
    np.testing.assert_array_equal(decode_one(second, 32000, 1).pcm, decode(second.file, 32000, 1)[32000:35200])


def test_all_scenarios_of_vtuad_together(tmp_path):
    toy_sets.vtuad(tmp_path / "vtuad" / "inclusion_2000_exclusion_4000")
    toy_sets.vtuad(tmp_path / "vtuad" / "inclusion_3000_exclusion_5000")
    found = vtuad.read(tmp_path / "vtuad")
    assert len(found.sources) == 54
    assert found.sources[0].clip.path == "inclusion_2000_exclusion_4000/train/audio/background/0.wav"


def test_vtuad_reports_a_wrong_folder_missing_and_extra_files_and_damage(tmp_path):
    path = toy_sets.vtuad(tmp_path / "inclusion_2000_exclusion_4000")
    for level in ("train", "train/audio"):
        with pytest.raises(InputError, match=r"did you mean .*exclusion_4000\?"):
            vtuad.read((path / level).resolve())
    (path / "test" / "audio" / "tug" / "20.wav").unlink()
    toy_sets.wav(path / "test" / "audio" / "tug" / "99.wav")
    with pytest.raises(InputError, match=r"1 of 27 clips .*: 1 of 9 of 'test'"):
        vtuad.read(path)
    notes = " ".join(vtuad.read(path, skip_bad=True).notes)
    assert "ignored: test/audio/tug/99.wav" in notes
    (path / "validation" / "metadata.csv").unlink()
    assert "no validation/metadata.csv: the store lacks that split" in vtuad.read(path, skip_bad=True).notes
    table = path / "train" / "metadata.csv"
    table.write_text(table.read_text().replace("file_index", "file"))
    with pytest.raises(InputError, match="no column 'file_index'"):
        vtuad.read(path)


def test_a_damaged_row_of_vtuad_is_refused(tmp_path):
    path = toy_sets.vtuad(tmp_path / "inclusion_2000_exclusion_4000", shared=True)
    table = path / "train" / "metadata.csv"
    table.write_text(table.read_text().replace("4,cargo,0.1,10,1,", "4,cargo,x,10,1,"))
    with pytest.raises(InputError, match="row 6: label 'cargo', file_index '10'"):
        vtuad.read(path)


def test_a_cut_beyond_the_end_of_a_file_is_an_error(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 8000)
    with pytest.raises(InputError, match="holds no samples"):
        decode(tmp_path / "a.wav", 8000, 1, (1.0, 1.0))
