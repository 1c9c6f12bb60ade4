"""TAU Urban Acoustic Scenes 2022 Mobile, development (doi 10.5281/zenodo.6337421): 230,350 clips of 1 s, 44.1 kHz, 24
bit, mono.

Train 139,620 clips, evaluate 29,680, in neither 61,050. Clips are slices of the 10 s recordings of TAU 2020; the set
of 2023 has the same audio. Lists of 5, 10, 25 and 50 % of the training clips were published for DCASE 2024, split5.csv
and so on: each contains the smaller ones, and all slices of a recording.
"""

from dataclasses import replace
from pathlib import Path

from edgekd.data.dataset import DataSet
from edgekd.data.sets.tau import (
    SETUP,
    TRAIN,
    UNUSED,
    Edition,
    mobile_training_clips,
    read_list,
    read_tables,
    with_files,
)
from edgekd.data.store.clips import Clip
from edgekd.errors import InputError

NAME = "tau22"
TRAIN_CLIPS = 139620
MAIN_RECORDER_CLIPS = {
    "airport": 10190,
    "bus": 10250,
    "metro": 10070,
    "metro_station": 10050,
    "park": 10540,
    "public_square": 10530,
    "shopping_mall": 9990,
    "street_pedestrian": 10110,
    "street_traffic": 10380,
    "tram": 10040,
}
"""Training clips of recorder a, by the table in the data set's documentation."""
SUBSETS = (5, 10, 25, 50, 100)
SUBSET_FOLDERS = (SETUP, "split_setup", "")
"""Where the lists may be; the baseline keeps them in split_setup."""

EDITION = Edition(NAME, mobile_training_clips(MAIN_RECORDER_CLIPS, TRAIN_CLIPS), sliced=True)


def read(path: Path, skip_bad: bool = False, subset: int = SUBSETS[-1]) -> DataSet:
    """Find the clips of the development set.

    Args:
        path, skip_bad: as in `tau.read`.
        subset: percent of the training clips; the others become unused.

    Raises:
        InputError: as `tau.read`, or no list of the subset.
    """
    if subset not in SUBSETS:
        raise InputError(f"--subset {subset}: wanted {', '.join(map(str, SUBSETS))}")
    clips = read_tables(path, EDITION)
    if subset != SUBSETS[-1]:
        clips = _narrow(path, clips, subset)
    return with_files(path, EDITION, clips, skip_bad)


def _narrow(path: Path, clips: list[Clip], subset: int) -> list[Clip]:
    """The clips with the training clips that are not in the list of a subset marked as unused."""
    labels = {clip.path: clip.label for clip in clips if clip.split == TRAIN}
    lists = (read_list(path / folder, f"split{subset}", labels, "the training list") for folder in SUBSET_FOLDERS)
    subset_names = next((names for names in lists if names), None)
    if subset_names is None:
        raise InputError(
            f"{path} has no {SETUP}/split{subset}.csv; put it there, from the baseline of DCASE 2024 task 1"
        )
    return [
        replace(clip, split=UNUSED) if clip.split == TRAIN and clip.path not in subset_names else clip for clip in clips
    ]
