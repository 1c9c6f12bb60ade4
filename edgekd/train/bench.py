"""`edgekd bench-train`: clips per second of each stage of a training and of the whole, and the share of time that the
device waits for the host.

Stages and the whole are timed in turns, on batches of the recipe's own size and augmentation. The networks are
untrained, because speed does not depend on weights. A time ends when the device has finished. The whole is Lightning's
trainer with the run's own module, as in `edgekd distill`, without tests, checkpoints and progress.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import lightning.pytorch as pl
import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from edgekd import quant
from edgekd.data.store.clips import Clip
from edgekd.data.store.store import ClipStore
from edgekd.data.store.writer import StoreWriter
from edgekd.errors import InputError
from edgekd.evaluation.bench import machine
from edgekd.models import build
from edgekd.models.logmel import LogMel
from edgekd.text import columns, counted
from edgekd.train.batches.audio_cache import AudioCache
from edgekd.train.batches.crops import window_samples
from edgekd.train.batches.epochs import TrainingView
from edgekd.train.batches.random_streams import RandomStream
from edgekd.train.loop.device import autocast, channels_last, training_device, with_precision
from edgekd.train.loop.module import TrainingModule
from edgekd.train.loss.objective import Objective
from edgekd.train.loss.term import StudentOutputs
from edgekd.train.prepare.inputs import partition_clips
from edgekd.train.prepare.prepared import LabelTable, Teaching
from edgekd.train.recipe.recipe import Recipe, check_sample_rate, load_recipe
from edgekd.train.run.claim import quiet
from edgekd.train.run.folder import model_config, resolved

P = ParamSpec("P")
T = TypeVar("T")

STAGES = ("draws", "gather", "log_mel", "augmentation", "teacher_inference", "student_step", "qat_step", "end_to_end")
BATCHES, ROUNDS, WARM_UP = 8, 3, 2
MADE_CLIPS, MADE_LABELS = 2048, 10
"""Size of the store of one-second clips of noise that is made where none is given."""
NOISE_CLIPS = 64
"""Different clips of noise in that store, which repeats them."""
TEST_EVERY = 10
"""Of that store, one clip of so many is in the test split."""
STREAM = 0
LEAST_EPOCH_SECONDS = 1e-6
"""A stage, which may be the difference of two times, that takes less in an epoch has no speed."""


class TrainBenchmark(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON of `bench-train --json`.

    clips_per_s: stage of `STAGES` -> clips per second, null where the recipe has no such stage. waits: share of the
    whole's time in which the device computes no stage. epoch_s: seconds of an epoch over the store's training clips.
    """

    recipe: str
    teacher: str | None
    device: str
    machine: str
    threads: int
    precision: str
    batch_size: int
    soft_labels: int
    clips_per_s: dict[str, float | None]
    waits: float
    clips: int
    epoch_s: float


def bench_train(
    recipe: str,
    data: Path | None,
    *,
    teacher: str | None = None,
    overrides: Sequence[str] = (),
    soft_labels: int = 0,
    clips: int = MADE_CLIPS,
    batches: int = BATCHES,
    threads: int | None = None,
    accelerator: str = "auto",
) -> TrainBenchmark:
    """Time the stages of a training.

    Args:
        recipe: of a student or a teacher.
        data: a store; None makes one of `clips` one-second clips of noise at the recipe's sample rate.
        teacher: a teacher recipe whose network is timed on the same batches, with its own front end; None times none.
        overrides: "key=value" settings of the recipe.
        soft_labels: number of teachers with random soft labels in the loss.
        clips: of the store that is made.
        batches: timed batches of each stage in each of `ROUNDS` rounds.
        threads: of torch.
        accelerator: "auto", "cpu" or "gpu".

    Raises:
        InputError: a recipe or store that does not fit, or a number out of range.
    """
    for name, value in (
        ("--batches", batches),
        ("--clips", clips - MADE_LABELS * TEST_EVERY + 1),
        ("--soft-labels", soft_labels + 1),
    ):
        if value < 1:
            raise InputError(
                f"{name} is too small; --batches must be 1 or more, --clips {MADE_LABELS * TEST_EVERY} or more"
            )
    if threads is not None:
        torch.set_num_threads(threads)
    loaded = with_precision(resolved(load_recipe(recipe, overrides)), training_device(accelerator))
    teacher_recipe = None if teacher is None else load_recipe(teacher)
    with tempfile.TemporaryDirectory() as folder:
        store = ClipStore.open(data) if data is not None else _noise_store(Path(folder) / "noise", loaded, clips)
        check_sample_rate(loaded, store)
        bench = _Bench(loaded, teacher_recipe, store, soft_labels, training_device(accelerator))
        if bench.view.steps <= WARM_UP:
            raise InputError(
                f"{store.path}: an epoch has {counted(bench.view.steps, 'batch', 'batches')} of "
                f"{loaded.train.batch_size}, and the first {WARM_UP} are not timed; give a larger store"
                " or --set train.batch_size=N"
            )
        return bench.run(batches)


