"""The loop: from a `Prepared` training to a run folder. The float phase comes first, then the quantization-aware one,
each under Lightning's trainer.

Read in this order: `recipe.recipe` (what is trained), `prepare.prepared` (what is built from it), this file, and
`run.folder` (what is left behind).
"""

import dataclasses
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
from edgekd.data.store.store import ClipStore
from edgekd.files import atomic_write
from edgekd.text import counted
from edgekd.train.batches.epochs import TrainingView
from edgekd.train.batches.random_streams import RandomStream
from edgekd.train.loop.callbacks import Checkpoints, EpochEnd, Progress
from edgekd.train.loop.device import (
    channels_last,
    check_accelerator,
    compile_in_place,
    set_threads,
    training_device,
    with_precision,
)
from edgekd.train.loop.module import TrainingModule
from edgekd.train.loop.validation import predict_clips, run_metrics
from edgekd.train.loss.objective import Objective
from edgekd.train.parallel import processes
from edgekd.train.prepare.prepared import LabelTable, Prepared, Teaching, label_table, prepare, prepare_objective
from edgekd.train.prepare.pretrained import load_initial_weights
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.recipe.schema import Qat, Train
from edgekd.train.run.claim import (
    check_run_folder,
    claim,
    locked_run_folder,
    log_to_file,
    quiet,
    report_disk_errors,
    report_out_of_memory,
    smaller_batch,
)
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
    resolved,
    save_weights,
    write_info,
)
from edgekd.train.teachers.live import LiveTeacher
from edgekd.train.teachers.soft_labels import clip_probabilities, teacher_scores

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
    training = _Training(prepare(recipe, store, teachers), out, options)
    info = _run_info(training.prepared)
    if processes.first(lambda: claim(out, info, recipe, force=options.force, resume=options.resume)) == "finished":
        log.info("%s is finished already; nothing to do", out)
        return load_run(out)
    with report_disk_errors(out), locked_run_folder(out), log_to_file(out / LOG_FILE):
        try:
            metrics = processes.first(training.log_teachers)
            metrics |= training.float_phase()
            if recipe.has_qat:
                metrics |= training.qat_phase()
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(f"{out}: {str(stop) or 'interrupted'}; go on with --resume") from None
        finished = msgspec.structs.replace(info, status="finished", metrics=metrics, seconds=round(training.seconds, 1))
        processes.first(lambda: write_info(out, finished))
    return load_run(out)


def _run_info(prepared: Prepared) -> RunInfo:
    """run.json of a training that begins."""
    recipe, store = prepared.recipe, prepared.store
    return RunInfo(
        status="training",
        name=recipe.name,
        recipe_hash=recipe.hash,
        labels=store.labels,
        frontend=prepared.frontend,
        window=prepared.view.samples,
        spectrum=prepared.spectrum,
        data=DataInfo(store.name, store.hash, store.licence, store.synthetic),
        teachers=tuple(key for key, _ in prepared.soft_labels),
        init=prepared.initial_run.weights_hash if prepared.initial_run else "",
        impulse_responses=prepared.view.ir_hash,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        edgekd_version=importlib.metadata.version("edgekd"),
    )


