"""The front end: log-mel features of clips and of streams in numpy, float32. Both give the same values to the bit, and
nothing else in edgekd defines them.

Conventions: layout (mel, frame); frames of `n_fft` samples every `hop_length`; a Hann window of `win_length` samples in
the middle of the frame; power spectrum without scaling; triangular filters of height 1; natural logarithm of the mel
power clamped from below at `log_floor`. Fields that only published networks need are left out of files where they are
not set, so that the files of all other front ends stay as they are.

The FFT is float64: in float32 its rounding error changed quiet bands next to a loud one by up to 1e-3, and it was no
faster in numpy. Three things make it fast: one real FFT for many frames, a filterbank of a few dense bands (a
triangle covers few bins), and matrix products in blocks of `BLOCK` frames. Blocks of one size also make the result of a
frame independent of how many frames are computed with it, so that clips and streams agree to the bit.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from edgekd.errors import InputError
from edgekd.mel_scales import HZ_TO_MEL, MEL_TO_HZ, MelScale, kaldi_to_mel
from edgekd.rates import require_rate

BLOCK = 8
"""Frames in one matrix product. Every product has this size, whatever the number of frames."""
BATCH_SAMPLES = 2**16
"""Samples of the frames of a clip that are computed at once: as many as a cache holds with their spectra."""
BAND_MELS = 32
"""Mel bands in one dense product of the banded filterbank."""

Padding = Literal["none", "center", "reflect", "end"]
Array = NDArray[np.float32]
Array64 = NDArray[np.float64]

_RANGES = {
    "n_fft": (2, 32_768),
    "win_length": (1, 32_768),
    "hop_length": (1, 32_768),
    "n_mels": (1, 1024),
}
"""Range of each size. The upper limit is far above any use; it keeps a damaged file from taking all memory."""

_LEAST_BAND_HZ = 1.0
_FLOAT32_REACH = 1e30
"""float32 represents numbers between its inverse and itself."""


class FrontEnd(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, cache_hash=True):
    """Settings of the front end, from a waveform in [-1, 1] (int16 / 32768) to normalised log-mel. The default gives
    (256, 28) for 16,000 samples.

    sample_rate: Hz. pre_emphasis: a in y[t] = x[t] - a x[t-1] with x[-1] = 0; 0 is off. n_fft: samples of a frame and
    of its FFT. win_length: samples of the Hann window, at most n_fft. hop_length: samples from one frame to the next.
    padding: "none" drops samples at the end that do not fill a frame; "end" completes the last frame with zeros;
    "center" adds n_fft // 2 zeros at both ends, "reflect" as many samples mirrored at the first and the last one.
    n_mels: number of mel bands. f_min, f_max: Hz, outer corners of the first and the last triangle; f_max None is half
    the sample rate. mel_scale: "fant" is 1000 / log 2 * log(1 + f / 1000); the triangles of "kaldi" are straight over
    mel (1127 log(1 + f / 700)) in place of Hz, and those without an FFT bin stay zero. log_floor: least mel power
    before the logarithm. mean, std: of the log-mel values over the training data; the output is (log_mel - mean) / std.

    Fields of published networks, unset by default. symmetric: the Hann window ends with the zero that it begins with.
    ahead: the pre-emphasis is y[t] = x[t+1] - a x[t], one sample less. log_offset: added to the mel power before the
    logarithm.
    """

    sample_rate: int = 16000
    pre_emphasis: float = 0.0
    n_fft: int = 2048
    win_length: int = 2048
    hop_length: int = 512
    padding: Padding = "none"
    n_mels: int = 256
    f_min: float = 0.0
    f_max: float | None = None
    mel_scale: MelScale = "fant"
    log_floor: float = 1e-5
    mean: float = 0.0
    std: float = 1.0
    symmetric: bool | UnsetType = UNSET
    ahead: bool | UnsetType = UNSET
    log_offset: float | UnsetType = UNSET

    def __post_init__(self) -> None:
        require_rate(self.sample_rate, "frontend: sample_rate is")
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise InputError(f"frontend: {name} is {getattr(self, name)}; it must be {least} to {most}")
        if self.win_length > self.n_fft:
            raise InputError(
                f"frontend: win_length {self.win_length} is longer than n_fft {self.n_fft}; raise n_fft or shorten"
                " win_length"
            )
        if self.hop_length > self.win_length:
            raise InputError(
                f"frontend: hop_length {self.hop_length} is longer than win_length {self.win_length}, so audio between"
                " frames would be lost; shorten hop_length"
            )
        if self.padding not in get_args(Padding):
            raise InputError(f"frontend: padding is {self.padding!r}; allowed: {', '.join(get_args(Padding))}")
        if self.mel_scale not in HZ_TO_MEL:
            raise InputError(f"frontend: mel_scale is {self.mel_scale!r}; allowed: {', '.join(HZ_TO_MEL)}")
        if not 0.0 <= self.f_min <= self.top_hz - _LEAST_BAND_HZ:
            raise InputError(
                f"frontend: f_min {self.f_min} Hz must be at least 0 and {_LEAST_BAND_HZ:g} Hz below f_max"
                f" {self.top_hz} Hz"
            )
        if not self.top_hz <= self.sample_rate / 2:
            raise InputError(
                f"frontend: f_max {self.f_max} Hz is above half of sample_rate {self.sample_rate} Hz; lower f_max"
            )
        if not 0.0 <= self.pre_emphasis < 1.0:
            raise InputError(f"frontend: pre_emphasis is {self.pre_emphasis}; it must be at least 0 and below 1")
        if not 1.0 / _FLOAT32_REACH <= self.log_floor <= _FLOAT32_REACH:
            raise InputError(
                f"frontend: log_floor is {self.log_floor}; it must be {1.0 / _FLOAT32_REACH:g} to {_FLOAT32_REACH:g}"
            )
        if not (abs(self.mean) <= _FLOAT32_REACH and 1.0 / _FLOAT32_REACH <= self.std <= _FLOAT32_REACH):
            raise InputError(
                f"frontend: mean is {self.mean} and std {self.std}; both must be finite and std above 0, within "
                f"{_FLOAT32_REACH:g}"
            )

        self._check_published_fields()

    def _check_published_fields(self) -> None:
        for name in ("symmetric", "ahead", "log_offset"):
            if not getattr(self, name):  # equal front ends are equal, and their files too
                msgspec.structs.force_setattr(self, name, UNSET)
        if self.ahead and not self.pre_emphasis:
            raise InputError("frontend: ahead shifts the pre-emphasis, which is 0; set pre_emphasis or leave ahead out")
        if not 0.0 <= self.offset <= _FLOAT32_REACH:
            raise InputError(f"frontend: log_offset is {self.offset}; it must be 0 to {_FLOAT32_REACH:g}")

    @property
    def top_hz(self) -> float:
        """f_max in Hz, with None resolved to half the sample rate."""
        return self.sample_rate / 2 if self.f_max is None else self.f_max

    @property
    def offset(self) -> float:
        """`log_offset`, 0 where it is unset."""
        return self.log_offset or 0.0

    @property
    def log_least(self) -> float:
        """The least value of a band before normalisation: that of digital silence, a natural logarithm."""
        return math.log(self.log_floor + self.offset)

    @property
    def pad_before(self) -> int:
        """Samples put before the first one."""
        return self.n_fft // 2 if self.padding in ("center", "reflect") else 0

    def emphasised_samples(self, samples: int) -> int:
        """Samples that the pre-emphasis leaves of this many."""
        return samples - 1 if self.ahead else samples

    def frames(self, samples: int) -> int:
        """Number of frames of a waveform of this many samples; 0 if it does not fill one."""
        samples = self.emphasised_samples(samples)
        if samples < 1 or (self.padding == "reflect" and samples <= self.pad_before):
            return 0
        if self.padding == "end":
            return 1 + -(-max(samples - self.n_fft, 0) // self.hop_length)
        padded = samples + 2 * self.pad_before
        return 0 if padded < self.n_fft else 1 + (padded - self.n_fft) // self.hop_length

    def pad_after(self, samples: int) -> int:
        """Samples put after the last one of a waveform of this many samples."""
        if self.padding == "end":
            last = (self.frames(samples) - 1) * self.hop_length + self.n_fft
            return max(0, last - self.emphasised_samples(samples))
        return self.pad_before


def window_array(fe: FrontEnd) -> Array:
    """Hann window, float32 (n_fft,): `win_length` samples in the middle, zeros around them."""
    window = np.zeros(fe.n_fft, np.float32)
    start = (fe.n_fft - fe.win_length) // 2
    period = max(fe.win_length - 1, 1) if fe.symmetric else fe.win_length
    window[start : start + fe.win_length] = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(fe.win_length) / period)
    return window


def corners(fe: FrontEnd) -> Array64:
    """Hz, (n_mels + 2,): triangle i rises from corner i to i + 1 and falls to i + 2."""
    low, high = HZ_TO_MEL[fe.mel_scale](np.array([fe.f_min, fe.top_hz]))
    return MEL_TO_HZ[fe.mel_scale](np.linspace(low, high, fe.n_mels + 2))


def filterbank(fe: FrontEnd) -> Array:
    """Triangular mel filters of height 1, float32 (n_mels, n_fft // 2 + 1).

    A triangle so narrow that it contains no FFT bin would always give 0. It is replaced by the linear interpolation of
    the power spectrum at its centre (weights of the two bins around it, sum 1). All other filters are triangles. The
    filters "kaldi" are triangles over mel, without this replacement.
    """
    hz = corners(fe)
    bin_hz = fe.sample_rate / fe.n_fft
    bins = np.arange(fe.n_fft // 2 + 1) * bin_hz
    is_kaldi = fe.mel_scale == "kaldi"
    if is_kaldi:
        hz, bins = kaldi_to_mel(hz), kaldi_to_mel(bins.astype(np.float64))
    left, centre, right = (hz[i : i + fe.n_mels, None] for i in range(3))  # (n_mels, 1)
    weights = np.empty((fe.n_mels, len(bins)), np.float32)
    for start in range(0, fe.n_mels, BAND_MELS):  # in parts, because float64 of all at once may take a gigabyte
        part = slice(start, start + BAND_MELS)
        rows = np.maximum(
            0.0, np.minimum((bins - left[part]) / (centre - left)[part], (right[part] - bins) / (right - centre)[part])
        )
        empty = (rows.max(axis=1) == 0.0) & (not is_kaldi)
        rows[empty] = np.maximum(0.0, 1.0 - np.abs(bins - np.minimum(centre[part][empty], bins[-1])) / bin_hz)
        weights[part] = rows  # (BAND_MELS, bins)
    return weights


class Band(NamedTuple):
    """A part of the filterbank: the mel bands `mels`, which have weights only at the FFT bins `bins`. weights: float32
    (bins, mels)."""

    mels: slice
    bins: slice
    weights: Array


def bands(fe: FrontEnd) -> list[Band]:
    """The filterbank as dense blocks of `BAND_MELS` mel bands, each with only those FFT bins that have weights."""
    weights = filterbank(fe)
    parts = []
    for start in range(0, fe.n_mels, BAND_MELS):
        mels = slice(start, min(start + BAND_MELS, fe.n_mels))
        used = np.flatnonzero(weights[mels].any(axis=0))
        bins = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
        parts.append(Band(mels, bins, np.ascontiguousarray(weights[mels, bins].T)))
    return parts


def log_mel(fe: FrontEnd, waveform: Array) -> Array:
    """Normalised log-mel of clips.

    Args:
        fe: the front end.
        waveform: float32 (..., time) in [-1, 1] at `fe.sample_rate`.

    Returns:
        float32 (..., n_mels, frames).

    Raises:
        InputError: the waveform does not fill one frame.
    """
    waveform = np.asarray(waveform, np.float32)
    samples = waveform.shape[-1]
    frames = fe.frames(samples)
    if frames == 0:
        raise InputError(
            f"a waveform of {samples} samples does not fill one frame (n_fft {fe.n_fft}, padding '{fe.padding}'); "
            "give more audio or use padding 'end'"
        )
    clips = waveform.reshape(-1, samples)
    out = np.empty((len(clips), fe.n_mels, frames), np.float32)
    before, after = fe.pad_before, fe.pad_after(samples)
    batch = max(BATCH_SAMPLES // fe.n_fft // BLOCK, 1) * BLOCK
    for clip, target in zip(clips, out, strict=True):
        signal = padded(fe, clip, before, after)
        for start in range(0, frames, batch):
            stop = min(start + batch, frames)
            target[:, start:stop] = frames_of(fe, [(signal[start * fe.hop_length :], stop - start)])
    return out.reshape(*waveform.shape[:-1], fe.n_mels, frames)


def padded(fe: FrontEnd, clip: Array, before: int, after: int) -> Array:
    """A clip, float32 (time,), prepared for `frames_of`: pre-emphasised, with so many samples of padding before and
    after it. It may be the clip itself."""
    if not (fe.pre_emphasis or before or after):
        return clip
    count = fe.emphasised_samples(len(clip))
    signal = np.empty(before + count + after, np.float32)
    inside = signal[before : before + count]
    emphasise(fe, clip, None, inside)
    is_mirrored = fe.padding == "reflect"
    if before:
        signal[:before] = inside[before:0:-1] if is_mirrored else 0.0
    if after:
        signal[before + count :] = inside[-2 : -2 - after : -1] if is_mirrored else 0.0
    return signal


def emphasise(fe: FrontEnd, samples: Array, previous: np.float32 | None, out: Array) -> None:
    """Write pre-emphasised samples to `out`.

    Args:
        fe: the front end.
        samples: float32 (time,).
        previous: the sample before them, None at the start of a clip.
        out: (time,); with `ahead` one sample less at the start of a clip.
    """
    if not fe.pre_emphasis:
        out[:] = samples
    elif len(samples):
        factor = np.float32(-fe.pre_emphasis)
        inside = out[len(out) - len(samples) + 1 :]
        np.multiply(samples[:-1], factor, out=inside)
        inside += samples[1:]
        if previous is not None or not fe.ahead:
            out[0] = samples[0] + factor * (previous or np.float32(0.0))


def frames_of(fe: FrontEnd, parts: Sequence[tuple[Array, int]]) -> Array:
    """Normalised log-mel of the first frames of one or several signals, all computed at once: for few frames numpy's
    calls take more time than the work in them.

    Args:
        fe: the front end.
        parts: padded, pre-emphasised signals, float32 (time,), each with its number of frames.

    Returns:
        float32 (n_mels, frames), the frames of all signals in their order.
    """
    plan = _plan(fe)
    frames = sum([count for _, count in parts])
    windowed = np.empty((frames, fe.n_fft))
    done = 0
    for signal, count in parts:
        # converted once, not in each frame that shares a sample
        exact = signal[: max(count - 1, 0) * fe.hop_length + fe.n_fft].astype(np.float64)
        overlapping = np.ndarray(
            (count, fe.n_fft), np.float64, exact, strides=(fe.hop_length * exact.itemsize, exact.itemsize)
        )
        np.multiply(overlapping, plan.window, out=windowed[done : done + count])
        done += count
    halves = np.fft.rfft(windowed).view(np.float64)  # (frames, 2 * bins): real, imaginary, real, ...
    np.square(halves, out=halves)
    blocks, all_bins = -(-frames // BLOCK), fe.n_fft // 2 + 1
    power = np.empty((blocks, BLOCK, all_bins), np.float32)
    rows = power.reshape(blocks * BLOCK, all_bins)
    np.add(halves[:, ::2], halves[:, 1::2], out=rows[:frames], casting="same_kind")
    rows[frames:] = 0.0
    mel = np.empty((blocks, BLOCK, fe.n_mels), np.float32)
    for mels, bins, weights in plan.bands:
        np.matmul(power[:, :, bins], weights, out=mel[:, :, mels])
    log = mel.reshape(blocks * BLOCK, fe.n_mels)[:frames]
    np.maximum(log, plan.floor, out=log)
    if fe.log_offset:
        log += plan.offset
    np.log(log, out=log)
    if fe.mean or fe.std != 1.0:
        log -= plan.mean
        log *= plan.factor
    return log.T


class _Plan(NamedTuple):
    """What depends only on the front end. factor: 1 / std."""

    window: Array64
    bands: list[Band]
    floor: np.float32
    offset: np.float32
    mean: np.float32
    factor: np.float32


@lru_cache(maxsize=16)
def _plan(fe: FrontEnd) -> _Plan:
    return _Plan(
        window_array(fe).astype(np.float64),
        bands(fe),
        *(np.float32(value) for value in (fe.log_floor, fe.offset, fe.mean, 1.0 / fe.std)),
    )