def to_text(result: TrainBenchmark) -> str:
    """A table of clips per second for a terminal."""
    speeds = [
        (stage.replace("_", " "), "-" if value is None else f"{value:,.0f}")
        for stage, value in ((stage, result.clips_per_s[stage]) for stage in STAGES)
    ]
    return "\n".join(
        [
            f"{result.machine}; {result.device}, {counted(result.threads, 'thread')}, {result.precision}, batches of"
            f" {result.batch_size}",
            *columns(("", "clips/s"), speeds),
            f"the device waits {100 * result.waits:.1f} % of the time; an epoch of {counted(result.clips, 'clip')}"
            f" takes {result.epoch_s:.1f} s",
        ]
    )


class _Bench:
    """The networks, the batches and the timing of one benchmark."""

    def __init__(self, recipe: Recipe, teacher: Recipe | None, store: ClipStore, soft_labels: int, device: str) -> None:
        self.recipe, self.teacher = _with_default_term(recipe), teacher
        self.store, self.device = store, torch.device(device)
        self.partition = partition_clips(recipe, store)
        fe, labels = recipe.frontend, len(store.labels)
        frames = fe.frames(window_samples(recipe.view, store))
        self.view = TrainingView(
            store, self.partition.train, recipe, recipe.train.batch_size, fe.n_mels, frames, STREAM
        )
        torch.manual_seed(recipe.seed)
        soft = torch.randn(soft_labels, 1, len(store.clips), 1, labels) if soft_labels else None
        self.labels = LabelTable(torch.from_numpy(store.label_index), soft)
        self.model = self._to_device(build(model_config(recipe), labels))
        self.module = self._module(self.model)
        self.audio_cache = AudioCache(store, self.device)
        self.module.to(self.device)
        self.qat = self._qat() if recipe.role == "student" and recipe.qat.epochs else None
        self.teacher_network: nn.Module | None = None
        if teacher is not None:
            network = self._to_device(build(model_config(teacher), labels)).eval()
            self.teacher_network = nn.Sequential(LogMel(teacher.frontend, exact=False).to(self.device), network)

    def run(self, batches: int) -> TrainBenchmark:
        """Time the stages and the whole in turns, and take medians."""
        taken: dict[str, list[float]] = {stage: [] for stage in STAGES}
        for number in range(ROUNDS):
            for stage, seconds in self._time_stages(batches, number).items():
                taken[stage] += seconds
            taken["end_to_end"].append(self._time_whole(batches))
        per_clip = {stage: statistics.median(values) if values else None for stage, values in taken.items()}
        whole = statistics.median(taken["end_to_end"])
        on_device = [
            "log_mel",
            "augmentation",
            "student_step",
            *(["gather"] if self.audio_cache.pcm is not None else []),
        ]
        busy = sum(per_clip[stage] or 0.0 for stage in on_device)
        speeds = {
            stage: None if value is None or value < LEAST_EPOCH_SECONDS / self.view.steps else round(1 / value, 1)
            for stage, value in per_clip.items()
        }
        return TrainBenchmark(
            recipe=self.recipe.name,
            teacher=None if self.teacher is None else self.teacher.name,
            device=self.device.type,
            machine=machine(),
            threads=torch.get_num_threads(),
            precision=self.recipe.train.precision,
            batch_size=self.recipe.train.batch_size,
            soft_labels=0 if self.labels.soft_labels is None else len(self.labels.soft_labels),
            clips_per_s=speeds,
            waits=round(max(0.0, 1 - busy / whole), 4),
            clips=len(self.partition.train),
            epoch_s=round(whole * len(self.partition.train), 2),
        )

    def _time_stages(self, batches: int, epoch: int) -> dict[str, list[float]]:
        """Seconds per clip of each stage, on the first batches of an epoch: `batches` of them, or all where there are
        fewer."""
        taken: dict[str, list[float]] = {stage: [] for stage in STAGES[:-1]}
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        coming = self.view.batches(epoch)
        for number in range(min(batches + WARM_UP, self.view.steps)):
            drawing, batch = self._timed(next, coming)
            items = len(batch["partner"])
            gathering, waveform = self._timed(self.audio_cache.waveforms, batch["crops"])
            tensors = {
                name: torch.from_numpy(value).to(self.device)
                for name, value in batch.items()
                if isinstance(value, np.ndarray)
            }
            tensors["waveform"] = waveform
            with_augmentation, (_, x) = self._timed(self.module.augmented, tensors)
            log_mel, _ = self._timed(self.module.train_front, waveform[:items, ..., : self.view.samples])
            stepping, _ = self._timed(self._step, self.module, optimizer, x, tensors)
            seconds = {
                "draws": drawing,
                "gather": gathering,
                "log_mel": log_mel,
                "augmentation": max(0.0, with_augmentation - log_mel),
                "student_step": stepping,
            }
            if self.qat is not None:
                qat_optimizer = torch.optim.AdamW(self.qat.model.parameters(), lr=1e-4, fused=True)
                seconds["qat_step"], _ = self._timed(self._step, self.qat, qat_optimizer, x, tensors)
            if self.teacher_network is not None:
                with torch.inference_mode():
                    seconds["teacher_inference"], _ = self._timed(self.teacher_network, waveform[:items])
            if number >= WARM_UP:
                for stage, value in seconds.items():
                    taken[stage].append(value / items)
        return taken

    def _step(
        self, module: TrainingModule, optimizer: torch.optim.Optimizer, x: Tensor, batch: dict[str, Tensor]
    ) -> None:
        """One optimiser step on a log-mel `x`."""
        clip = batch["clip"]
        teachers = None if self.labels.soft_labels is None else self.labels.soft_labels.to(self.device)[:, 0, clip, 0]
        float_logits = None
        if module.float_model is not None:
            with torch.no_grad():
                float_logits = module.float_model(x)
        with autocast(module.precision, self.device):
            logits = module.model(x)
        targets = module.objective.targets(
            self.labels.label.to(self.device)[clip], teachers, batch["partner"], batch["share"], float_logits
        )
        loss, _ = module.objective(StudentOutputs(logits.float()), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def _time_whole(self, batches: int) -> float:
        """Seconds per clip of Lightning's trainer over `batches` steps, after `WARM_UP` steps."""
        clock = _Clock(self.device)
        module = self._module(self._to_device(build(model_config(self.recipe), len(self.store.labels))))
        with quiet():
            pl.Trainer(
                max_steps=WARM_UP + batches,
                accelerator="cpu" if self.device.type == "cpu" else "gpu",
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                limit_val_batches=0,
                num_sanity_val_steps=0,
                reload_dataloaders_every_n_epochs=1,
                callbacks=[clock],
            ).fit(module)
        return (clock.ended - clock.began) / batches / (len(self.partition.train) / self.view.steps)

    def _module(self, model: nn.Module, *, quantised: bool = False) -> TrainingModule:
        phase = self.recipe.qat if quantised else self.recipe.train
        objective = Objective(
            self.recipe.distill,
            len(self.store.labels),
            self.recipe.train.label_smoothing,
            0 if self.labels.soft_labels is None else len(self.labels.soft_labels),
            self.recipe.qat.float_weight if quantised else None,
        )
        return TrainingModule(
            model,
            LogMel(self.recipe.frontend),
            self.view,
            Teaching(objective, (), self.labels),
            self.recipe,
            phase,
            self.model if quantised else None,
        )

    def _qat(self) -> TrainingModule:
        """The quantization-aware form, calibrated on one batch."""
        qat = quant.to_qat(self.model.cpu().eval())
        waveform = next(iter(self.view.unaugmented(self.recipe.train.batch_size, RandomStream.FLOAT)))
        quant.calibrate(qat, [LogMel(self.recipe.frontend)(torch.from_numpy(waveform))])
        self.model.to(self.device).train()
        module = self._module(self._to_device(qat), quantised=True).to(self.device)
        if module.float_model is not None:
            module.float_model.eval()
        return module

    def _to_device(self, model: nn.Module) -> nn.Module:
        return channels_last(model.train(), self.device)

    def _timed(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[float, T]:
        """Seconds until the device has finished a call, and the call's result."""
        _finish(self.device)
        began = time.perf_counter()
        result = work(*args, **kwargs)
        _finish(self.device)
        return time.perf_counter() - began, result


def _with_default_term(recipe: Recipe) -> Recipe:
    """The recipe with the default term instead of its own, which may need live teachers: these are not timed."""
    distill = msgspec.structs.replace(recipe.distill, terms=(), teaching="clip", repeat=0, weights="fixed")
    return msgspec.structs.replace(recipe, distill=distill)


class _Clock(pl.Callback):
    """Notes the times at which the device has finished the first `WARM_UP` steps, and all steps; it does not wait for
    the device in between."""

    began = ended = 0.0

    def __init__(self, device: torch.device) -> None:
        self._device, self._steps = device, 0

    def on_train_batch_end(self, *_: Any) -> None:
        self._steps += 1
        if self._steps == WARM_UP:
            _finish(self._device)
            self.began = time.perf_counter()

    def on_train_end(self, *_: Any) -> None:
        _finish(self._device)
        self.ended = time.perf_counter()


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _noise_store(path: Path, recipe: Recipe, clips: int) -> ClipStore:
    """A store of one-second clips of seeded noise, with the recipe's sample rate, training splits and test splits."""
    rate = recipe.frontend.sample_rate
    noise = np.random.default_rng(0).normal(0, 3000, (NOISE_CLIPS, rate, 1)).astype(np.int16)
    train, test = recipe.data.train, recipe.data.test
    with StoreWriter(path, name="noise", licence="CC0", sample_rate=rate, channels=1, synthetic=True) as writer:
        for number in range(clips):
            group = number // MADE_LABELS  # one clip of each label
            split = test[group % len(test)] if group % TEST_EVERY == 0 else train[group % len(train)]
            writer.add(Clip(f"{number}", f"label{number % MADE_LABELS}", split), noise[number % NOISE_CLIPS])
        return writer.finish()
