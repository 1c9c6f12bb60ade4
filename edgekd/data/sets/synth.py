"""Ten synthetic acoustic scenes, for smoke tests without any recordings. Scores on them say nothing about real audio.

A scene differs from the others in its course in time: the direction and rate of glides, the rate of clicks and swells,
chords that hold or alternate. Pitch, spectral tilt, level and room are drawn from the same ranges for every scene, so
that a linear model on the mean log-mel spectrum fails. Train and test have different cities; a location (city and
number) is a group; one recorder occurs in test only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgekd.data.audio.parallel import map_in_order
from edgekd.data.audio.waveform import to_pcm
from edgekd.data.store.clips import Clip

NAME = "synth"
LICENCE = "CC0-1.0"
Time = NDArray[np.float64]
Wave = NDArray[np.float32]
Spectrum = NDArray[np.complex64]
Scene = Callable[[Time, np.random.Generator], Wave]
"""(time (n,) in seconds, generator) -> (n,) of any level."""

CITIES = {
    "train": ("aldersund", "brookmere", "castelvar", "dunholt", "eskbridge", "farrowby"),
    "test": ("gullhaven", "hartsmoor", "ivelton"),
}
"""Split -> its (invented) cities."""
LOCATIONS = 4
"""Of each scene in a city."""
TEST_EVERY = 4
"""One clip in so many is a test clip."""
PITCH_HZ = (500.0, 2500.0)
BAND_HZ = (200.0, 6000.0)
EVENT_DB = (-4.0, 10.0)
"""Level of the events above the background."""
PASSING_DB = (-15.0, -2.0)
"""Level of a second scene's events against the scene's own; it makes some clips hard to classify."""
LEVEL_DB = (-40.0, -24.0)
"""Root mean square level of a clip against full scale."""
FFT_STEP = 1024
ROOM_SECONDS = 0.25
ROOM_DECAY_SECONDS = (0.01, 0.05)
REFERENCE_HZ = 1000.0


@dataclass(frozen=True)
class Recorder:
    """A recording device.

    Attributes:
        seed: of its impulse response.
        rough: how far that response deviates from flat, 0 for not at all.
        low_cut_hz, high_cut_hz: its pass band.
        floor_db: level of its noise relative to the signal.
    """

    seed: int
    rough: float
    low_cut_hz: float
    high_cut_hz: float
    floor_db: float


RECORDERS = {
    "a": Recorder(11, 0.0, 20.0, 9000.0, -60.0),
    "b": Recorder(12, 0.3, 120.0, 7000.0, -35.0),
    "s1": Recorder(13, 0.5, 250.0, 5000.0, -30.0),
    "s2": Recorder(14, 0.5, 180.0, 4000.0, -28.0),
}
RECORDERS_OF = {"train": ("a", "a", "b", "s1"), "test": ("a", "b", "s1", "s2")}
"""Split -> the recorders drawn from; s2 is not in training."""


def _glides(direction: int, seconds: tuple[float, float], duty: float) -> Scene:
    """Tones that sweep up (+1) or down (-1) by an octave or more, one every `seconds`, audible for the share `duty`."""

    def make(time: Time, rng: np.random.Generator) -> Wave:
        period = rng.uniform(*seconds)
        # 0..1 in a sweep, 1 in the pause after it
        progress = np.minimum(_cycle(time / period + rng.random()) / np.float32(duty), np.float32(1.0))
        hertz = _pitch(rng) * np.exp2(np.float32(direction * rng.uniform(1.0, 1.8)) * (progress - np.float32(0.5)))
        cycles = np.cumsum(hertz, dtype=np.float64) * (time[1] - time[0])
        strength = rng.uniform(0, (0.6, 0.4)).astype(np.float32)
        harmonics: Wave = _sine(cycles) + strength[0] * _sine(2 * cycles) + strength[1] * _sine(3 * cycles)
        harmonics *= np.sin(np.float32(np.pi) * progress) ** 2
        return harmonics

    return make


def _clicks(hertz: tuple[float, float]) -> Scene:
    """Bursts of noise with an exponential decay, `hertz` of them a second."""

    def make(time: Time, rng: np.random.Generator) -> Wave:
        rate, decay = rng.uniform(*hertz), rng.uniform(0.015, 0.035)
        envelope: Wave = np.exp(-_cycle(time * rate + rng.random()) / np.float32(rate * decay))
        return envelope * _band_noise(time, rng)

    return make


def _swells(hertz: tuple[float, float]) -> Scene:
    """Noise that rises and falls smoothly, `hertz` times a second."""

    def make(time: Time, rng: np.random.Generator) -> Wave:
        swell = 1 + _sine(time * rng.uniform(*hertz) + rng.random())
        return (np.float32(0.1) + swell) * _band_noise(time, rng)

    return make


def _chords(hertz: tuple[float, float] | None) -> Scene:
    """Two chords: both held, or, with `hertz`, struck alternately at that rate."""

    def make(time: Time, rng: np.random.Generator) -> Wave:
        chords = [_sine(_pitch(rng) * time + rng.random()) + _sine(_pitch(rng) * time + rng.random()) for _ in range(2)]
        if hertz is None:
            return chords[0] + chords[1]
        beats = time * rng.uniform(*hertz) + rng.random()
        since = _cycle(beats)
        struck: Wave = np.exp(np.float32(-3.0) * since) * np.minimum(since * np.float32(20.0), np.float32(1.0))
        return struck * np.where(_cycle(beats / 2) < 0.5, chords[0], chords[1])

    return make


SCENES: dict[str, Scene] = {
    "airport": _glides(-1, (0.7, 1.0), 0.9),
    "bus": _swells((4.0, 6.0)),
    "metro": _glides(+1, (0.7, 1.0), 0.9),
    "metro_station": _chords((2.0, 3.0)),
    "park": _glides(+1, (0.28, 0.42), 0.6),
    "public_square": _glides(-1, (0.28, 0.42), 0.6),
    "shopping_mall": _chords(None),
    "street_pedestrian": _clicks((1.8, 2.8)),
    "street_traffic": _swells((0.9, 1.4)),
    "tram": _clicks((7.0, 10.0)),
}
"""Label -> generator of its events."""


def clips(count: int, seconds: float, seed: int, sample_rate: int) -> Iterator[tuple[Clip, NDArray[np.int16]]]:
    """Generate a data set; labels alternate, and a quarter of each label's clips is for test.

    Args:
        count: clips in all.
        seconds: length of each.
        seed: another seed is another data set.
        sample_rate: Hz.

    Yields:
        (row, pcm (time, 1) int16).
    """
    labels = list(SCENES)

    def make(index: int) -> tuple[Clip, NDArray[np.int16]]:
        label, number = labels[index % len(labels)], index // len(labels)
        split = "test" if number % TEST_EVERY == TEST_EVERY - 1 else "train"
        rng = np.random.default_rng([seed, index])
        city = str(rng.choice(CITIES[split]))
        location = f"{city}-{labels.index(label) * LOCATIONS + int(rng.integers(LOCATIONS))}"
        recorder = str(rng.choice(RECORDERS_OF[split]))
        waveform = recording(label, rng, seconds, sample_rate, location, recorder)
        row = Clip(f"{label}-{location}-{index}-{recorder}.wav", label, split, group=location, recorder=recorder)
        return row, to_pcm(waveform)[:, np.newaxis]

    return map_in_order(make, range(count))


def recording(
    label: str, rng: np.random.Generator, seconds: float, sample_rate: int, location: str, recorder: str
) -> NDArray[np.float32]:
    """(time,) float32 in [-1, 1]: one clip of a scene, in the room of a location, through a device of `RECORDERS`."""
    samples = round(seconds * sample_rate)
    length = _fast_length(samples + int(ROOM_SECONDS * sample_rate))
    time = np.arange(samples) / sample_rate
    second = SCENES[str(rng.choice([other for other in SCENES if other != label]))](time, rng)
    events = _unit(SCENES[label](time, rng)) + _decibels(rng.uniform(*PASSING_DB)) * _unit(second)
    reverberant = np.fft.rfft(events, length).astype(np.complex64) * _room(location, length, sample_rate)
    background = _noise_spectrum(length, sample_rate, rng, tilt=rng.uniform(0.5, 1.5))
    mixed = _decibels(rng.uniform(*EVENT_DB)) * _unit_spectrum(reverberant) + _unit_spectrum(background)
    waveform = np.fft.irfft(mixed * _response(recorder, length, sample_rate), length)[:samples].astype(np.float32)
    floor = _decibels(RECORDERS[recorder].floor_db) * rng.standard_normal(samples, dtype=np.float32)
    return _unit(_unit(waveform) + floor) * _decibels(rng.uniform(*LEVEL_DB))


def _pitch(rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(PITCH_HZ))))


def _band_noise(time: Time, rng: np.random.Generator) -> Wave:
    """(n,) noise in a random band an octave or more wide."""
    low = float(np.exp(rng.uniform(np.log(BAND_HZ[0]), np.log(BAND_HZ[1] / 4))))
    high = min(low * 2 ** rng.uniform(1.5, 3.5), BAND_HZ[1])
    length = _fast_length(len(time))
    frequency = np.fft.rfftfreq(length, time[1] - time[0]).astype(np.float32)
    spectrum = _gaussian(rng, len(frequency)) / (1 + (low / np.maximum(frequency, 1.0)) ** 4 + (frequency / high) ** 4)
    return np.fft.irfft(spectrum, length)[: len(time)].astype(np.float32)


def _noise_spectrum(length: int, sample_rate: int, rng: np.random.Generator, tilt: float) -> Spectrum:
    """Noise whose power falls with frequency to the power of `tilt`."""
    frequency = np.maximum(np.fft.rfftfreq(length, 1 / sample_rate), 20.0).astype(np.float32)
    slope: Wave = (frequency / np.float32(REFERENCE_HZ)) ** np.float32(-tilt / 2)
    return _gaussian(rng, len(frequency)) * slope


def _gaussian(rng: np.random.Generator, bins: int) -> Spectrum:
    return rng.standard_normal(2 * bins, dtype=np.float32).view(np.complex64)


@lru_cache(maxsize=512)
def _room(location: str, length: int, sample_rate: int) -> Spectrum:
    """Spectrum of a room's impulse response: direct sound and decaying tail, seeded by the location."""
    rng = np.random.default_rng(list(location.encode()))
    time = np.arange(int(ROOM_SECONDS * sample_rate)) / sample_rate
    tail = rng.standard_normal(len(time)) * np.exp(-time / rng.uniform(*ROOM_DECAY_SECONDS))
    tail[0] = 0.0
    response = _unit_energy(tail) * rng.uniform(0.2, 0.9)
    response[0] = 1.0
    return np.fft.rfft(response, length).astype(np.complex64)


