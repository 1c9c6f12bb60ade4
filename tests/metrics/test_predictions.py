"""Predictions that are kept in files and read again, and files that are refused."""

import numpy as np
import pytest

from edgekd.errors import InputError
from edgekd.metrics.predictions import Predictions, read_predictions

CLIPS = np.array([3, 5])


def predictions(clip):
    count = len(clip)
    logits = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    return Predictions(logits, np.arange(count) == 1, np.array(clip), np.arange(count) * 100)


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "test-float.npz"
    path.write_bytes(predictions([3, 3, 5]).to_npz())
    found = read_predictions(path, CLIPS)
    for name, expected in vars(predictions([3, 3, 5])).items():
        np.testing.assert_array_equal(getattr(found, name), expected)
    with np.load(path) as kept:
        assert set(kept) == {"logits", "silent", "clip", "start"}


@pytest.mark.parametrize("damage", [None, b"", b"PK\x03\x04 cut off"])
def test_a_missing_or_damaged_file_is_refused_by_its_path(tmp_path, damage):
    path = tmp_path / "test-float.npz"
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(InputError, match=r"test-float\.npz: cannot be read"):
        read_predictions(path, CLIPS)


@pytest.mark.parametrize("clip", [[3, 3], [3, 5, 7]])
def test_predictions_of_other_clips_are_refused(tmp_path, clip):
    path = tmp_path / "test-float.npz"
    path.write_bytes(predictions(clip).to_npz())
    with pytest.raises(InputError, match=r"test-float\.npz: .*other clips"):
        read_predictions(path, CLIPS)