class _Training:
    """The phases of one training and what they share."""

    def __init__(self, prepared: Prepared, out: Path, options: Options) -> None:
        self.prepared, self.out, self.options = prepared, out, options
        self.recipe, self.store, self.partition = prepared.recipe, prepared.store, prepared.partition
        self.front = prepared.front
        self.labels: LabelTable | None = None
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0

    def log_teachers(self) -> dict[str, float]:
        """Log the clips, and the accuracy of each teacher and of their mean; the mean's accuracies become metrics."""
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
        if not self.prepared.teachers:
            if self.recipe.role == "student":
                log.info("no teacher: the student learns from labels alone (kd_weight 0, label_weight 1)")
            return {}
        probabilities = [clip_probabilities(logits) for _, logits in self.prepared.soft_labels]
        metrics: dict[str, float] = {}
        rows = [(f"teacher {run.path}", each) for run, each in zip(self.prepared.teachers, probabilities, strict=True)]
        if len(rows) > 1:
            rows.append((f"mean of {len(rows)} teachers", np.mean(probabilities, axis=0)))
        for name, each in rows:
            sides = (self.partition.train, self.partition.test)
            trained, tested = (teacher_scores(each, self.store, side).accuracy for side in sides)
            log.info("%s: %.1f %% of training clips, %.1f %% of test clips", name, 100 * trained, 100 * tested)
            metrics = {"teachers_train_clip_accuracy": trained, "teachers_test_clip_accuracy": tested}
        return metrics

    def float_phase(self) -> dict[str, float]:
        """Train the float network in place, or load it where it is trained already; returns its test metrics."""
        model, initial_run = self.prepared.network, self.prepared.initial_run
        if initial_run is not None:
            load_initial_weights(model, initial_run, self.store.labels)
        if self.recipe.init.adapt == "none":
            processes.first(lambda: save_weights(self.out / MODEL_FILE, model))
        elif self._checkpoint_phase() != "qat":
            channels_last(model.train())
            if self.options.compile:
                compile_in_place(model, torch.zeros(1, *self.prepared.size.shape))
            module = self._fit(
                model, self.recipe.train, self.prepared.view, self.prepared.objective, self.prepared.live
            )
            processes.first(lambda: save_weights(self.out / MODEL_FILE, module.final_model))
        self.prepared = dataclasses.replace(self.prepared, live=())  # frees the teachers' memory
        model.load_state_dict(processes.first(lambda: load_saved(self.out / MODEL_FILE)))
        return processes.first(lambda: self._test(model, "float"))

    def qat_phase(self) -> dict[str, float]:
        """Train the quantization-aware form of the trained float network; returns its test metrics."""
        model, phase, prepared = self.prepared.network.cpu().eval(), self.recipe.qat, self.prepared
        qat = quant.to_qat(model)
        size, repeat = prepared.size, prepared.view.repeat if phase.float_weight != 1 else 0
        view = TrainingView(
            self.store,
            self.partition.train,
            self.recipe,
            phase.batch_size,
            size.mels,
            size.frames,
            RandomStream.QAT,
            processes.shard(),
            repeat,
        )
        qat.load_state_dict(processes.first(lambda: self._calibrate(qat, view)))
        channels_last(qat.train())
        objective, live = prepare_objective(
            self.recipe, self.store, self.partition, prepared.teachers, qat, size, phase.float_weight
        )
        self._fit(qat, phase, view, objective, live, model)
        return processes.first(lambda: self._settle(qat))

    def _calibrate(self, qat: quant.QuantNetwork, view: TrainingView) -> dict[str, Any]:
        """Set the first scales of a quantization-aware network; returns its state."""
        phase = self.recipe.qat
        with report_out_of_memory("the calibration of the qat phase", smaller_batch("qat", phase.batch_size)):
            waveforms = view.unaugmented(phase.calibration_clips, RandomStream.CALIBRATION)
            quant.calibrate(qat, (self.front.cpu()(torch.from_numpy(waveform)) for waveform in waveforms))
        return dict(qat.state_dict())

    def _settle(self, model: quant.QuantNetwork) -> dict[str, float]:
        """Fix the scales of a trained quantization-aware network and save it; returns its test metrics."""
        quant.settle(model.cpu(), (self.prepared.size.mels, self.prepared.size.frames))
        save_weights(self.out / QAT_FILE, model)
        return self._test(model.cpu(), "qat")

    def _fit(
        self,
        model: nn.Module,
        phase: Train | Qat,
        view: TrainingView,
        objective: Objective,
        live: tuple[LiveTeacher, ...],
        float_model: nn.Module | None = None,
    ) -> TrainingModule:
        table = "train" if isinstance(phase, Train) else "qat"
        if self.labels is None:
            logits = [logits for _, logits in self.prepared.soft_labels]
            self.labels = label_table(self.recipe, self.store, self.partition, self.prepared.teachers, logits)
        teaching = Teaching(objective, live, self.labels)
        module = TrainingModule(model, self.front, view, teaching, self.recipe, phase, float_model)
        end = EpochEnd(self.out, self.store, self.partition.test, self.rows, self.seconds)
        name = module.phase_name
        resume = self._checkpoint_phase() == name
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

    def _test(self, model: nn.Module, prefix: str) -> dict[str, float]:
        model = channels_last(model.cpu())
        predictions = predict_clips(model, self.front.cpu(), self.store, self.partition.test, self.recipe.view)
        atomic_write(self.out / TEST_FILES[prefix], predictions.to_npz())
        return run_metrics(predictions, self.store.label_index, prefix)

    def _checkpoint_phase(self) -> str | None:
        """The phase of last.ckpt, None without that file."""
        path = self.out / CHECKPOINT_FILE
        return processes.first(lambda: str(load_saved(path)["phase"]) if path.is_file() else None)
