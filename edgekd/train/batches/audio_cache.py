"""A store's audio as training takes it: in the accelerator's memory where it fits, else in the host's memory map."""

import numpy as np
import torch
from torch import Tensor

from edgekd.data.audio.waveform import PCM_SCALE, PCM_TYPE
from edgekd.data.store.store import ClipStore
from edgekd.train.batches.windows import Windows, fetch

FREE_SHARE = 0.5
"""Largest share of an accelerator's free memory that a store may take."""
MOVED_AT_ONCE = 1 << 24
"""Samples moved to an accelerator at a time, or places computed there."""
CACHED = 1 << 18
"""Samples copied at a time on the CPU: they are still in its cache when they become float32."""


class ClipBank:
    """Gathers waveforms on one device. Samples cross to it as int16 and become float32 there.

    Args:
        store: where the audio is.
        device: where waveforms are wanted.
        resident: whether the whole store moves there first; None decides by the device's free memory, and never on the
            CPU.
    """

    def __init__(self, store: ClipStore, device: torch.device, resident: bool | None = None) -> None:
        self.store, self.device = store, device
        self.pcm: Tensor | None = None
        """int16 (samples, channels) on the device, where the store is resident."""
        if resident is None:
            resident = store.pcm.size * PCM_TYPE.itemsize < FREE_SHARE * _free_bytes(device)
        if resident:
            self.pcm = torch.empty(store.pcm.shape, dtype=torch.int16, device=device)
            for start in range(0, len(store.pcm), MOVED_AT_ONCE):
                part = slice(start, start + MOVED_AT_ONCE)
                # a copy: torch wants memory that may be written to
                self.pcm[part] = torch.from_numpy(store.pcm[part].astype(np.int16))

    def gather(self, places: Windows) -> Tensor:
        """Waveforms float32 in [-1, 1]: those of `edgekd.train.batches.windows.gather`, (rows, samples) or (rows,
        channels, samples)."""
        channels = (self.store.channels,) if places.channels == "all" else ()
        out = torch.empty(len(places), *channels, places.samples, device=self.device)
        at_once = max(1, (CACHED if self.device.type == "cpu" else MOVED_AT_ONCE) // places.samples)
        for start in range(0, len(places), at_once):
            part = places[start : start + at_once]
            pcm = (
                torch.from_numpy(fetch(self.store, part)).to(self.device)
                if self.pcm is None
                else self._resident(self.pcm, part)
            )
            _to_waveform(pcm, out[start : start + at_once])
        return out

    def _resident(self, pcm: Tensor, places: Windows) -> Tensor:
        """`edgekd.train.batches.windows.fetch` by index: int16 (rows, samples, channels)."""
        span = np.full(len(places), places.samples) if places.span is None else places.span
        shift = np.zeros(len(places), np.int64) if places.shift is None else places.shift
        first, there = self.store.offsets[places.clip] + places.start, self.store.lengths[places.clip] - places.start
        sample = torch.arange(places.samples, device=self.device)
        if places.length is not None:
            span, shift = torch.from_numpy(np.stack([span, shift])).to(self.device)[:, :, None]  # each (rows, 1)
            heard = sample < span
            columns = np.stack([first, there, places.length]).reshape(3, -1, places.pieces)
            index = _in_pieces((sample - shift) % span, *torch.from_numpy(columns).to(self.device))
        else:
            columns = np.stack([first, there, span, shift])
            first, there, span, shift = torch.from_numpy(columns).to(self.device)[:, :, None]  # each (rows, 1)
            place = (sample - shift) % span  # (rows, samples), in what is heard
            heard = sample < span
            if places.tile:
                place = place % there
            else:
                heard = heard & (place < there)
            index = first + place
        return pcm[torch.where(heard, index, 0)] * heard[..., None]


def _in_pieces(place: Tensor, first: Tensor, there: Tensor, length: Tensor) -> Tensor:
    """Indices int64 (rows, samples) into the store of places in joined rows. first, there, length: (rows, pieces)."""
    end = length.cumsum(dim=1)
    place = place % end[:, -1:]
    piece = torch.searchsorted(end, place, right=True)  # (rows, samples)
    within = place - (end - length).gather(1, piece)
    return first.gather(1, piece) + within % torch.minimum(there, length).gather(1, piece)


def _to_waveform(pcm: Tensor, out: Tensor) -> None:
    """int16 (rows, samples, channels) -> float32 (rows, samples), or (rows, channels, samples) where `out` is."""
    channels = pcm.shape[2]
    if out.dim() == 3:
        out.copy_(pcm.transpose(1, 2)).mul_(1 / PCM_SCALE)
    else:
        out.copy_(pcm[..., 0] if channels == 1 else pcm.float().sum(dim=2).div_(channels)).mul_(1 / PCM_SCALE)


def _free_bytes(device: torch.device) -> int:
    """Free memory of an accelerator, what torch keeps for itself included; 0 where that is not known, and on the
    CPU."""
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
