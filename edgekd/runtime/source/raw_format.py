"""Refuses a stream of raw samples that is none: another format of file, or samples that are not signed 16-bit
little-endian ones.

The halves of a sample tell them apart: in sound the lower bits are spread evenly over all values, the upper bits are
not. Where every second value of 16 bits is spread evenly and the others are not, two of them are one sample of 32 bits.
Silence is skipped, because it is the same in all formats.
"""

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.waveform import PCM_TYPE
from edgekd.errors import InputError

MAGIC_BYTES = 4
CONTAINERS = {
    b"RIFF": ".wav",
    b"RIFX": ".wav",
    b"RF64": ".wav",
    b"BW64": ".wav",
    b"riff": ".w64",
    b"fLaC": ".flac",
    b"OggS": ".ogg",
    b"FORM": ".aiff",
    b".snd": ".au",
    b"dns.": ".au",
    b"caff": ".caf",
    b"wvpk": ".wv",
    b"\x1aE\xdf\xa3": ".mkv",
    b"ID3\x02": ".mp3",
    b"ID3\x03": ".mp3",
    b"ID3\x04": ".mp3",
}
"""First bytes of files that are not raw samples."""
ALIGNMENT = 24
"""Bytes. Samples of 1 to 4 and of 8 bytes begin here again."""
ENOUGH, FEWEST = 1 << 11, 1 << 8
"""Values of 16 bits that are needed for a judgement, and how many of them must not be zero."""
BIN_BITS = 3
EVEN, UNEVEN = 30.0, 0.3
"""Counts of the highest bits come from an even spread if their chi-square is lower, and surely not if they are further
from it than this share."""
SHARE, LEAST_SIGN = 0.95, 0.2
"""Of the values that must look like the format in question; of either sign in sound."""
FLOAT_EXPONENTS = 24
"""Binary orders of magnitude below 1 that samples in floating point have."""
LOUD, SMALL = 1 << 10, 1 << 13
"""Power in steps of 16 bits: a root mean square of values that are surely no silence, and a mean absolute value that
random ones do not have."""
FEW = 1 << 4

Values = NDArray[np.int64]


class RawFormat:
    """Checks the first bytes of a stream."""

    def __init__(self, whose: str) -> None:
        """whose: the stream, for errors: "standard input holds"."""
        self._whose, self._start, self._judged = whose, b"", False
        self._is_raw = False

    def check(self, data: bytes, channels: int = 1) -> None:
        """Take the next bytes.

        Raises:
            InputError: they are no signed 16-bit little-endian samples.
        """
        if self._judged:
            return
        self._start += data
        if not self._is_raw and len(self._start) >= MAGIC_BYTES:
            container = CONTAINERS.get(self._start[:MAGIC_BYTES])
            if container is not None:
                raise InputError(
                    f"{self._whose} a {container} file, not raw samples; give the file itself as SOURCE, or write"
                    " raw signed 16-bit samples (arecord -t raw -f S16_LE, ffmpeg -f s16le)"
                )
            self._is_raw = True
        zeros = len(self._start) - len(self._start.lstrip(b"\0"))
        self._start = self._start[zeros - zeros % ALIGNMENT :]
        values = np.frombuffer(self._start[: len(self._start) - len(self._start) % 2], PCM_TYPE)
        if len(values) < ENOUGH:
            return
        self._judged, self._start = True, b""
        other = sample_format(values, channels)
        if other:
            raise InputError(
                f"{self._whose} {other} samples; write signed 16-bit little-endian ones (arecord -t raw -f S16_LE,"
                " ffmpeg -f s16le)"
            )


def sample_format(samples: NDArray[np.int16], channels: int = 1) -> str:
    """The format of samples that are taken for signed 16-bit little-endian ones: "32-bit", "big-endian"; "" where
    nothing speaks against these.

    Args:
        samples: int16 (time * channel,), at least some thousand.
        channels: how many are interleaved.
    """
    values = samples[: len(samples) - len(samples) % (ALIGNMENT // 2)].astype(np.int64)
    words = values & 0xFFFF
    if _is_float(words, 4, 0x7FF, 4):
        return "64-bit float"
    if _is_float(words, 2, 0xFF, 7):
        return "32-bit float"
    for width, name in ((2, "32-bit"), (3, "24-bit"), (4, "64-bit")):
        *lower, upper = (words[part::width] for part in range(width))
        if _is_sound(upper) and all(map(_is_even, lower)):
            return name
    if channels % 2 and _has_unequal_halves(values):
        return "32-bit"
    return "big-endian" if _is_swapped(values) else ""


def _has_unequal_halves(values: Values) -> bool:
    """Whether successive values of one channel alternate between little and much power: 16 or 24 bits in 32."""
    first, second = values[::2], values[1::2]
    if not first.any():
        # a digital tone may have such zeros, but has few values
        return bool(np.count_nonzero(second) > len(second) / 2) and len(np.unique(second)) > FEW
    return bool(np.abs(second).max() <= 1 << 7 and _has_both_signs(second & 0xFFFF) and _rms(first) > LOUD)


def _is_swapped(values: Values) -> bool:
    """Whether the lower bytes are the upper ones."""
    values = values[values != 0]
    if len(values) < FEWEST:
        return False
    low, high = (values & 0xFF) << 8, values & 0xFF00
    if _rms(values) > LOUD and np.mean(low == (values < 0) * 0xFF00) > SHARE:  # quiet: the upper bytes are but a sign
        return True
    is_small = np.abs((low ^ 0x8000) - 0x8000).mean() < SMALL and _has_both_signs(low)
    return bool(is_small and _unevenness(high) < _unevenness(low) / 2)


def _is_float(words: Values, width: int, mask: int, shift: int) -> bool:
    """Whether each `width` words are a number in floating point of at most 1, and the words before the last of them are
    something else."""

    def share(part: Values) -> float:
        exponents = part >> shift & mask
        highest = mask >> 1
        return float(np.mean((exponents <= highest) & (exponents > highest - FLOAT_EXPONENTS)))

    *lower, upper = (words[part::width] for part in range(width))
    upper = upper[upper & 0x7FFF != 0]
    return len(upper) >= FEWEST and share(upper) > SHARE and max(map(share, lower)) < 0.5


def _is_even(words: Values) -> bool:
    """Whether values of 16 bits are spread evenly, as the lower bits of sound are."""
    even = 1.0 / (1 << BIN_BITS)
    return bool((np.square(_shares(words) - even) / even).sum() * len(words) < EVEN)


def _is_sound(words: Values) -> bool:
    """Whether values of 16 bits are spread unevenly over both signs, as the upper bits of sound are."""
    return _has_both_signs(words) and _unevenness(words) > UNEVEN


def _unevenness(words: Values) -> float:
    """Distance from an even spread, 0..1."""
    return float(np.abs(_shares(words) - 1.0 / (1 << BIN_BITS)).sum() / 2)


def _has_both_signs(words: Values) -> bool:
    return len(words) > 0 and LEAST_SIGN < np.mean(words >> 15) < 1.0 - LEAST_SIGN


def _shares(words: Values) -> NDArray[np.float64]:
    """Share of each value of the highest bits, float64 (1 << BIN_BITS,)."""
    return np.bincount(words >> (16 - BIN_BITS), minlength=1 << BIN_BITS) / max(1, len(words))


def _rms(values: Values) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else 0.0
