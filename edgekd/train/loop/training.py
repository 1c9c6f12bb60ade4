"""A training from recipe to run folder: the float phase, then the quantization-aware one, each under Lightning's
trainer."""

import datetime
import importlib.metadata
import logging
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import msgspec
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from edgekd import quant
from edgekd.data.store.store import ClipStore, Partition
from edgekd.files import atomic_write
from edgekd.frontend import FrontEnd
from edgekd.models import front, initial
from edgekd.text import counted
from edgekd.train.batches.crops import window_samples
from edgekd.train.batches.epochs import TrainingView
from edgekd.train.batches.random_streams import RandomStream
from edgekd.train.loop import pretrained
from edgekd.train.loop.callbacks import Checkpoints, EpochEnd, Progress
from edgekd.train.loop.checks import check_network, check_same_input, check_terms, check_unseen, has_qat, open_teacher
from edgekd.train.loop.environment import check_accelerator, locked_run_folder, log_to_file, set_threads
from edgekd.train.loop.inputs import input_shape, measure_front_end, mel_frames, partition_clips
from edgekd.train.loop.module import LabelTable, TrainingModule
from edgekd.train.loop.precision import channels_last, compile_in_place, training_device, with_precision
from edgekd.train.loop.quiet_warnings import quiet
from edgekd.train.loop.teaching import live_teachers, shared_samples, stack_soft_labels, tap_shapes
from edgekd.train.loop.validation import predict_clips, run_metrics
from edgekd.train.loss.objective import Objective
from edgekd.train.parallel import processes
from edgekd.train.recipe.recipe import Recipe, check_sample_rate
from edgekd.train.recipe.schema import Qat, Train
from edgekd.train.run.claim import check_run_folder, claim
from edgekd.train.run.faults import report_disk_errors, report_out_of_memory, smaller_batch
from edgekd.train.run.folder import (
    CHECKPOINT_FILE,
    LOG_FILE,
    MODEL_FILE,
    QAT_FILE,
    TENSORBOARD_FOLDER,
    TEST_FILES,
    DataInfo,
    Run,
    RunInfo,
    load_run,
    load_saved,
    model_config,
    resolved,
    save_weights,
    write_info,
)
from edgekd.train.teachers.live import LIVE, LiveTeacher
from edgekd.train.teachers.soft_labels import Logits, clip_probabilities, soft_labels, teacher_scores

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How to run a training; the recipe says what to train.

    force: replace an earlier run. resume: go on with it. threads: of torch on the CPU in each process, None as
    `set_threads` says. accelerator: one of `ACCELERATORS`. compile: compile the float network with torch.compile.
    """

    force: bool = False
    resume: bool = False
    threads: int | None = None
    accelerator: str = "auto"
    compile: bool = False


DEFAULT_OPTIONS = Options()


def train(
    recipe: Recipe, store: ClipStore, out: Path, teachers: Sequence[Path] = (), options: Options = DEFAULT_OPTIONS
) -> Run:
    """Train a student or a teacher, or resume its training.

    Under torchrun or srun all processes call this. They divide each batch of the recipe among them; the first one
    creates the run folder, writes it and tests.

    Args:
        recipe: what to train.
        store: the clips.
        out: the run folder, on a file system that all processes see.
        teachers: folders of finished runs to distil from; without any, labels alone train.
        options: how to run.

    Returns:
        the finished run, also where it was finished before.

    Raises:
        InputError: recipe, store, teachers or folder do not fit, which is found before the first epoch; the loss is not
            a number; memory runs out, a disk is full, or a process ends.
    """
    check_accelerator(options.accelerator)
    with processes.in_process_group(options.accelerator):
        set_threads(options.threads)
        return _train(
            with_precision(resolved(recipe), training_device(options.accelerator)), store, out, teachers, options
        )


def _train(recipe: Recipe, store: ClipStore, out: Path, teachers: Sequence[Path], options: Options) -> Run:
    processes.first(lambda: check_run_folder(out, teachers, force=options.force, resume=options.resume))
    check_sample_rate(recipe, store)
    partition = partition_clips(recipe, store)
    check_network(recipe, store, partition)
    runs = [open_teacher(path, recipe, store, partition) for path in teachers]
    initial_run = pretrained.initial_run(recipe, teachers)
    if initial_run is not None:
        check_unseen(initial_run, "init.run", recipe, store, partition)
    labelled = [soft_labels(run, store) for run in runs]
    fe, spectrum = processes.first(lambda: measure_front_end(recipe, store, partition))
    if recipe.distill.teaching == "same":
        check_same_input(recipe, store, runs, fe)
    check_terms(recipe, store, partition, fe, runs)
    view = TrainingView(
        store,
        partition.train,
        recipe,
        recipe.train.batch_size,
        *mel_frames(recipe, store, fe),
        stream=RandomStream.FLOAT,
        shard=processes.shard(),
    )
    info = RunInfo(
        status="training",
        name=recipe.name,
        recipe_hash=recipe.hash,
        labels=store.labels,
        frontend=fe,
        window=view.samples,
        spectrum=spectrum,
        data=DataInfo(store.name, store.hash, store.licence, store.synthetic),
        teachers=tuple(key for key, _ in labelled),
        init=initial_run.weights_hash if initial_run else "",
        impulse_responses=view.ir_hash,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        edgekd_version=importlib.metadata.version("edgekd"),
    )
    if processes.first(lambda: claim(out, info, recipe, force=options.force, resume=options.resume)) == "finished":
        log.info("%s is finished already; nothing to do", out)
        return load_run(out)
    with report_disk_errors(out), locked_run_folder(out), log_to_file(out / LOG_FILE):
        training = _Training(recipe, store, partition, fe, out, options, runs)
        try:
            metrics = processes.first(lambda: training.log_teachers([each for _, each in labelled]))
            torch.manual_seed(recipe.seed)
            model = initial(model_config(recipe), len(store.labels))
            if initial_run is not None:
                pretrained.load_initial_weights(model, initial_run, store.labels)
            metrics |= training.float_phase(model)
            if has_qat(recipe):
                metrics |= training.qat_phase(model)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(f"{out}: {str(stop) or 'interrupted'}; go on with --resume") from None
        finished = msgspec.structs.replace(info, status="finished", metrics=metrics, seconds=round(training.seconds, 1))
        processes.first(lambda: write_info(out, finished))
    return load_run(out)


class _Training:
    """The phases of one training and what they share."""

    def __init__(
        self,
        recipe: Recipe,
        store: ClipStore,
        partition: Partition,
        fe: FrontEnd,
        out: Path,
        options: Options,
        runs: Sequence[Run],
    ) -> None:
        self.recipe, self.store, self.partition, self.fe, self.out = recipe, store, partition, fe, out
        self.options, self.runs = options, runs
        self.front = front(model_config(recipe), fe)
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0

    def log_teachers(self, labelled: Sequence[Logits]) -> dict[str, float]:
        """Log the clips, and the accuracy of each teacher and of their mean; the mean's accuracies become metrics.

        Args:
            labelled: soft labels of each teacher, of clips or of their segments.
        """
        log.info(
            "%s: %d clips to train on, %d to test on, %d labels",
            self.store.name,
            len(self.partition.train),
            len(self.partition.test),
            len(self.store.labels),
        )
        if len(self.partition.left_out):
            log.info(
                "%s left out: the test split has the same recordings",
                counted(len(self.partition.left_out), "training clip"),
            )
        if not labelled:
            if self.recipe.role == "student":
                log.info("no teacher: the student learns from labels alone (kd_weight 0, label_weight 1)")
            return {}
        probabilities = [clip_probabilities(each) for each in labelled]
        metrics: dict[str, float] = {}
        rows = [(f"teacher {run.path}", each) for run, each in zip(self.runs, probabilities, strict=True)]
        if len(rows) > 1:
            rows.append((f"mean of {len(rows)} teachers", np.mean(probabilities, axis=0)))
        for name, each in rows:
            sides = (self.partition.train, self.partition.test)
            trained, tested = (teacher_scores(each, self.store, side).accuracy for side in sides)
            log.info("%s: %.1f %% of training clips, %.1f %% of test clips", name, 100 * trained, 100 * tested)
            metrics = {"teachers_train_clip_accuracy": trained, "teachers_test_clip_accuracy": tested}
        return metrics

    def float_phase(self, model: nn.Module) -> dict[str, float]:
        """Train the float network in place, or load it where it is trained already; returns its test metrics."""
        if self.recipe.init.adapt == "none":
            processes.first(lambda: save_weights(self.out / MODEL_FILE, model))
        elif self._checkpoint_phase() != "qat":
            module = self._fit(model, self.recipe.train, RandomStream.FLOAT)
            processes.first(lambda: save_weights(self.out / MODEL_FILE, module.final_model))
        model.load_state_dict(processes.first(lambda: load_saved(self.out / MODEL_FILE)))
        return processes.first(lambda: self._test(model, "float"))

    def qat_phase(self, model: nn.Module) -> dict[str, float]:
        """Train the quantization-aware form of a trained float network; returns its test metrics."""
        model = model.cpu().eval()
        qat = quant.to_qat(model)
        qat.load_state_dict(processes.first(lambda: self._calibrate(qat)))
        self._fit(qat, self.recipe.qat, RandomStream.QAT, model)
        return processes.first(lambda: self._settle(qat))

    def _calibrate(self, qat: quant.QuantNetwork) -> dict[str, Any]:
        """Set the first scales of a quantization-aware network; returns its state."""
        view = self._view(self.recipe.qat.batch_size, RandomStream.CALIBRATION)
        with report_out_of_memory("the calibration of the qat phase", smaller_batch("qat", self.recipe.qat.batch_size)):
            waveforms = view.unaugmented(self.recipe.qat.calibration_clips)
            quant.calibrate(qat, (self.front.cpu()(torch.from_numpy(waveform)) for waveform in waveforms))
        return dict(qat.state_dict())

    def _settle(self, model: quant.QuantNetwork) -> dict[str, float]:
        """Fix the scales of a trained quantization-aware network and save it; returns its test metrics."""
        quant.settle(model.cpu(), mel_frames(self.recipe, self.store, self.fe))
        save_weights(self.out / QAT_FILE, model)
        return self._test(model.cpu(), "qat")

    def _fit(
        self, model: nn.Module, phase: Train | Qat, stream: int, float_model: nn.Module | None = None
    ) -> TrainingModule:
        name = "float" if isinstance(phase, Train) else "qat"
        channels_last(model.train())
        if self.options.compile and isinstance(phase, Train):
            compile_in_place(model, torch.zeros(1, *input_shape(self.recipe, self.store, self.fe)))
        float_weight = None if isinstance(phase, Train) else phase.float_weight
        objective, live, labels = self._teaching(model, float_weight)
        view = self._view(phase.batch_size, stream, self.recipe.distill.repeat if live else 0)
        module = TrainingModule(model, self.front, view, labels, objective, self.recipe, phase, float_model, live)
        end = EpochEnd(self.out, self.store, self.partition.test, self.rows, self.seconds)
        resume = self._checkpoint_phase() == name
        table = "train" if isinstance(phase, Train) else "qat"
        with (
            quiet(),
            report_out_of_memory(
                f"the {name} phase with batches of {phase.batch_size}", smaller_batch(table, phase.batch_size)
            ),
        ):
            trainer = self._trainer(phase.epochs, end)
            handler = signal.getsignal(signal.SIGINT)
            try:
                trainer.fit(module, ckpt_path=self.out / CHECKPOINT_FILE if resume else None)
            except SystemExit:  # Lightning raises it after an interrupt, and has switched off further ones
                signal.signal(signal.SIGINT, handler)
                raise KeyboardInterrupt(
                    f"interrupted in epoch {module.current_epoch + 1} of the {module.phase_name} phase"
                ) from None
        self.rows, self.seconds = end.rows, end.seconds
        return module

    def _teaching(
        self, model: nn.Module, float_weight: float | None
    ) -> tuple[Objective, tuple[LiveTeacher, ...], LabelTable]:
        """The loss of a phase, its live teachers, and the labels with the soft labels of the other teachers.

        Args:
            model: the student.
            float_weight: of the quantization-aware phase; with 1 no live teacher is needed.
        """
        distill, labels, smoothing = self.recipe.distill, len(self.store.labels), self.recipe.train.label_smoothing
        runs = () if distill.teaching in LIVE and float_weight == 1 else self.runs
        objective = Objective(distill, labels, smoothing, len(runs), float_weight)
        live = live_teachers(self.recipe, self.store, self.partition, runs, objective)
        if objective.student_taps:
            shape = input_shape(self.recipe, self.store, self.fe)
            shapes = tap_shapes(model, shape, live, objective, shared_samples(self.recipe, self.store))
            objective = Objective(distill, labels, smoothing, len(runs), float_weight, shapes)
        return objective, live, self._labels()

    def _labels(self) -> LabelTable:
        """Labels, and the soft labels of teachers that are not live."""
        label = torch.from_numpy(self.store.label_index)
        distill = self.recipe.distill
        if not self.runs or distill.teaching in LIVE:
            return LabelTable(label, None)
        views = distill.views if distill.teaching == "views" else 0
        soft = [
            soft_labels(run, self.store, views, self.partition.train, RandomStream.TEACHER + number)[1]
            for number, run in enumerate(self.runs)
        ]
        samples = tuple(
            None if run.recipe.view.span == "crop" else window_samples(run.recipe.view, self.store) for run in self.runs
        )
        return LabelTable(label, torch.from_numpy(stack_soft_labels(soft)), samples)

    def _trainer(self, epochs: int, end: EpochEnd) -> pl.Trainer:
        return pl.Trainer(
            default_root_dir=self.out,
            max_epochs=epochs,
            plugins=[Checkpoints()],
            callbacks=[end] if processes.rank() else [end, Progress(end)],
            logger=TensorBoardLogger(self.out, name="", version=TENSORBOARD_FOLDER),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            reload_dataloaders_every_n_epochs=1,
            **processes.trainer_settings(self.options.accelerator),
        )

    def _view(self, batch_size: int, stream: int, repeat: int = 0) -> TrainingView:
        mels, frames = mel_frames(self.recipe, self.store, self.fe)
        return TrainingView(
            self.store, self.partition.train, self.recipe, batch_size, mels, frames, stream, processes.shard(), repeat
        )

    def _test(self, model: nn.Module, prefix: str) -> dict[str, float]:
        model = channels_last(model.cpu())
        predictions = predict_clips(model, self.front.cpu(), self.store, self.partition.test, self.recipe.view)
        atomic_write(self.out / TEST_FILES[prefix], predictions.to_npz())
        return run_metrics(predictions, self.store.label_index, prefix)

    def _checkpoint_phase(self) -> str | None:
        """The phase of last.ckpt, None without that file."""
        path = self.out / CHECKPOINT_FILE
        return processes.first(lambda: str(load_saved(path)["phase"]) if path.is_file() else None)
