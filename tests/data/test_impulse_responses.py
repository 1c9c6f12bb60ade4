"""Impulse responses of a folder: which files are chosen, how they are normalised, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgekd.data.audio import impulse_responses as module
from edgekd.data.audio.impulse_responses import response_files, responses_hash
from edgekd.errors import InputError

MICS = Path(__file__).parents[2].parent / "shared/data/mics"
RATE = 8000


def load_responses(folder, rate, include=(), exclude=()):
    return module.load_responses(response_files(folder, "all", include, exclude), rate)


@pytest.fixture
def folder(tmp_path):
    delayed, ringing = np.zeros(400), 0.5 * 0.9 ** np.arange(100)
    delayed[100] = 0.5
    soundfile.write(tmp_path / "delay.wav", delayed, RATE)
    soundfile.write(tmp_path / "ring.wav", ringing, RATE)
    soundfile.write(tmp_path / "room.flac", np.stack([np.repeat(ringing, 2)] * 2, axis=1), 2 * RATE)
    (tmp_path / "credits.txt").write_text("measured in a cellar")
    return tmp_path


def test_responses_begin_with_their_direct_sound_and_have_unit_energy(folder):
    responses = load_responses(folder, RATE)
    assert responses.dtype == np.float32
    assert np.allclose(np.square(responses).sum(axis=1), 1)
    assert np.array_equal(responses[0], np.eye(1, responses.shape[1])[0])
    assert np.allclose(responses[1, 1:20] / responses[1, :19], 0.9, rtol=1e-3)
    assert np.argmax(np.abs(responses[2])) < 4


def test_patterns_choose_files_and_every_choice_has_its_own_hash(folder):
    everything = load_responses(folder, RATE)
    assert np.array_equal(load_responses(folder, RATE, include=["d*", "ring.wav"]), everything[:2])
    assert len(load_responses(folder, RATE, exclude=["*.wav"])) == 1
    hashes = {
        responses_hash(each)
        for each in (everything, everything[:2], everything[::-1], load_responses(folder, RATE, ["room*"]))
    }
    assert len(hashes) == 4
    assert responses_hash(load_responses(folder, RATE)) == responses_hash(everything)


def test_a_folder_without_usable_responses_is_refused(folder):
    with pytest.raises(InputError, match="nowhere is not a folder"):
        load_responses(folder / "nowhere", RATE)
    with pytest.raises(InputError, match=r"3 audio files.* \['Ring\*'\]"):
        load_responses(folder, RATE, include=["Ring*"])
    (folder / "bad.wav").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"bad\.wav: is not readable audio"):
        load_responses(folder, RATE)
    soundfile.write(folder / "bad.wav", np.zeros(10), RATE)
    with pytest.raises(InputError, match=r"bad\.wav: .*silent"):
        load_responses(folder, RATE)


def test_measured_microphones_are_read():
    if not MICS.is_dir():
        pytest.skip(f"{MICS} is not here")
    responses = load_responses(MICS, 16000)
    assert len(responses) == 45
    assert np.allclose(np.square(responses).sum(axis=1), 1, rtol=1e-4)
    assert (np.abs(responses).argmax(axis=1) < 160).all()  # the peak is within 10 ms
    assert len(load_responses(MICS, 16000, exclude=["IR_*"])) == 29
    sides = [{path.name for path, _ in response_files(MICS, split)} for split in ("train", "test")]
    assert [len(side) for side in sides] == [30, 15]  # every file has a make
    assert not sides[0] & sides[1]


def test_a_response_of_a_format_that_is_not_read_is_refused_unless_it_is_left_out(folder):
    wanted = response_files(folder)
    for name in ("hall.m4a", "._hall.m4a"):
        (folder / name).touch()
    with pytest.raises(InputError, match=r"1 \.m4a, not read"):
        response_files(folder)
    assert response_files(folder, exclude=["hall.*"]) == wanted
