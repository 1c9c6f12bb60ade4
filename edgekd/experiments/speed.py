"""Measures how fast the networks of a recipe train, and how fast clips are decoded, on noise.

Batches grow to the recipe's own size while time lasts. A smaller batch is close to the full speed of a CPU, but not to
that of a GPU.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.utils.memory_format import convert_conv2d_weight_memory_format

from edgekd import quant
from edgekd.data.audio.decode import decode_all
from edgekd.data.dataset import ClipSource
from edgekd.data.sets import toy_sets
from edgekd.data.store.clips import Clip
from edgekd.experiments.published_table import TableData
from edgekd.models import build, front, input_kind
from edgekd.models.transformer import AstConfig
from edgekd.train.loop.device import autocast, with_precision
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.recipe.schema import DEFAULT_WINDOW
from edgekd.train.run.claim import quiet
from edgekd.train.run.folder import model_config

FIRST_BATCH = 2
REPEATS = 3
"""How often the recipe's own batch is timed, where time lasts."""
DECODED_FILES = 32
"""Files of noise whose decoding is timed."""
NOISE_LEVEL = 0.1
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class ClipTimes:
    """Seconds a clip of one network.

    Attributes:
        train: in a step of the float phase.
        qat: in a step of the quantization-aware phase, 0 without it.
        predict: in a test, or as a teacher.
        batch: the largest batch that was timed.
    """

    train: float
    qat: float
    predict: float
    batch: int


def measure(recipe: Recipe, data: TableData, device_type: str, limit_s: float) -> ClipTimes:
    """Time the steps of a recipe's network on noise.

    Args:
        recipe: a student's or a teacher's.
        data: rate, channels, labels and lengths of its clips.
        device_type: of torch's device.
        limit_s: about how long to measure, seconds.
    """
    device = torch.device(device_type)
    recipe = with_precision(recipe, device_type)
    config = model_config(recipe)
    if isinstance(config, AstConfig):
        config = msgspec.structs.replace(config, weights="")  # the sizes that the recipe names, nothing downloaded
    network = convert_conv2d_weight_memory_format(build(config, data.labels).to(device), torch.channels_last)
    frontend = front(config, recipe.frontend, exact=False).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    phases = 3 if recipe.has_qat else 2

    def features(batch: int) -> Tensor:
        made: Tensor = frontend(torch.randn(batch, *_waveform_shape(recipe, data), device=device) * NOISE_LEVEL)
        return made

    def train_step(batch: int) -> None:
        network.train()
        _step(network, optimizer, features(batch), None, recipe.train.precision, data.labels)

    def predict(batch: int) -> None:
        network.eval()
        with torch.inference_mode():
            network(features(batch))

    with quiet():
        train_s, largest = _timed(train_step, recipe.train.batch_size, device, limit_s / phases)
        predict_s, _ = _timed(predict, recipe.train.batch_size, device, limit_s / phases)
        qat_s = 0.0
        if recipe.has_qat:
            quantised = quant.to_qat(network.cpu().eval())
            quant.calibrate(quantised, [features(FIRST_BATCH).cpu()] if input_kind(config) == "log_mel" else [])
            network.to(device)
            quantised.to(device)
            qat_optimizer = torch.optim.AdamW(quantised.parameters(), lr=LEARNING_RATE)

            def qat_step(batch: int) -> None:
                network.eval()
                quantised.train()
                _step(quantised, qat_optimizer, features(batch), network, "float32", data.labels)

            qat_s, _ = _timed(qat_step, recipe.qat.batch_size, device, limit_s / phases)
    return ClipTimes(train_s, qat_s, predict_s, largest)


def decode_seconds(data: TableData) -> float:
    """Seconds to decode and resample all clips of a data set, by a few files of noise. The operating system keeps those
    in memory, so that reading from the disk is not in it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "noise.wav"
        toy_sets.wav(path, data.file_rate, data.file_channels, data.seconds)
        sources = [ClipSource(path, Clip(str(number), "noise", "train")) for number in range(DECODED_FILES)]
        start = time.perf_counter()
        for _ in decode_all(sources, data.sample_rate, data.channels):
            pass
        return (time.perf_counter() - start) / DECODED_FILES * data.clips


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    teacher: nn.Module | None,
    precision: str,
    labels: int,
) -> None:
    """A training step on random labels, after the forward pass of a teacher where there is one."""
    if teacher is not None:
        with torch.no_grad():
            teacher(x)
    with autocast(precision, x.device):
        logits = network(x)
    loss = nn.functional.cross_entropy(logits.float(), torch.randint(labels, (len(x),), device=x.device))
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()


def _timed(run: Callable[[int], None], largest: int, device: torch.device, limit_s: float) -> tuple[float, int]:
    """The least seconds a clip in batches that grow while time lasts, and the largest batch. The least of several
    timings leaves out what other work has slowed down."""
    end, batch, repeats = time.perf_counter() + limit_s, min(FIRST_BATCH, largest), 0
    run(batch)  # the first call allocates memory and chooses kernels
    least = float("inf")
    while True:
        _synchronize(device)
        start = time.perf_counter()
        run(batch)
        _synchronize(device)
        seconds = time.perf_counter() - start
        least, repeats = min(least, seconds / batch), repeats + (batch == largest)
        if repeats == REPEATS or time.perf_counter() + 2 * 2 * seconds > end:
            return least, batch
        batch = min(2 * batch, largest)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _waveform_shape(recipe: Recipe, data: TableData) -> tuple[int, ...]:
    """Shape of the waveform of a recipe's view: (samples,) or (channels, samples)."""
    view = recipe.view
    seconds = view.seconds or (
        DEFAULT_WINDOW if view.span == "crop" else data.seconds * (data.segments if view.span == "parent" else 1)
    )
    samples = round(seconds * recipe.frontend.sample_rate) * (view.joined if view.span == "pair" else 1)
    return (data.channels, samples) if view.channels == "all" else (samples,)
