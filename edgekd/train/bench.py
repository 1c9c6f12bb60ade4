"""What `edgekd bench-train` does: clips per second of each part of a training, of the whole, and how long the device
waits for the host.

Parts and whole take turns, on batches of the recipe's own size and augmentation, with networks that nobody has trained:
speed does not depend on weights. Times end when the device has finished. The whole is Lightning's trainer with the
run's own module, as `edgekd distill` uses it; only tests, checkpoints and progress are absent.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from edgekd import quant
from edgekd.data.store.store import Clip, ClipStore
from edgekd.data.store.writer import StoreWriter
from edgekd.errors import InputError
from edgekd.evaluation.bench import machine
from edgekd.models import build
from edgekd.models.logmel import LogMel
from edgekd.text import counted
from edgekd.train.batches.audio_cache import AudioCache
from edgekd.train.batches.crops import window_samples
from edgekd.train.batches.epochs import TrainingView
from edgekd.train.batches.random_streams import RandomStream
from edgekd.train.loop.inputs import partition_clips
from edgekd.train.loop.module import LabelTable, TrainingModule
from edgekd.train.loop.precision import autocast, training_device, with_precision
from edgekd.train.loop.quiet_warnings import quiet
from edgekd.train.loss.objective import Objective
from edgekd.train.loss.term import StudentOutputs
from edgekd.train.recipe.recipe import Recipe, load_recipe
from edgekd.train.run.folder import model_config, resolved

STAGES = ("draws", "gather", "log_mel", "augmentation", "teacher_inference", "student_step", "qat_step", "end_to_end")
BATCHES, ROUNDS, WARM_UP = 8, 3, 2
MADE_CLIPS, MADE_LABELS = 2048, 10
"""Of the store that is made where none is given: one-second clips of noise."""
NOISE_CLIPS = 64
"""Different clips of noise in such a store; they repeat."""
TEST_EVERY = 10
LOWEST_GAIN = 1e-6
"""Seconds below which a difference of two times says nothing."""


class TrainBenchmark(msgspec.Struct, frozen=True, kw_only=True):
    """`bench-train --json`. clips_per_s: stage of `STAGES` -> clips per second, null where the recipe has no such
    stage. waits: share of the whole's time in which the device computes none of the stages. epoch_s: seconds of an
    epoch over the store's training clips."""

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
    """Time the parts of a training.

    Args:
        recipe: of a student or a teacher.
        data: a store; None makes one of noise, with `clips` clips of a second at the recipe's rate.
        teacher: a teacher recipe whose network is timed on the same batches, by its own front end; None leaves it out.
        overrides: "key=value" settings of the recipe.
        soft_labels: made-up teachers whose soft labels enter the loss.
        batches: of each stage in each of `ROUNDS` rounds.
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
    taught_by = None if teacher is None else load_recipe(teacher)
    with tempfile.TemporaryDirectory() as folder:
        store = ClipStore.open(data) if data is not None else _noise_store(Path(folder) / "noise", loaded, clips)
        if loaded.frontend.sample_rate != store.sample_rate:
            raise InputError(
                f"recipe {loaded.name}: its front end hears {loaded.frontend.sample_rate} Hz, {store.path} holds "
                f"{store.sample_rate} Hz; prepare the store at the front end's rate"
            )
        bench = _Bench(loaded, taught_by, store, soft_labels, training_device(accelerator))
        if bench.view.steps <= WARM_UP:
            raise InputError(
                f"{store.path}: an epoch of it has {counted(bench.view.steps, 'batch', 'batches')} of "
                f"{loaded.train.batch_size}, and {WARM_UP} warm up; give a larger store or --set train.batch_size=N"
            )
        return bench.run(batches)


def to_text(result: TrainBenchmark) -> str:
    """A table for people."""
    lines = [
        (
            f"{result.machine}; {result.device}, {counted(result.threads, 'thread')}, {result.precision}, batches of"
            f" {result.batch_size}"
        ),
        f"{'':20} {'clips/s':>10}",
    ]
    for stage in STAGES:
        value = result.clips_per_s[stage]
        lines.append(f"{stage.replace('_', ' '):20} {'-' if value is None else format(value, ',.0f'):>10}")
    lines.append(
        f"the device waits {100 * result.waits:.1f} % of the time; an epoch of {counted(result.clips, 'clip')} takes "
        f"{result.epoch_s:.1f} s"
    )
    return "\n".join(lines)


class _Bench:
    """Networks, batches and the timers of one benchmark."""

    def __init__(self, recipe: Recipe, teacher: Recipe | None, store: ClipStore, soft_labels: int, device: str) -> None:
        self.recipe, self.teacher, self.store, self.device = _of_outputs(recipe), teacher, store, torch.device(device)
        self.partition = partition_clips(recipe, store)
        fe, labels = recipe.frontend, len(store.labels)
        frames = fe.frames(window_samples(recipe.view, store))
        self.view = TrainingView(
            store, self.partition.train, recipe, recipe.train.batch_size, fe.n_mels, frames, RandomStream.FLOAT
        )
        torch.manual_seed(recipe.seed)
        soft = torch.randn(soft_labels, 1, len(store.clips), 1, labels) if soft_labels else None
        self.labels = LabelTable(torch.from_numpy(store.label_index), soft)
        self.model = self._placed(build(model_config(recipe), labels))
        self.module = self._module(self.model, quantised=False)
        self.audio_cache = AudioCache(store, self.device)
        self.module.to(self.device)
        self.qat = self._qat() if recipe.role == "student" and recipe.qat.epochs else None
        self.heard_by: tuple[LogMel, nn.Module] | None = None
        if teacher is not None:
            network = self._placed(build(model_config(teacher), labels)).eval()
            self.heard_by = LogMel(teacher.frontend, exact=False).to(self.device), network

    def run(self, batches: int) -> TrainBenchmark:
        """Let stages and the whole take turns, and sum up."""
        taken: dict[str, list[float]] = {stage: [] for stage in STAGES}
        for number in range(ROUNDS):
            for stage, seconds in self._parts(batches, number).items():
                taken[stage] += seconds
            taken["end_to_end"] += self._whole(batches)
        per_clip = {stage: statistics.median(values) if values else None for stage, values in taken.items()}
        whole, busy = per_clip["end_to_end"], per_clip["log_mel"]
        assert whole is not None
        assert busy is not None
        busy += (per_clip["augmentation"] or 0.0) + (per_clip["student_step"] or 0.0)
        if self.audio_cache.pcm is not None:
            busy += per_clip["gather"] or 0.0
        speeds = {
            stage: None if value is None or value < LOWEST_GAIN / self.view.steps else round(1 / value, 1)
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

    def _parts(self, batches: int, epoch: int) -> dict[str, list[float]]:
        """Seconds a clip of each stage but the whole, on the first batches of an epoch (`batches` of them, or as many
        as there are)."""
        taken: dict[str, list[float]] = {stage: [] for stage in STAGES[:-1]}
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        coming = self.view.batches(epoch)
        for number in range(min(batches + WARM_UP, self.view.steps)):
            drawing, batch = self._timed(lambda: next(coming))
            items = len(batch["partner"])
            gathering, waveform = self._timed(lambda crops=batch["crops"]: self.audio_cache.waveforms(crops))
            tensors = {
                name: torch.from_numpy(value).to(self.device)
                for name, value in batch.items()
                if isinstance(value, np.ndarray)
            }
            tensors["waveform"] = waveform
            hearing, (_, x) = self._timed(lambda tensors=tensors: self.module.augmented(tensors))
            plain, _ = self._timed(
                lambda heard=waveform[:items]: self.module.train_front(heard[..., : self.view.samples])
            )
            stepping, _ = self._timed(lambda x=x, tensors=tensors: self._step(self.module, optimizer, x, tensors))
            seconds = {
                "draws": drawing,
                "gather": gathering,
                "log_mel": plain,
                "augmentation": max(0.0, hearing - plain),
                "student_step": stepping,
            }
            if self.qat is not None:
                qat_optimizer = torch.optim.AdamW(self.qat.model.parameters(), lr=1e-4, fused=True)
                seconds["qat_step"], _ = self._timed(
                    lambda x=x, t=tensors, o=qat_optimizer: self._step(self.qat, o, x, t)
                )
            if self.heard_by is not None:
                seconds["teacher_inference"], _ = self._timed(lambda heard=waveform[:items]: self._teach(heard))
            if number >= WARM_UP:
                for stage, value in seconds.items():
                    taken[stage].append(value / items)
        return taken

    def _step(
        self, module: TrainingModule, optimizer: torch.optim.Optimizer, x: Tensor, batch: dict[str, Tensor]
    ) -> None:
        """One optimiser step on log-mel that is there already."""
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

    @torch.inference_mode()
    def _teach(self, waveform: Tensor) -> Tensor:
        assert self.heard_by is not None
        log_mel, network = self.heard_by
        return network(log_mel(waveform))

    def _whole(self, batches: int) -> list[float]:
        """Seconds a clip of Lightning's trainer over `batches` steps after the first ones, which are left out."""
        clock = _Clock(self.device)
        module = self._module(self._placed(build(model_config(self.recipe), len(self.store.labels))), quantised=False)
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
        return [(clock.ended - clock.began) / batches / (len(self.partition.train) / self.view.steps)]

    def _module(self, model: nn.Module, *, quantised: bool) -> TrainingModule:
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
            self.labels,
            objective,
            self.recipe,
            phase,
            self.model if quantised else None,
        )

    def _qat(self) -> TrainingModule:
        """The quantization-aware form, calibrated on one batch."""
        qat = quant.to_qat(self.model.cpu().eval())
        waveform = next(iter(self.view.unaugmented(self.recipe.train.batch_size)))
        quant.calibrate(qat, [LogMel(self.recipe.frontend)(torch.from_numpy(waveform))])
        self.model.to(self.device).train()
        module = self._module(self._placed(qat), quantised=True).to(self.device)
        if module.float_model is not None:
            module.float_model.eval()
        return module

    def _placed(self, model: nn.Module) -> nn.Module:
        return model.train().to(self.device, memory_format=torch.channels_last)

    def _timed(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds until the device has finished, and what came out."""
        _finish(self.device)
        began = time.perf_counter()
        result = work()
        _finish(self.device)
        return time.perf_counter() - began, result


def _of_outputs(recipe: Recipe) -> Recipe:
    """The recipe with the default term in the place of its own, whose teachers may have to listen live: those are not
    timed."""
    distill = msgspec.structs.replace(recipe.distill, terms=(), teaching="clip", repeat=0, weights="fixed")
    return msgspec.structs.replace(recipe, distill=distill)


class _Clock(pl.Callback):
    """Notes when the first steps and when all steps have ended on the device; it is not waited for in between."""

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
    """One-second clips of seeded noise at the recipe's rate, with its first training and test split."""
    rate = recipe.frontend.sample_rate
    noise = np.random.default_rng(0).normal(0, 3000, (NOISE_CLIPS, rate, 1)).astype(np.int16)
    train, test = recipe.data.train, recipe.data.test
    with StoreWriter(path, name="noise", licence="CC0", sample_rate=rate, channels=1, synthetic=True) as writer:
        for number in range(clips):
            turn = number // MADE_LABELS
            split = test[turn % len(test)] if turn % TEST_EVERY == 0 else train[turn % len(train)]
            writer.add(Clip(f"{number}", f"label{number % MADE_LABELS}", split), noise[number % NOISE_CLIPS])
        return writer.finish()
