"""Teachers that compute their logits in each step of a student's training."""

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
from edgekd.train.loop.device import autocast, channels_last
from edgekd.train.run.folder import Run

LIVE = ("live", "same")
"""Values of `distill.teaching` for which teachers compute in each step."""


class LiveTeacher:
    """A finished teacher on the training device. Its weights and statistics never change, and no checkpoint holds it.

    Args:
        run: the teacher.
        store, clips: of the student's training; a "pair" view joins clips of these.
        number: of the teacher among the student's, from 0.
        taps: paths of the modules whose outputs are returned.
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
                    layer.to(torch.bfloat16)  # once, where autocast would do it in each step
        self.front = front(run.config, run.frontend, exact=False)
        self.view = TeacherView(store, clips, run.recipe, RandomStream.TEACHER + number)
        self._taps = Taps(self.network, taps)
        self._precision = precision

    @property
    def frontend(self) -> FrontEnd:
        """The teacher's front end."""
        return self.run.frontend

    def to(self, device: torch.device) -> None:
        """Move to the training device."""
        channels_last(self.network, device)
        self.front.to(device)

    def waveform(self, epoch: int, clips: Index, audio_cache: AudioCache) -> Tensor:
        """This teacher's waveforms of clips in an epoch: float32 (clips, samples) or (clips, channels, samples)."""
        crops, gain_db = self.view.crops(epoch, clips)
        waveform = audio_cache.waveforms(crops)
        return gain(waveform, torch.from_numpy(gain_db).to(waveform.device)) if gain_db.any() else waveform

    def shares(self, front: LogMel | RawWaveform) -> bool:
        """Whether a student's front end gives the teacher's log-mel, apart from mean and standard deviation."""
        return isinstance(front, LogMel) and isinstance(self.front, LogMel) and same_features(front.fe, self.frontend)

    def renormalised(self, x: Tensor, fe: FrontEnd) -> Tensor:
        """The student's log-mel `x` of front end `fe`, masks included, normalised as the teacher's."""
        own = self.frontend
        return (x * fe.std + (fe.mean - own.mean)) / own.std

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The teacher's outputs for a log-mel of its front end or of `renormalised`.

        Returns:
            logits float32 (batch, labels), and the taps by path.
        """
        with autocast(self._precision, x.device):
            logits, taps = self._taps(x)
        return logits.float(), {path: tap.float() for path, tap in taps.items()}


def same_features(one: FrontEnd, other: FrontEnd) -> bool:
    """Whether two front ends give the same log-mel, apart from mean and standard deviation."""
    return msgspec.structs.replace(one, mean=0.0, std=1.0) == msgspec.structs.replace(other, mean=0.0, std=1.0)
