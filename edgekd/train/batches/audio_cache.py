"""Waveforms of crops on the training device, from the accelerator's memory where the store fits there, else from the
host's memory map."""

import numpy as np
import torch
from torch import Tensor

from edgekd.data.audio.waveform import PCM_SCALE, PCM_TYPE
from edgekd.data.store.store import ClipStore
from edgekd.train.batches.crops import Crops, read_pcm

FREE_SHARE = 0.5
"""Largest share of an accelerator's free memory that a store may take."""
ACCELERATOR_SAMPLES = 1 << 24
"""Samples moved to an accelerator at a time, or indices computed there."""
CPU_SAMPLES = 1 << 18
"""Samples copied at a time on the CPU: they are still in its cache when they become float32."""


class AudioCache:
    """Reads waveforms on one device. Samples are copied there as int16 and become float32 there.

    Args:
        store: where the audio is.
        device: where waveforms are wanted.
        resident: whether the whole store is copied there first. None decides by the device's free memory, and never
            copies on the CPU.
    """

    def __init__(self, store: ClipStore, device: torch.device, resident: bool | None = None) -> None:
        self.store, self.device = store, device
        self.pcm: Tensor | None = None
        """int16 (samples, channels) on the device, where the store is resident."""
        if resident is None:
            resident = store.pcm.size * PCM_TYPE.itemsize < FREE_SHARE * free_bytes(device)
        if resident:
            self.pcm = torch.empty(store.pcm.shape, dtype=torch.int16, device=device)
            for start in range(0, len(store.pcm), ACCELERATOR_SAMPLES):
                part = slice(start, start + ACCELERATOR_SAMPLES)
                # a copy: torch wants memory that may be written to
                self.pcm[part] = torch.from_numpy(store.pcm[part].astype(np.int16))

    def waveforms(self, crops: Crops) -> Tensor:
        """Waveforms float32 in [-1, 1], (rows, samples) or (rows, channels, samples): as
        `edgekd.train.batches.crops.read_waveforms` has them."""
        channels = (self.store.channels,) if crops.channels == "all" else ()
        out = torch.empty(len(crops), *channels, crops.samples, device=self.device)
        at_once = max(1, (CPU_SAMPLES if self.device.type == "cpu" else ACCELERATOR_SAMPLES) // crops.samples)
        for start in range(0, len(crops), at_once):
            part = crops[start : start + at_once]
            pcm = (
                torch.from_numpy(read_pcm(self.store, part)).to(self.device)
                if self.pcm is None
                else self._resident_pcm(self.pcm, part)
            )
            _to_waveform(pcm, out[start : start + at_once])
        return out

    def _resident_pcm(self, pcm: Tensor, crops: Crops) -> Tensor:
        """`edgekd.train.batches.crops.read_pcm` by index: int16 (rows, samples, channels)."""
        span = np.full(len(crops), crops.samples) if crops.span is None else crops.span
        shift = np.zeros(len(crops), np.int64) if crops.shift is None else crops.shift
        first, available = self.store.offsets[crops.clip] + crops.start, self.store.lengths[crops.clip] - crops.start
        sample = torch.arange(crops.samples, device=self.device)
        if crops.length is not None:
            spans, shifts = torch.from_numpy(np.stack([span, shift])).to(self.device)[:, :, None]  # each (rows, 1)
            inside = sample < spans
            columns = np.stack([first, available, crops.length]).reshape(3, -1, crops.pieces)
            index = _index_in_pieces((sample - shifts) % spans, *torch.from_numpy(columns).to(self.device))
        else:
            columns = np.stack([first, available, span, shift])
            # each (rows, 1)
            firsts, lengths, spans, shifts = torch.from_numpy(columns).to(self.device)[:, :, None]
            position = (sample - shifts) % spans  # (rows, samples), in the audio of the row
            inside = sample < spans
            if crops.tile:
                position = position % lengths
            else:
                inside = inside & (position < lengths)
            index = firsts + position
        audio: Tensor = pcm[torch.where(inside, index, 0)] * inside[..., None]
        return audio


def _index_in_pieces(position: Tensor, first: Tensor, available: Tensor, length: Tensor) -> Tensor:
    """Indices int64 (rows, samples) into the store of positions in joined rows.

    first, available, length: (rows, pieces).
    """
    end = length.cumsum(dim=1)
    position = position % end[:, -1:]
    piece = torch.searchsorted(end, position, right=True)  # (rows, samples)
    within = position - (end - length).gather(1, piece)
    return first.gather(1, piece) + within % torch.minimum(available, length).gather(1, piece)


def _to_waveform(pcm: Tensor, out: Tensor) -> None:
    """int16 (rows, samples, channels) -> float32 (rows, samples), or (rows, channels, samples) where `out` is."""
    channels = pcm.shape[2]
    if out.dim() == 3:
        out.copy_(pcm.transpose(1, 2)).mul_(1 / PCM_SCALE)
    else:
        out.copy_(pcm[..., 0] if channels == 1 else pcm.float().sum(dim=2).div_(channels)).mul_(1 / PCM_SCALE)


def free_bytes(device: torch.device) -> int:
    """Free memory of a CUDA device, including what torch has reserved and does not use; 0 for other devices."""
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
