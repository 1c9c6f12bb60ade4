"""TAU Urban Acoustic Scenes 2019, development (doi 10.5281/zenodo.2589280): 14,400 clips of 10 s, 48 kHz, 24 bit,
binaural stereo.

Train 9,185 clips of nine cities, evaluate 4,185 of ten; the 1,030 other clips of Milan are in neither. Prepare with
--channels 2 to keep both ears.
"""

from pathlib import Path

from edgekd.data.sets import tau
from edgekd.data.sets.source import DataSet

TRAIN_CLIPS = 9185
UNHEARD_CITY = "milan"
"""Its clips are for evaluation only."""
EDITION = tau.Edition("tau19", tau.rest_of(TRAIN_CLIPS, lambda clip: not clip.group.startswith(f"{UNHEARD_CITY}-")))


def read(path: Path, skip_bad: bool = False) -> DataSet:
    """As `tau.read`."""
    return tau.read(path, EDITION, skip_bad)
