"""`edgekd adapt`: a model for each recorder (DCASE 2025), fine-tuned from one student, and an index of the files.

DIR/runs/RECORDER are ordinary runs, DIR/models/RECORDER and DIR/models/general hold exported files, and
DIR/models/index.json is their index. Accuracies are of the int8-aware networks on the student's own test clips. A
recorder's model is in the index whether or not it is better on these clips: a choice by the test clips would make its
accuracy look better than it is. The same command continues an interrupted one.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.complexity.check import CheckOptions, check, require_ok
from edgekd.data.store.store import ClipStore
from edgekd.errors import GateError, InputError, nearest
from edgekd.experiments import tables
from edgekd.experiments.folder import experiment_folder
from edgekd.experiments.predictions import TestSide
from edgekd.experiments.runs import interrupted
from edgekd.export.export import EMITTERS, export_run
from edgekd.export.graph_manifest import Precision
from edgekd.files import atomic_write
from edgekd.metrics.intervals import FIGURES, Interval, intervals, measured, resampled, tally
from edgekd.metrics.scores import Floats
from edgekd.text import counted, json_bytes, listing, markdown_table
from edgekd.train.loop.training import Options
from edgekd.train.prepare.inputs import partition_clips
from edgekd.train.recipe.recipe import Recipe, decode, without_teachers
from edgekd.train.run.folder import Run, load_run
from edgekd.train.stages.stages import train_or_resume

INDEX_FORMAT, INDEX_VERSION = "edgekd-recorders", 1
INDEX_FILE, RUNS_FOLDER, MODELS_FOLDER, GENERAL = "index.json", "runs", "models", "general"
PRECISION: Precision = "int8"
TITLES = ["recorder", "training clips", "test clips", "general", "adapted", "difference"]


@dataclass(frozen=True)
class Tuning:
    """How to fine-tune.

    Attributes:
        epochs: of the float phase.
        qat_epochs: of the quantization-aware phase.
        lr: peak learning rate of the float phase.
        min_clips: recorders with fewer training clips keep the general model.
        target: every file is checked against its budgets.
    """

    epochs: int = 10
    qat_epochs: int = 5
    lr: float = 1e-4
    min_clips: int = 100
    target: str = "dcase2025"


@dataclass(frozen=True)
class RecorderResult:
    """The clip accuracies of one recorder, with intervals.

    Attributes:
        recorder: its name.
        train_clips: number of its training clips.
        test_clips: number of its test clips.
        general: accuracy of the general model; None without test clips.
        adapted: accuracy of its own model; None without test clips or without that model.
        difference: adapted minus general.
    """

    recorder: str
    train_clips: int
    test_clips: int
    general: Interval | None
    adapted: Interval | None
    difference: Interval | None


@dataclass(frozen=True)
class AdaptReport:
    """The result of `edgekd adapt`. index: contents of index.json. failed: one line for each file over a budget."""

    out: Path
    rows: tuple[RecorderResult, ...]
    index: dict[str, Any]
    failed: tuple[str, ...]

    def to_json(self) -> bytes:
        """summary.json."""
        return json_bytes({"out": str(self.out), "recorders": self.rows, "index": self.index, "failed": self.failed})

    def to_markdown(self) -> str:
        """results.md."""

        def of(each: Interval | None, *, difference: bool = False) -> str:
            return "-" if each is None else tables.interval(FIGURES[0], each, difference=difference)

        rows = [
            [
                row.recorder,
                f"{row.train_clips:,}",
                f"{row.test_clips:,}",
                of(row.general),
                of(row.adapted),
                of(row.difference, difference=True),
            ]
            for row in self.rows
        ]
        return (
            "\n\n".join(
                [
                    "# One model for each recorder",
                    (
                        "Clip accuracy of the int8-aware networks. In brackets the 95 % interval of a bootstrap over"
                        " test recordings; bold where the interval of a difference excludes zero. Recorders without a"
                        " model of their own are judged by the general one."
                    ),
                    markdown_table(TITLES, rows),
                ]
            )
            + "\n"
        )

    def require(self) -> None:
        """Raise where files are over a budget.

        Raises:
            GateError: one line for each such file.
        """
        if self.failed:
            raise GateError(*self.failed)


def adapt(
    run_path: Path,
    data: Path,
    out: Path,
    *,
    recorders: str | None = None,
    tuning: Tuning | None = None,
    teachers: Sequence[Path] = (),
    options: Options | None = None,
    log: Callable[[str], None],
) -> AdaptReport:
    """Fine-tune a student for each recorder, then export and check every file. The same call continues an interrupted
    one.

    Args:
        run_path: a finished student with a quantization-aware phase.
        data: the store that it was trained on.
        out: folder of runs, models and results.
        recorders: names with commas; None takes all that have enough training clips.
        tuning: how to fine-tune.
        teachers: finished runs whose soft labels are learned besides the labels.
        options: threads and accelerator.
        log: called with one line for each recorder.

    Raises:
        InputError: a run that cannot be adapted, another store, an unknown recorder, one without training clips.
        KeyboardInterrupt: the message says how to continue.
    """
    run, store, tuning = load_run(run_path), ClipStore.open(data), tuning or Tuning()
    _check_run(run, store)
    clips = _training_clips(run, store)
    chosen = _chosen(recorders, clips, store, tuning)
    identity = {
        "command": "adapt",
        "store": store.hash,
        "run": run.weights_hash,
        "--epochs": str(tuning.epochs),
        "--qat-epochs": str(tuning.qat_epochs),
        "--lr": str(tuning.lr),
        "--teacher": ",".join(load_run(path).weights_hash for path in teachers) or "none",
    }
    with experiment_folder(out, identity):
        made: dict[str, Run] = {}
        for number, recorder in enumerate(chosen, 1):
            log(f"recorder {number} of {len(chosen)}: {recorder}, {counted(clips[recorder], 'training clip')}")
            path = out / RUNS_FOLDER / folder_name(recorder)
            try:
                made[recorder] = train_or_resume(
                    recorder_recipe(run, recorder, tuning), store, path, teachers, options or Options()
                )
            except KeyboardInterrupt:
                raise interrupted(out) from None
        index, failed = _exported(run, made, out / MODELS_FOLDER, tuning.target)
        report = AdaptReport(out, tuple(_rows(run, made, store, clips)), index, tuple(failed))
        tables.write(out, tables.MARKDOWN_FILE, report.to_markdown())
        tables.write(out, tables.JSON_FILE, report.to_json())
    return report


def folder_name(recorder: str) -> str:
    """A folder's name for a recorder."""
    return re.sub(r"[^\w.-]+", "_", recorder)


