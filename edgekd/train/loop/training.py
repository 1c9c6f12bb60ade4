"""A training from recipe to run folder: the float phase, then the quantization-aware one, each under Lightning's
trainer."""

import datetime
import importlib.metadata
import logging
import os
import platform
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
from edgekd.errors import InputError, nearest
from edgekd.files import atomic_write, held
from edgekd.frontend import FrontEnd
from edgekd.models import front, initial
from edgekd.text import counted
from edgekd.train.batches.epochs import TEACHER_STREAM, TrainingView
from edgekd.train.batches.windows import window_samples
from edgekd.train.loop import pretrained
from edgekd.train.loop.callbacks import Checkpoints, EpochEnd, Progress
from edgekd.train.loop.checks import (
    check_network,
    check_same,
    check_terms,
    check_unseen,
    divided,
    dry_run,
    has_qat,
    input_shape,
    live_teachers,
    measured,
    mel_frames,
    open_teacher,
    same_samples,
    stacked,
)
from edgekd.train.loop.module import TrainingModule, Truth
from edgekd.train.loop.precision import compile_in_place, training_device, with_precision
from edgekd.train.loop.quiet_warnings import quiet
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
    RUN_FILE,
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

FLOAT_STREAM, QAT_STREAM, _, CALIBRATION_STREAM = range(4)
"""Of the draws in `edgekd.train.batches.epochs`. The one between is `preparation.STATISTICS_STREAM`; teachers have
theirs from `TEACHER_STREAM`."""
ACCELERATORS = ("auto", "cpu", "gpu")
LOG_FORMAT = "%(asctime)s %(message)s"


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what to train. threads: of torch on the CPU in each process, None for its default, or
    for one of several processes as many as `OMP_NUM_THREADS` or SLURM give it. accelerator: one of `ACCELERATORS`.
    compile: let torch.compile generate the code of the float phase."""

    force: bool = False
    resume: bool = False
    threads: int | None = None
    accelerator: str = "auto"
    compile: bool = False


DEFAULT_OPTIONS = Options()


def train(
    recipe: Recipe, store: ClipStore, out: Path, teachers: Sequence[Path] = (), options: Options = DEFAULT_OPTIONS
) -> Run:
    """Train a student or a teacher, or go on with one.

    Under torchrun or srun all processes call this. They share each batch of the recipe, whose sizes are those of all
    together; the first one claims the run, writes it and tests.

    Args:
        recipe: what to train.
        store: the clips.
        out: the run folder, on a file system that all processes see.
        teachers: finished runs to distil from; none trains on labels alone.
        options: how.

    Returns:
        the finished run, also when it was finished before.

    Raises:
        InputError: anything that does not fit, found before the first epoch; or a loss that is no number, memory or a
            disk that is full, a process that is gone.
    """
    check_accelerator(options.accelerator)
    with processes.in_process_group(options.accelerator):
        _set_threads(options.threads)
        return _trained(
            with_precision(resolved(recipe), training_device(options.accelerator)), store, out, teachers, options
        )


def _trained(recipe: Recipe, store: ClipStore, out: Path, teachers: Sequence[Path], options: Options) -> Run:
    processes.first(lambda: check_run_folder(out, teachers, force=options.force, resume=options.resume))
    check_sample_rate(recipe, store)
    partition = divided(recipe, store)
    check_network(recipe, store, partition)
    runs = [open_teacher(path, recipe, store, partition) for path in teachers]
    begun = pretrained.source(recipe, teachers)
    if begun is not None:
        check_unseen(begun, "init.run", recipe, store, partition)
    labelled = [soft_labels(run, store) for run in runs]
    fe, spectrum = processes.first(lambda: measured(recipe, store, partition))
    if recipe.distill.teaching == "same":
        check_same(recipe, store, runs, fe)
    check_terms(recipe, store, partition, fe, runs)
    view = TrainingView(
        store,
        partition.train,
        recipe,
        recipe.train.batch_size,
        *mel_frames(recipe, store, fe),
        stream=FLOAT_STREAM,
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
        init=begun.weights_hash if begun else "",
        impulse_responses=view.ir_hash,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        edgekd_version=importlib.metadata.version("edgekd"),
    )
    if processes.first(lambda: claim(out, info, recipe, force=options.force, resume=options.resume)) == "finished":
        log.info("%s is finished already; nothing to do", out)
        return load_run(out)
    with report_disk_errors(out), owned(out), _logged(out / LOG_FILE):
        job = _Job(recipe, store, partition, fe, out, options, runs)
        try:
            metrics = processes.first(lambda: job.say_teachers([each for _, each in labelled]))
            torch.manual_seed(recipe.seed)
            model = initial(model_config(recipe), len(store.labels))
            if begun is not None:
                pretrained.begin(model, begun, store.labels)
            metrics |= job.float_phase(model)
            if has_qat(recipe):
                metrics |= job.qat_phase(model)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(f"{out}: {str(stop) or 'interrupted'}; go on with --resume") from None
        finished = msgspec.structs.replace(info, status="finished", metrics=metrics, seconds=round(job.seconds, 1))
        processes.first(lambda: write_info(out, finished))
    return load_run(out)


@contextmanager
def owned(out: Path, made: str = RUN_FILE) -> Iterator[None]:
    """Hold a run folder for all processes of this job; the others make sure that they see `made`, a file that the first
    has written there.

    Raises:
        InputError: another job holds it, or it is on a file system of one machine alone.
    """
    with ExitStack() as stack:
        if processes.rank() == 0:
            try:
                stack.enter_context(held(out))
            except BlockingIOError:
                raise InputError(
                    f"{out} is being trained by another process; wait for it or choose another --out"
                ) from None
        processes.barrier()
        if not (out / made).is_file():
            raise InputError(
                f"{out}: machine {platform.node()} does not see the run folder that the first process has made; "
                "put --out and --data where all machines see them"
            )
        yield


class _Job:
    """One training: what its phases share."""

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

    def say_teachers(self, labelled: Sequence[Logits]) -> dict[str, float]:
        """Log what is trained on, and how good each teacher and their mean are; the mean's accuracies become metrics.

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
        """Train the float network in place, or load it where that is done; its test metrics."""
        if self.recipe.init.adapt == "none":
            processes.first(lambda: save_weights(self.out / MODEL_FILE, model))
        elif self._phase_reached() != "qat":
            module = self._fit(model, self.recipe.train, FLOAT_STREAM)
            processes.first(lambda: save_weights(self.out / MODEL_FILE, module.tested))
        model.load_state_dict(processes.first(lambda: load_saved(self.out / MODEL_FILE)))
        return processes.first(lambda: self._tested(model, "float"))

    def qat_phase(self, model: nn.Module) -> dict[str, float]:
        """Train the quantization-aware form of a trained float network; its test metrics."""
        model = model.cpu().eval()
        qat = quant.to_qat(model)
        qat.load_state_dict(processes.first(lambda: self._calibrated(qat)))
        module = self._fit(qat, self.recipe.qat, QAT_STREAM, model)
        return processes.first(lambda: self._settled(module.tested))

    def _calibrated(self, qat: quant.QuantNetwork) -> dict[str, Any]:
        """Set the scales of a quantization-aware network; its state."""
        view = self._view(self.recipe.qat.batch_size, CALIBRATION_STREAM)
        with report_out_of_memory("the calibration of the qat phase", smaller_batch("qat", self.recipe.qat.batch_size)):
            quant.calibrate(
                qat,
                (self.front.cpu()(torch.from_numpy(heard)) for heard in view.plain(self.recipe.qat.calibration_clips)),
            )
        return dict(qat.state_dict())

    def _settled(self, model: nn.Module) -> dict[str, float]:
        """Settle and keep a trained quantization-aware network; its test metrics."""
        quant.settle(model.cpu(), mel_frames(self.recipe, self.store, self.fe))
        save_weights(self.out / QAT_FILE, model)
        return self._tested(model.cpu(), "qat")

    def _fit(
        self, model: nn.Module, phase: Train | Qat, stream: int, float_model: nn.Module | None = None
    ) -> TrainingModule:
        name = "float" if isinstance(phase, Train) else "qat"
        model.train().to(memory_format=torch.channels_last)
        if self.options.compile and isinstance(phase, Train):
            compile_in_place(model, torch.zeros(1, *input_shape(self.recipe, self.store, self.fe)))
        share = None if isinstance(phase, Train) else phase.float_weight
        objective, live, truth = self._taught(model, share)
        view = self._view(phase.batch_size, stream, self.recipe.distill.repeat if live else 0)
        module = TrainingModule(model, self.front, view, truth, objective, self.recipe, phase, float_model, live)
        end = EpochEnd(self.out, self.store, self.partition.test, self.rows, self.seconds)
        resume = self._phase_reached() == name
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
            except SystemExit:  # Lightning's answer to an interrupt, for which it has turned further ones off
                signal.signal(signal.SIGINT, handler)
                raise KeyboardInterrupt(
                    f"interrupted in epoch {module.current_epoch + 1} of the {module.phase_name} phase"
                ) from None
        self.rows, self.seconds = end.rows, end.seconds
        return module

    def _taught(self, model: nn.Module, float_weight: float | None) -> tuple[Objective, tuple[LiveTeacher, ...], Truth]:
        """The loss of a phase, the teachers that listen in each of its steps, and what the others have said.

        Args:
            model: the student.
            float_weight: of the quantization-aware phase; 1 needs no teacher that listens.
        """
        distill, labels, smoothing = self.recipe.distill, len(self.store.labels), self.recipe.train.label_smoothing
        runs = () if distill.teaching in LIVE and float_weight == 1 else self.runs
        wanted = Objective(distill, labels, smoothing, len(runs), float_weight)
        live = live_teachers(self.recipe, self.store, self.partition, runs, wanted)
        if not wanted.student_taps:
            return wanted, live, self._truth()
        shapes = dry_run(
            model, input_shape(self.recipe, self.store, self.fe), live, wanted, same_samples(self.recipe, self.store)
        )
        return Objective(distill, labels, smoothing, len(runs), float_weight, shapes), live, self._truth()

    def _truth(self) -> Truth:
        """Labels, and the soft labels of teachers that do not listen live."""
        label = torch.from_numpy(self.store.label_index)
        distill = self.recipe.distill
        if not self.runs or distill.teaching in LIVE:
            return Truth(label, None)
        views = distill.views if distill.teaching == "views" else 0
        said = [
            soft_labels(run, self.store, views, self.partition.train, TEACHER_STREAM + number)[1]
            for number, run in enumerate(self.runs)
        ]
        heard = tuple(
            None if run.recipe.view.span == "crop" else window_samples(run.recipe.view, self.store) for run in self.runs
        )
        return Truth(label, torch.from_numpy(stacked(said)), heard)

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

    def _tested(self, model: nn.Module, prefix: str) -> dict[str, float]:
        model = model.cpu().to(memory_format=torch.channels_last)
        predictions = predict_clips(model, self.front.cpu(), self.store, self.partition.test, self.recipe.view)
        atomic_write(self.out / TEST_FILES[prefix], predictions.to_npz())
        return run_metrics(predictions, self.store.label_index, prefix)

    def _phase_reached(self) -> str | None:
        """The phase that last.ckpt is of, None without one."""
        path = self.out / CHECKPOINT_FILE
        return processes.first(lambda: str(load_saved(path)["phase"]) if path.is_file() else None)


def check_accelerator(name: str) -> None:
    """Refuse what --accelerator does not know, and a GPU where there is none.

    Raises:
        InputError: as said.
    """
    if name not in ACCELERATORS:
        raise InputError(f"accelerator '{name}' is unknown{nearest(name, ACCELERATORS)}")
    if name == "gpu" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise InputError("accelerator 'gpu': torch sees none on this machine; use --accelerator cpu")


def _set_threads(threads: int | None) -> None:
    """As asked; by default one of several processes takes what its launcher gives it, and not all cores of its
    machine."""
    if threads is None and processes.world() > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = int(os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    if threads is not None:
        torch.set_num_threads(threads)


class _LogFile(logging.FileHandler):
    """A full disk is told by what has to be kept, and not by the log."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        del record


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What edgekd logs also goes to a file, from the first process."""
    if processes.rank():
        yield
        return
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    logger = logging.getLogger("edgekd")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
