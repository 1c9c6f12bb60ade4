"""TAU Urban Acoustic Scenes 2020 Mobile, development (doi 10.5281/zenodo.3819968): 23,035 clips of 10 s, 44.1 kHz, 24
bit, mono.

Train 13,962 clips, evaluate 2,968, in neither 6,105.
"""

from pathlib import Path

from edgekd.data.dataset import DataSet
from edgekd.data.sets import tau
from edgekd.data.sets.tau22 import MAIN_RECORDER_CLIPS

TRAIN_CLIPS = 13962
SLICES = 10
"""Clips of TAU 2022 that were cut from one of 2020."""
EDITION = tau.Edition(
    "tau20",
    tau.mobile_training_clips({scene: count // SLICES for scene, count in MAIN_RECORDER_CLIPS.items()}, TRAIN_CLIPS),
)


def read(path: Path, skip_bad: bool = False) -> DataSet:
    """As `tau.read`."""
    return tau.read(path, EDITION, skip_bad)