@lru_cache(maxsize=len(RECORDERS) * 2)
def _response(recorder: str, length: int, sample_rate: int) -> Spectrum:
    """Frequency response of a recorder: a random short impulse response between its cut-off frequencies."""
    device = RECORDERS[recorder]
    taps = sample_rate // 500
    rng = np.random.default_rng(device.seed)
    impulse = device.rough * _unit_energy(rng.standard_normal(taps) * np.exp(-np.arange(taps) / (taps / 4)))
    impulse[0] = 1.0
    frequency = np.fft.rfftfreq(length, 1 / sample_rate)
    passband = (
        1 / (1 + (device.low_cut_hz / np.maximum(frequency, 1.0)) ** 2) / (1 + (frequency / device.high_cut_hz) ** 4)
    )
    return np.asarray(np.fft.rfft(impulse, length) * passband, dtype=np.complex64)


def _fast_length(samples: int) -> int:
    """The next multiple of `FFT_STEP`, a length that is fast to transform."""
    return -(-samples // FFT_STEP) * FFT_STEP


def _cycle(cycles: Time) -> Wave:
    """Fraction of the current cycle, float32 in 0..1."""
    return np.asarray(cycles - np.floor(cycles), dtype=np.float32)


def _sine(cycles: Time) -> Wave:
    wave: Wave = np.sin(np.float32(2 * np.pi) * _cycle(cycles))
    return wave


def _decibels(level: float) -> np.float32:
    return np.float32(10 ** (level / 20))


def _unit(wave: Wave) -> Wave:
    """Scaled to a root mean square of 1."""
    return wave / np.float32(np.sqrt(np.mean(wave**2)))


def _unit_energy(wave: Time) -> Time:
    return wave / float(np.sqrt(np.sum(wave**2)))


def _unit_spectrum(spectrum: Spectrum) -> Spectrum:
    return spectrum / np.float32(np.sqrt(np.vdot(spectrum, spectrum).real / len(spectrum)))
