"""The crops that a teacher is given while it teaches. No audio and no torch here."""

import numpy as np

from edgekd.data.store.store import ClipStore
from edgekd.train.batches.crops import Crops, Floats, Index, centre_crops
from edgekd.train.batches.random_crops import RandomCrops
from edgekd.train.batches.random_streams import RandomNumbers, RandomStream
from edgekd.train.recipe.recipe import Recipe


class TeacherView:
    """Clips with the view of a teacher's recipe, and of its augmentation the crop, joining, roll and gain alone.

    Mixing, masks, stretching and impulse responses are left out. Where the view has segments, clips are neither rolled
    nor cropped at random, so that each segment keeps its position.

    Args:
        store: where the audio is.
        clips: (clips,) the student's training clips, of which "pair" joins some to each clip.
        recipe: the teacher's.
        stream: `RandomStream.TEACHER`, or of a further teacher that plus its number.
    """

    def __init__(self, store: ClipStore, clips: Index, recipe: Recipe, stream: int = RandomStream.TEACHER) -> None:
        self.store, self.recipe, self._stream = store, recipe, stream
        self._random_crops = RandomCrops(store, clips, recipe, closed=False)

    @property
    def samples(self) -> int:
        """Samples of one input of the teacher."""
        return self._random_crops.samples

    @property
    def channels(self) -> int:
        """Channels of an input of the teacher."""
        return self.store.channels if self.recipe.view.channels == "all" else 1

    def crops(self, epoch: int, clips: Index) -> tuple[Crops, Floats]:
        """Crops of any clips (n,) of the store, and the gain of each, float32 (n,) decibels.

        In a "parent" view all segments of a recording have the same crop.
        """
        rng, drawn = RandomNumbers(self.recipe.seed, self._stream, epoch), self._random_crops
        augment = self.recipe.augment
        if drawn.parents is not None:
            clips = drawn.parents.segments[drawn.parents.first[drawn.parents.recording[clips]]]
        gain_db = drawn.gain_db(rng, clips)
        if self.recipe.view.segments > 1:
            return centre_crops(self.store, clips, self.recipe.view), gain_db
        span = np.full(len(clips), drawn.samples)
        shift = drawn.shifts(rng, clips, span) if augment.roll else None
        return drawn.crops(rng, clips, span, drawn.samples, shift, skip_silence=augment.skip_silence), gain_db
