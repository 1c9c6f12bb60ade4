"""The torch mirror of the front end: the same window and filterbank arrays, for training on batches of waveforms."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekd.errors import InputError
from edgekd.frontend import FrontEnd, bands, window_array

CPU_CLIPS = 8
"""Clips transformed at a time on the CPU: their frames and spectra stay in its cache, which is worth more than a larger batch."""
ACCELERATOR_CLIPS = 256


class LogMel(nn.Module):
    """Log-mel of waveforms, within 1e-4 of `edgekd.frontend.log_mel` (natural log units).

    In recordings, mel bands that lie many orders of magnitude below a loud one hear the rounding of the float32 FFT: there single
    values (1 in 1,000) differ by more, by 2e-3 at most on ESC-50.

    Has neither parameters nor state to save; its arrays follow the module to a device. Computed without gradient, in float32
    also under autocast.
    """

    window: Tensor

    def __init__(self, fe: FrontEnd) -> None:
        super().__init__()
        self.fe = fe
        self.register_buffer("window", torch.from_numpy(window_array(fe)), persistent=False)
        self.bands = bands(fe)
        for index, band in enumerate(self.bands):
            self.register_buffer(f"band{index}", torch.from_numpy(band.weights), persistent=False)

    def extra_repr(self) -> str:
        return repr(self.fe)

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Normalised log-mel.

        Args:
            waveform: float (batch, time) in [-1, 1] at the front end's sample rate.

        Returns:
            float32 (batch, 1, mel, frame).

        Raises:
            InputError: the waveform does not fill one frame.
        """
        fe, samples = self.fe, waveform.shape[-1]
        frames = fe.frames(samples)
        if frames == 0:
            raise InputError(f"a waveform of {samples} samples does not fill one frame (n_fft {fe.n_fft}, padding '{fe.padding}'); "
                             "give more audio or use padding 'end'")
        out = torch.empty(len(waveform), fe.n_mels, frames, device=waveform.device)
        at_once = CPU_CLIPS if waveform.device.type == "cpu" else ACCELERATOR_CLIPS
        with torch.autocast(waveform.device.type, enabled=False):
            for start in range(0, len(waveform), at_once):
                self._transform(waveform[start:start + at_once].float(), out[start:start + at_once])
        if fe.mean or fe.std != 1.0:
            out.sub_(fe.mean).mul_(1.0 / fe.std)
        return out.unsqueeze(1)

    def _transform(self, waveform: Tensor, out: Tensor) -> None:
        """Log-mel of a few clips (batch, time) into `out` (batch, mel, frame)."""
        fe, samples = self.fe, waveform.shape[-1]
        if fe.pre_emphasis:
            waveform = waveform - fe.pre_emphasis * F.pad(waveform, (1, -1))
        waveform = F.pad(waveform, (fe.pad_before, fe.pad_after(samples)))
        framed = waveform.unfold(-1, fe.n_fft, fe.hop_length)[:, :out.shape[-1]] * self.window  # (batch, frame, n_fft)
        spectrum = torch.fft.rfft(framed)  # (batch, frame, bin)
        power = (spectrum * spectrum.conj()).real
        for index, band in enumerate(self.bands):
            mel = power[..., band.bins] @ self.get_buffer(f"band{index}")  # (batch, frame, mels of the band)
            out[:, band.mels] = mel.clamp_(min=fe.log_floor).log_().transpose(1, 2)
