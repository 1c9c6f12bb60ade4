"""The front end of networks that read waveforms: pre-emphasis and nothing else."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekd.errors import InputError
from edgekd.frontend import FrontEnd


class RawWaveform(nn.Module):
    """Waveforms with the front end's pre-emphasis. Called as `LogMel` is; mean and deviation of the front end are those
    of log-mel and not used."""

    def __init__(self, fe: FrontEnd) -> None:
        super().__init__()
        self.fe = fe

    def extra_repr(self) -> str:
        return repr(self.fe)

    @torch.no_grad()
    def forward(self, waveform: Tensor, hop: Tensor | None = None, samples: int | None = None) -> Tensor:
        """Waveforms with pre-emphasis.

        Args:
            waveform: float (batch, time) or (batch, channels, time) in [-1, 1] at the front end's sample rate.
            hop: must be None: there are no frames whose distance could change.
            samples: how many samples are used, from the first; None is all.

        Returns:
            float32 (batch, channels, time); one channel where there was no such axis.

        Raises:
            InputError: a hop is given.
        """
        if hop is not None:
            raise InputError(
                "a network that reads waveforms has no frames to stretch in time; set augment.time_stretch to 1"
            )
        x = (waveform if waveform.dim() == 3 else waveform[:, None])[..., :samples].float()
        if self.fe.pre_emphasis:
            x = x - self.fe.pre_emphasis * F.pad(x, (1, -1))
        return x
