"""Teachers that listen while a student trains."""

from collections.abc import Sequence

import torch
from torch import Tensor

from edgekd.data.augment import gain
from edgekd.data.store import ClipStore
from edgekd.distill.bank import ClipBank
from edgekd.distill.precision import computing
from edgekd.distill.run import Run
from edgekd.distill.view import Index, TeacherView
from edgekd.frontend import FrontEnd
from edgekd.models import front
from edgekd.models.taps import Taps

LIVE_STREAM = 16
"""Stream of the first teacher's draws, the next teacher has the next: how it hears a clip does not depend on the student."""


class LiveTeacher:
    """A finished teacher on the training device. Its weights and statistics never change; it is no part of any checkpoint.

    Args:
        run: the teacher.
        store, clips: what is trained on; joined clips come from there.
        number: of the teacher in the run, from 0.
        taps: paths of the modules whose outputs are wanted.
        precision: "float32" or "bf16".
    """

    def __init__(self, run: Run, store: ClipStore, clips: Index, number: int, taps: Sequence[str], precision: str) -> None:
        self.run = run
        self.network = run.float_model().requires_grad_(False).eval()
        self.front = front(run.config, run.frontend, exact=False)
        self.view = TeacherView(store, clips, run.recipe, LIVE_STREAM + number)
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

    def waveform(self, epoch: int, clips: Index, bank: ClipBank) -> Tensor:
        """Sound of clips as this teacher hears them in an epoch: float32 (clips, samples) or (clips, channels, samples)."""
        places, gain_db = self.view.places(epoch, clips)
        heard = bank.gather(places)
        return gain(heard, torch.from_numpy(gain_db).to(heard.device)) if gain_db.any() else heard

    @torch.no_grad()
    def __call__(self, heard: Tensor, *, is_features: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """What it says of waveforms, or of what its own front end would make of them.

        Returns:
            logits float32 (batch, labels), and the taps by path.
        """
        x = heard if is_features else self.front(heard)
        with computing(self._precision, x.device):
            logits, taps = self._taps(x)
        return logits.float(), {path: tap.float() for path, tap in taps.items()}
