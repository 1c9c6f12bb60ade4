"""The end of each epoch: a test, a row of metrics.csv, a checkpoint, a line of progress."""

import io
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from edgekd.data.store.store import ClipStore
from edgekd.errors import InputError
from edgekd.files import atomic_write
from edgekd.text import csv_bytes
from edgekd.train.batches.crops import Index
from edgekd.train.loop.module import TrainingModule
from edgekd.train.loop.validation import predict_clips, run_metrics
from edgekd.train.parallel import processes
from edgekd.train.run.folder import CHECKPOINT_FILE, METRICS_FILE

log = logging.getLogger(__name__)

FIRST_COLUMNS = ("phase", "epoch", "lr", "loss")
LAST_COLUMNS = ("test_clip_accuracy", "test_window_accuracy", "test_clip_log_loss")
"""Of metrics.csv; between them come the terms of the loss, raw and weighted. A cell is empty where the phase lacks the
term, and in epochs without a test."""
BAR_HERTZ = 2
"""Redraws of the progress bar per second."""
LOG_SECONDS = 15.0
"""Least time between log lines of epochs without a test."""


class Checkpoints(TorchCheckpointIO):
    """Writes checkpoints atomically, so that a full disk leaves the last one as it was."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        del storage_options
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        atomic_write(Path(path), buffer.getvalue())


class EpochEnd(pl.Callback):
    """Tests, writes metrics.csv and saves a checkpoint. The checkpoint has all rows, so that the metrics.csv of a
    resumed run is complete.

    Of several processes each contributes its share of the losses. The first one tests and writes, and the others wait
    for its checkpoint.

    Args:
        folder: of the run.
        store, test: the store and its test clips.
        rows: of metrics.csv, of the phases before this one.
        seconds: of the phases before this one.
    """

    def __init__(self, folder: Path, store: ClipStore, test: Index, rows: list[dict[str, Any]], seconds: float) -> None:
        self.rows, self.seconds = rows, seconds
        self._folder, self._store, self._test = folder, store, test
        self._since = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.seconds = state_dict["rows"], state_dict["seconds"]

    def on_train_start(self, *_: Any) -> None:
        self._since = time.monotonic()

    def on_save_checkpoint(self, _: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        assert isinstance(pl_module, TrainingModule)
        checkpoint["phase"] = pl_module.phase_name

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = pl_module
        assert isinstance(module, TrainingModule)
        row: dict[str, Any] = {"phase": module.phase_name, "epoch": module.current_epoch + 1}
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        row |= {name: float(total) / module.view.steps for name, total in processes.averaged(module.sums).items()}
        if not math.isfinite(row["loss"]):
            raise InputError(
                f"the loss became {row['loss']} in epoch {row['epoch']} of the {row['phase']} phase (lr"
                f" {row['lr']:.3g}); lower the phase's lr and begin anew with --force"
            )
        last = row["epoch"] == trainer.max_epochs
        every = module.recipe.train.test_every
        if last or (every and row["epoch"] % every == 0):
            row |= processes.first(lambda: self._test_metrics(module))
        self.rows.append(row)
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        self._record(trainer, row)

    def _test_metrics(self, module: TrainingModule) -> dict[str, float]:
        predictions = predict_clips(module.final_model, module.front, self._store, self._test, module.recipe.view)
        return run_metrics(predictions, self._store.label_index, "test")

    def _record(self, trainer: pl.Trainer, row: dict[str, Any]) -> None:
        terms = dict.fromkeys(name for row in self.rows for name in row if name not in FIRST_COLUMNS + LAST_COLUMNS)
        header = (*FIRST_COLUMNS, *terms, *LAST_COLUMNS)
        if processes.rank() == 0:
            cells = [[row.get(name, "") for name in header] for row in self.rows]
            atomic_write(self._folder / METRICS_FILE, csv_bytes(header, cells))
        if trainer.logger is not None:
            trainer.logger.log_metrics(
                {name: value for name, value in row.items() if isinstance(value, float)}, step=len(self.rows)
            )
        trainer.save_checkpoint(self._folder / CHECKPOINT_FILE)


class Progress(pl.Callback):
    """A progress bar on a terminal, and a log line at least after each test.

    Args:
        end: the callback that runs before this one and makes the epoch's row.
    """

    def __init__(self, end: EpochEnd) -> None:
        self._end = end
        self._bar: Any = None
        self._task: Any = None
        self._last_line = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._bar = Bar(*columns, console=Console(stderr=True), transient=True, refresh_per_second=BAR_HERTZ)
        steps = pl_module.view.steps
        self._task = self._bar.add_task(
            f"{pl_module.phase_name} phase",
            total=(trainer.max_epochs or 0) * steps,
            completed=pl_module.current_epoch * steps,
            note="",
        )
        self._bar.start()

    def on_train_batch_end(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.advance(self._task)

    def on_train_epoch_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        row = self._end.rows[-1]
        line = f"{row['phase']} epoch {row['epoch']}/{trainer.max_epochs}: loss {row['loss']:.4f}"
        tested = "test_clip_accuracy" in row
        if tested:
            line += (
                f", test {100 * row['test_clip_accuracy']:.1f} % of clips, {100 * row['test_window_accuracy']:.1f} % of"
                " windows"
            )
        if self._bar is not None:
            self._bar.update(self._task, note=f"loss {row['loss']:.3f}")
        if tested or time.monotonic() - self._last_line > LOG_SECONDS:
            self._last_line = time.monotonic()
            log.info(line)

    def on_train_end(self, *_: Any) -> None:
        self._stop()

    def on_exception(self, *_: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
