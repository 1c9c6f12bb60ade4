"""Teachers that listen while a student trains."""

from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor, nn

from edgekd.data.audio.augment import gain
from edgekd.data.store.store import ClipStore
from edgekd.frontend import FrontEnd
from edgekd.models import front
from edgekd.models.logmel import LogMel
from edgekd.models.taps import Taps
from edgekd.models.waveform import RawWaveform
from edgekd.train.batches.audio_cache import AudioCache
from edgekd.train.batches.crops import Index
from edgekd.train.batches.random_streams import RandomStream
from edgekd.train.batches.teacher_view import TeacherView
from edgekd.train.loop.precision import autocast
from edgekd.train.run.folder import Run

LIVE = ("live", "same")
"""Values of `distill.teaching` for which teachers listen in each step."""


class LiveTeacher:
    """A finished teacher on the training device. Its weights and statistics never change; it is no part of any
    checkpoint.

    Args:
        run: the teacher.
        store, clips: what is trained on; joined clips come from there.
        number: of the teacher in the run, from 0.
        taps: paths of the modules whose outputs are wanted.
        precision: "float32" or "bf16".
    """

    def __init__(
        self, run: Run, store: ClipStore, clips: Index, number: int, taps: Sequence[str], precision: str
    ) -> None:
        self.run = run
        self.network = run.float_model().requires_grad_(False).eval()
        if precision == "bf16":
            for layer in self.network.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    layer.to(torch.bfloat16)  # as autocast would in each step
        self.front = front(run.config, run.frontend, exact=False)
        self.view = TeacherView(store, clips, run.recipe, RandomStream.TEACHER + number)
        self._taps = Taps(self.network, taps)
        self._precision = precision

    @property
    def frontend(self) -> FrontEnd:
        """Of the teacher."""
        return self.run.frontend

    def to(self, device: torch.device) -> None:
        """Move to the training device."""
        self.network.to(device, memory_format=torch.channels_last)
        self.front.to(device)

    def waveform(self, epoch: int, clips: Index, audio_cache: AudioCache) -> Tensor:
        """Sound of clips as this teacher hears them in an epoch: float32 (clips, samples) or (clips, channels,
        samples)."""
        places, gain_db = self.view.crops(epoch, clips)
        heard = audio_cache.waveforms(places)
        return gain(heard, torch.from_numpy(gain_db).to(heard.device)) if gain_db.any() else heard

    def shares(self, front: LogMel | RawWaveform) -> bool:
        """Whether a student's log-mel is the teacher's but for mean and standard deviation."""
        return isinstance(front, LogMel) and isinstance(self.front, LogMel) and same_features(front.fe, self.frontend)

    def adopted(self, x: Tensor, fe: FrontEnd) -> Tensor:
        """A student's log-mel, masks and all, with the mean and standard deviation that the teacher is used to."""
        own = self.frontend
        return (x * fe.std + (fe.mean - own.mean)) / own.std

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What it says of what its front end, or `adopted`, gives it.

        Returns:
            logits float32 (batch, labels), and the taps by path.
        """
        with autocast(self._precision, x.device):
            logits, taps = self._taps(x)
        return logits.float(), {path: tap.float() for path, tap in taps.items()}


def same_features(one: FrontEnd, other: FrontEnd) -> bool:
    """Whether two front ends give the same log-mel but for mean and standard deviation."""
    return msgspec.structs.replace(one, mean=0.0, std=1.0) == msgspec.structs.replace(other, mean=0.0, std=1.0)
