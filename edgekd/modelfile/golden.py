"""Golden vectors: waveforms that are the same on every machine, with the features and logits computed from them at
export.

The waveforms are computed from integers alone, so they need no file and belong to no data set. A hash of a counter
gives noise, a running mean filters it, phase counters give triangle waves, and each of eight segments has its own
loudness. The noise keeps every mel band far above the rounding error of a float32 FFT: the log-mel of such a waveform
differs by less than 2e-6 log units between a float32 and a float64 transform.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd import rounding
from edgekd.errors import InputError
from edgekd.frontend import FrontEnd, log_mel
from edgekd.log_mel_stream import LogMelStream
from edgekd.modelfile.manifest import Golden, GoldenVector, Manifest, TensorQuant

CANDIDATES, VECTORS = 16, 4
"""How many waveforms are tried, and how many are kept."""
SAFE_MARGIN = 4
"""Steps between the largest and the second logit above which engines within tolerance agree on the label."""
PROBES = 128
"""Number of log-mel elements that are kept in float32."""
PROBE_TYPE = np.dtype("<f4")
MAX_SAMPLES, MAX_ELEMENTS = 2**21, 2**22
"""Longest waveform (samples) and largest log-mel that a file may ask for. They take some hundred megabytes."""
DECIMALS = 3
"""Decimal places of the logits of a float model, in steps."""
STREAM_CHUNK = 997
"""Samples per push when a waveform is streamed."""

PARAMETER_STREAM, NOISE_STREAM, PROBE_STREAM = range(3)
PARAMETERS = 32
WEYL, STREAM_STEP = 0x9E3779B9, 0x85EBCA6B
MIX = ((16, 0x7FEB352D), (15, 0x846CA68B))
LAST_SHIFT = 16
"""The "lowbias32" mixer by C. Wellons: shifts and odd factors."""
TONES, SEGMENTS, MAX_WIDTH = 3, 8, 64
PCM_PEAK, PHASES = 2**15, 2**32

Features = NDArray[np.float32]
Runner = Callable[[Features], NDArray[np.float32]]
"""Features (batch, mel, frame) to logits (batch, labels)."""


@dataclass(frozen=True)
class Replay:
    """Result of computing the golden vectors again.

    Attributes:
        features_max_error: largest difference of the log-mel in log units, of the clip and of the stream. At the probes
            it is exact. At other elements it is the distance to the quantisation step that was kept.
        input_agreement: share 0..1 of the quantised input elements that are the same.
        logits: (vectors, labels) computed from the kept input, in steps of the output's scale.
        expected: the kept logits, in the same unit.
    """

    features_max_error: float
    input_agreement: float
    logits: NDArray[np.float64]
    expected: NDArray[np.float64]


def random_words(seed: int, stream: int, count: int) -> NDArray[np.uint32]:
    """uint32 (count,): a hash of (seed, stream, position)."""
    start = _mix(np.array([(seed * WEYL + stream * STREAM_STEP) % 2**32], np.uint32))
    return _mix(np.arange(count, dtype=np.uint32) + start)


def waveform(seed: int, samples: int) -> Features:
    """A waveform, float32 (samples,) in [-1, 1): multiples of 2**-15, computed in integers alone."""
    p = random_words(seed, PARAMETER_STREAM, PARAMETERS).astype(np.int64)
    white = (random_words(seed, NOISE_STREAM, samples + MAX_WIDTH) >> 16).astype(np.int64) - PCM_PEAK
    width = 1 << int(p[0] % 6)  # samples of the running mean, 1 to 32
    total = np.cumsum(white)
    mix = (total[MAX_WIDTH:] - total[MAX_WIDTH - width : -width]) // width + (white[:samples] >> 3)
    time = np.arange(samples, dtype=np.int64)
    for tone in range(TONES):
        step = (2**24 + int(p[1 + tone] % 2**24)) << int(p[4 + tone] % 6)  # 2**32 is a cycle: sample rate / 256 to / 4
        triangle = np.abs(step * time % PHASES - PHASES // 2) // 2**15 - PCM_PEAK
        mix += triangle >> 3 + int(p[7 + tone] % 4)
    loudness = 4 + p[10 : 10 + SEGMENTS] % 13
    mix = mix * loudness[time * SEGMENTS // samples] >> 4 + int(p[18] % 4)
    wave: Features = np.clip(mix, -PCM_PEAK, PCM_PEAK - 1).astype(np.float32) / np.float32(PCM_PEAK)
    return wave


def make(frontend: FrontEnd, window: int, source: TensorQuant, step: float, run: Runner) -> Golden:
    """Golden vectors of a model: waveforms with different labels and wide margins, as far as the candidates have them.

    Args:
        frontend, window: of the manifest.
        source: int8 quantisation of the features.
        step: logit units of one step of the output.
        run: reference of the model, on quantised and dequantised features.
    """
    # (candidates, mel, frame)
    features = np.stack([log_mel(frontend, waveform(seed, window)) for seed in range(CANDIDATES)])
    q = rounding.quantize(features, source.scale, source.zero_point, np.int8)
    # (candidates, labels)
    steps = np.asarray(run(rounding.dequantize(q, source.scale, source.zero_point)), np.float64) / step
    vectors = []
    for seed in _chosen_candidates(steps):
        probes = features[seed].reshape(-1)[probe_positions(seed, features[seed].size, PROBES)]
        vectors.append(
            GoldenVector(
                seed,
                probes.astype(PROBE_TYPE).tobytes(),
                zlib.compress(q[seed].tobytes(), 9),
                tuple(_json_number(value) for value in steps[seed]),
            )
        )
    return Golden(source, step, tuple(vectors))


def replay(manifest: Manifest, run: Runner, where: str) -> Replay:
    """Compute the golden waveforms and their features again, and run the model on the kept input.

    Args:
        manifest: of the model.
        run: the model on this machine.
        where: name of the file, for errors.

    Raises:
        InputError: the file has no golden vectors, or they do not fit it.
    """
    golden = manifest.golden
    if golden is None:
        raise InputError(f"{where}: carries no golden vectors, because an early edgekd exported it; export it again")
    shape = manifest.frontend.n_mels, manifest.frontend.frames(manifest.window)
    if manifest.window > MAX_SAMPLES or shape[0] * shape[1] > MAX_ELEMENTS:
        raise InputError(
            f"{where}: a window of {manifest.window:,} samples with a log-mel of {shape} is too large for golden"
            " vectors; export the model again"
        )
    kept = np.stack(
        [_unpack(vector, shape, f"{where}: golden vector {index}") for index, vector in enumerate(golden.vectors)]
    )
    expected = [vector.logits for vector in golden.vectors]
    if any(len(logits) != len(manifest.labels) for logits in expected):
        raise InputError(f"{where}: the golden vectors have not one logit per label; export the model again")
    source, errors, same = golden.input, [0.0], []
    for vector, q in zip(golden.vectors, kept, strict=True):
        wave = waveform(vector.seed, manifest.window)
        for features in (log_mel(manifest.frontend, wave), _streamed(manifest.frontend, wave)):
            errors += [_probe_error(vector, features), _excess(q, features, source)]
            same.append(float((rounding.quantize(features, source.scale, source.zero_point, np.int8) == q).mean()))
    # one at a time, since there may be many
    runs = [run(rounding.dequantize(q[None], source.scale, source.zero_point)) for q in kept]
    logits = np.concatenate(runs).astype(np.float64) / golden.step
    if manifest.output.dtype != "float32":
        logits = np.rint(logits)
    return Replay(max(errors) * manifest.frontend.std, float(np.mean(same)), logits, np.array(expected, np.float64))


def probe_positions(seed: int, size: int, count: int) -> NDArray[np.int64]:
    """Positions of the probes, (count,), in a flattened log-mel of `size` elements."""
    return random_words(seed, PROBE_STREAM, count).astype(np.int64) % size


def _mix(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    for shift, factor in MIX:
        words = (words ^ (words >> np.uint32(shift))) * np.uint32(factor)
    mixed: NDArray[np.uint32] = words ^ (words >> np.uint32(LAST_SHIFT))
    return mixed


def _chosen_candidates(steps: NDArray[np.float64]) -> list[int]:
    """Seeds of the candidates to keep, by the margin between the largest and the second logit.

    First comes the widest margin of each label, if it is above `SAFE_MARGIN`, then all others.
    """
    ordered = np.sort(steps, axis=1)
    margins = ordered[:, -1] - ordered[:, -2] if steps.shape[1] > 1 else np.zeros(len(steps))
    ranked = [int(index) for index in np.argsort(-margins, kind="stable")]
    labels = steps.argmax(axis=1)
    safe = [index for index in ranked if margins[index] > SAFE_MARGIN]
    firsts = list({labels[index]: index for index in reversed(safe)}.values())[::-1]
    return (firsts + [index for index in ranked if index not in firsts])[:VECTORS]


def _json_number(value: np.float64) -> float:
    """A number of steps for JSON, without the rounding error of float32: an integer where it is whole."""
    rounded = round(float(value), DECIMALS)
    return int(rounded) if rounded.is_integer() else rounded


def _unpack(vector: GoldenVector, shape: tuple[int, int], where: str) -> NDArray[np.int8]:
    """The kept input, int8 (mel, frame)."""
    size = shape[0] * shape[1]
    try:
        raw = zlib.decompressobj().decompress(vector.input, size + 1)  # never more than one byte too many
    except zlib.error as error:
        raise InputError(f"{where} is damaged ({error}); export the model again") from None
    if len(raw) != size or not vector.probes or len(vector.probes) % PROBE_TYPE.itemsize:
        raise InputError(f"{where} does not fit a log-mel of {shape}; export the model again")
    return np.frombuffer(raw, np.int8).reshape(shape)


def _streamed(frontend: FrontEnd, wave: Features) -> Features:
    """The log-mel of a waveform pushed in chunks."""
    stream = LogMelStream(frontend)
    parts = [stream.push(wave[start : start + STREAM_CHUNK]) for start in range(0, len(wave), STREAM_CHUNK)]
    return np.concatenate([*parts, stream.flush()], axis=1)


def _probe_error(vector: GoldenVector, features: Features) -> float:
    """Largest difference of the features from the kept probes."""
    probes = np.frombuffer(vector.probes, PROBE_TYPE).astype(np.float64)
    got = features.reshape(-1)[probe_positions(vector.seed, features.size, len(probes))]
    return float(np.abs(got - probes).max())


def _excess(q: NDArray[np.int8], features: Features, source: TensorQuant) -> float:
    """Largest distance of a feature from the quantisation step that its kept integer stands for.

    The outermost steps are open to the outside, because values beyond them were clipped.
    """
    bounds = np.iinfo(np.int8)
    steps = q.astype(np.float64) - source.zero_point
    low = np.where(q == bounds.min, -np.inf, (steps - 0.5) * source.scale)
    high = np.where(q == bounds.max, np.inf, (steps + 0.5) * source.scale)
    return float(np.maximum(np.maximum(low - features, features - high), 0.0).max())
