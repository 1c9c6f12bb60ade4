"""From a recipe, a store and teachers to a `Prepared` training: everything is checked and built once, before the first
epoch. The loop (`edgekd.train.loop.training`) takes it from there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.data.store.store import ClipStore, Partition
from edgekd.frontend import FrontEnd
from edgekd.models import front
from edgekd.models.base import AudioNetwork
from edgekd.models.logmel import LogMel
from edgekd.models.waveform import RawWaveform
from edgekd.train.batches.epochs import TrainingView
from edgekd.train.batches.random_streams import RandomStream
from edgekd.train.loss.objective import Objective
from edgekd.train.parallel import processes
from edgekd.train.prepare import pretrained
from edgekd.train.prepare.checks import build_network, check_same_input, check_unseen, open_teacher
from edgekd.train.prepare.inputs import NetworkInput, measure_front_end, partition_clips
from edgekd.train.prepare.teaching import prepare_objective
from edgekd.train.recipe.recipe import Recipe, check_sample_rate
from edgekd.train.run.folder import Run, model_config
from edgekd.train.teachers.live import LIVE, LiveTeacher
from edgekd.train.teachers.soft_labels import Logits, soft_labels


@dataclass(frozen=True)
class Prepared:
    """A training whose parts fit together.

    Attributes:
        recipe: resolved, with the precision of this machine.
        store: the clips.
        partition: its training clips and its test clips.
        size: of the network's input.
        frontend: with the mean and standard deviation of the training clips.
        spectrum: (mel,) mean natural log-mel of the training clips; empty for a network that takes waveforms.
        front: waveforms -> the network's input.
        network: with the weights of its architecture; those of `initial_run` are not loaded yet.
        teachers: the finished runs to distil from.
        soft_labels: of each teacher the key and the logits for all clips as they are.
        initial_run: the run whose weights the network begins with, None for its own.
        view: the training set of the float phase.
        objective, live: loss and live teachers of the float phase.
    """

    recipe: Recipe
    store: ClipStore
    partition: Partition
    size: NetworkInput
    frontend: FrontEnd
    spectrum: tuple[float, ...]
    front: LogMel | RawWaveform
    network: AudioNetwork
    teachers: tuple[Run, ...]
    soft_labels: tuple[tuple[str, Logits], ...]
    initial_run: Run | None
    view: TrainingView
    objective: Objective
    live: tuple[LiveTeacher, ...]


def prepare(recipe: Recipe, store: ClipStore, teachers: Sequence[Path] = ()) -> Prepared:
    """Check that recipe, store and teachers fit, and build what the training needs.

    Under torchrun or srun all processes call this. Nothing is written but the teachers' soft labels, into their own run
    folders.

    Args:
        recipe: resolved, with a precision that is not "auto".
        store: the clips.
        teachers: folders of finished runs to distil from; without any, labels alone train.

    Raises:
        InputError: anything that does not fit.
    """
    check_sample_rate(recipe, store)
    partition = partition_clips(recipe, store)
    config = model_config(recipe)
    network, size = build_network(recipe, store, partition, config)
    runs = tuple(open_teacher(path, recipe, store, partition) for path in teachers)
    initial_run = pretrained.initial_run(recipe, teachers)
    if initial_run is not None:
        check_unseen(initial_run, "init.run", recipe, store, partition)
    soft = tuple(soft_labels(run, store) for run in runs)
    view = TrainingView(
        store,
        partition.train,
        recipe,
        recipe.train.batch_size,
        size.mels,
        size.frames,
        RandomStream.FLOAT,
        processes.shard(),
        recipe.distill.repeat if runs and recipe.distill.teaching in LIVE else 0,
    )
    fe, spectrum = processes.first(lambda: measure_front_end(recipe, view)) if size.mels else (recipe.frontend, ())
    if recipe.distill.teaching == "same":
        check_same_input(recipe, store, runs, fe)
    objective, live = prepare_objective(recipe, store, partition, runs, network, size)
    return Prepared(
        recipe,
        store,
        partition,
        size,
        fe,
        spectrum,
        front(config, fe),
        network,
        runs,
        soft,
        initial_run,
        view,
        objective,
        live,
    )
