"""TUT Urban Acoustic Scenes 2018, development (doi 10.5281/zenodo.1228142), of DCASE 2018 task 1a.

8,640 clips of 10 s, 48 kHz, 24 bit, stereo. Train 6,122 clips, evaluate 2,518. One fold is published; Heo et al. 2019
mention four and report on fold 1. `fold` reads lists of other folds (fold2_train.txt ...) in the same folder.
"""

from pathlib import Path

from edgekd.data.dataset import DataSet
from edgekd.data.sets import tau
from edgekd.errors import InputError

TRAIN_CLIPS = 6122
EDITION = tau.Edition("tut18", tau.all_not_evaluated(TRAIN_CLIPS))


def read(path: Path, skip_bad: bool = False, fold: int = 1) -> DataSet:
    """As `tau.read`.

    Raises:
        InputError: as `tau.read`, or a fold below 1.
    """
    if fold < 1:
        raise InputError(f"--fold {fold}: wanted 1 or more")
    return tau.read(path, EDITION, skip_bad, fold)
