"""TAU Urban Acoustic Scenes 2019, development (doi 10.5281/zenodo.2589280): 14,400 clips of 10 s, 48 kHz, 24 bit,
binaural stereo.

Train 9,185 clips of nine cities, evaluate 4,185 of ten; the other 1,030 clips of Milan are in neither. Prepare with
--channels 2 to keep both channels.
"""

from pathlib import Path

from edgekd.data.dataset import DataSet
from edgekd.data.sets import tau

TRAIN_CLIPS = 9185
EVALUATION_CITY = "milan"
"""Its clips are for evaluation only."""
EDITION = tau.Edition(
    "tau19", tau.all_not_evaluated(TRAIN_CLIPS, lambda clip: not clip.group.startswith(f"{EVALUATION_CITY}-"))
)


def read(path: Path, skip_bad: bool = False) -> DataSet:
    """As `tau.read`."""
    return tau.read(path, EDITION, skip_bad)