def recorder_recipe(run: Run, recorder: str, tuning: Tuning) -> Recipe:
    """The recipe of a student's fine-tuning: its own recipe, starting from its weights, with its front end, on one
    recorder's clips.

    Raises:
        InputError: see `recipe.decode`.
    """
    own, replace = without_teachers(run.recipe), msgspec.structs.replace
    # the front end keeps its statistics: new ones, of a few clips, would not fit the weights
    recipe = replace(
        own,
        name=f"{own.name}-{folder_name(recorder)}",
        frontend=run.frontend,
        normalize=False,
        backend=None,
        data=replace(own.data, recorders=(recorder,)),
        init=replace(own.init, run=str(run.path.resolve())),
        train=replace(
            own.train,
            epochs=tuning.epochs,
            lr=tuning.lr,
            warmup_epochs=0,
            schedule="cosine",
            milestones=(),
            ema_decay=0.0,
            test_every=0,
        ),
        qat=replace(
            own.qat, epochs=tuning.qat_epochs, freeze_epochs=min(own.qat.freeze_epochs, tuning.qat_epochs // 2)
        ),
    )
    return decode(msgspec.to_builtins(recipe), f"{run.path} for recorder {recorder}")


def _check_run(run: Run, store: ClipStore) -> None:
    if not run.recipe.has_qat:
        raise InputError(
            f"{run.path}: has no quantization-aware phase, so that nothing can be exported; give a student's run of"
            " edgekd distill with qat.epochs above 0"
        )
    if run.info.data.hash != store.hash:
        raise InputError(
            f"{run.path}: was trained on another store ({run.info.data.name} {run.info.data.hash[:8]}, {store.path} is "
            f"{store.hash[:8]}); give --data of its training"
        )
    if run.recipe.data.recorders:
        raise InputError(
            f"{run.path}: is itself a model of recorder {listing(run.recipe.data.recorders)}; give the general student"
        )


def _training_clips(run: Run, store: ClipStore) -> dict[str, int]:
    """Recorder -> number of its training clips, for all recorders that the store names."""
    names = np.array([clip.recorder for clip in store.clips], dtype=object)
    trained_on = names[partition_clips(run.recipe, store).train]
    return {str(name): int((trained_on == name).sum()) for name in sorted({*names} - {""})}


def _chosen(recorders: str | None, clips: dict[str, int], store: ClipStore, tuning: Tuning) -> list[str]:
    """Recorders that get a model of their own. clips: number of training clips of each recorder."""
    if not clips:
        raise InputError(f"{store.path}: names no recorders; prepare it from a data set that does, e.g. tau22")
    if recorders is None:
        asked = list(clips)
    else:
        asked = list(dict.fromkeys(name.strip() for name in recorders.split(",")))
        for name in asked:
            if name not in clips:
                raise InputError(f"--recorders: {store.path} has no recorder '{name}'{nearest(name, clips)}")
            if not clips[name]:
                raise InputError(
                    f"--recorders: recorder '{name}' has no training clips in {store.path}; leave it out, it keeps the "
                    "general model"
                )
    chosen = [name for name in asked if clips[name] >= tuning.min_clips]
    if not chosen:
        raise InputError(
            f"no recorder has {counted(tuning.min_clips, 'training clip')} or more "
            f"({', '.join(f'{name} {count:,}' for name, count in clips.items())}); lower --min-clips"
        )
    folders = [folder_name(name) for name in (GENERAL, *chosen)]
    for folder in folders:
        if folders.count(folder) > 1:
            raise InputError(f"two recorders would have the folder '{folder}'; name one of them with --recorders")
    return chosen


def _exported(run: Run, made: dict[str, Run], folder: Path, target: str) -> tuple[dict[str, Any], list[str]]:
    """Write model files and their index. Returns the index, and one line for each file over a budget."""

    def files(each: Run, name: str) -> dict[str, str]:
        target_folder = folder / name
        wanted = {kind: target_folder / f"{each.recipe.name}.{PRECISION}.{kind}" for kind in EMITTERS}
        if not all(path.is_file() for path in wanted.values()):
            export_run(each.path, PRECISION, out=target_folder, force=True)
        return {kind: path.relative_to(folder).as_posix() for kind, path in wanted.items()}

    general = files(run, GENERAL)
    own = {recorder: files(each, folder_name(recorder)) for recorder, each in made.items()}
    failed = []
    for path in (folder / file for each in (general, *own.values()) for file in each.values()):
        try:
            require_ok(check([path], CheckOptions(target)))
        except GateError as error:
            failed.append(str(error))
    hashes = {
        file: hashlib.sha256((folder / file).read_bytes()).hexdigest()
        for each in (general, *own.values())
        for file in each.values()
    }
    index = {
        "format": INDEX_FORMAT,
        "version": INDEX_VERSION,
        "labels": run.labels,
        "target": target,
        "general": general,
        "recorders": own,
        "sha256": hashes,
    }
    atomic_write(folder / INDEX_FILE, json_bytes(index))
    return index, failed


def _rows(run: Run, made: dict[str, Run], store: ClipStore, clips: dict[str, int]) -> list[RecorderResult]:
    """The results of all recorders with training or test clips. clips: number of training clips of each recorder."""
    side = TestSide.of(store, partition_clips(run.recipe, store).test)
    recorder_of = np.array([store.clips[clip].recorder for clip in side.clips], dtype=object)
    rows = []
    for recorder, count in clips.items():
        tested = recorder_of == recorder
        figures: list[Interval | None] = [None, None, None]
        if tested.any():
            runs = [run, *([made[recorder]] if recorder in made else [])]
            # (networks, 1 seed, recordings, columns)
            fold = np.stack([_tally(side, each, tested) for each in runs])[:, None]
            values, draws = measured([fold])[0], resampled([fold])
            found = [intervals(values[network], draws[:, network])[FIGURES[0]] for network in range(len(runs))]
            if len(runs) > 1:
                found.append(intervals(values[1] - values[0], draws[:, 1] - draws[:, 0])[FIGURES[0]])
            figures[: len(found)] = found
        if count or tested.any():
            rows.append(RecorderResult(recorder, count, int(tested.sum()), *figures))
    return rows


def _tally(side: TestSide, run: Run, tested: NDArray[np.bool_]) -> Floats:
    """(recordings, columns) of a run's predictions for the chosen test clips; only recordings of these clips count."""
    probabilities, silent = side.probabilities(run.path, "qat")
    _, recording = np.unique(side.recording[tested], return_inverse=True)
    sounding = ~silent[tested]
    return tally(
        probabilities[tested][sounding], side.truth[tested][sounding], recording[sounding], int(recording.max()) + 1
    )
