"""`edgekd reproduce --budget`: how long a table takes on this machine, before any of its data is downloaded.

Each network of the table takes a few steps on noise. The known number of clips and the epochs of the recipes give the
total. It is an estimate: reading, augmentation and support vector machines are not in it, and runs at the same time
slow each other down.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import torch

from edgekd.evaluation.bench import machine
from edgekd.experiments.jobs import Workers
from edgekd.experiments.plan import Setting, seed_list
from edgekd.experiments.published_table import PublishedTable, TableData, load_table
from edgekd.experiments.reproduce import SEEDS, chosen_settings
from edgekd.experiments.speed import ClipTimes, decode_seconds, measure
from edgekd.text import columns, counted, json_bytes
from edgekd.train.loop.device import training_device
from edgekd.train.recipe.recipe import Recipe, identity_with_stages
from edgekd.train.recipe.schema import Stage
from edgekd.train.run.folder import resolved
from edgekd.train.stages.stages import stage_recipe
from edgekd.train.teachers.live import LIVE

MEASURED_S = 90.0
"""Seconds of measurement in all, divided among the networks of a table."""
BUSY_LOAD = 0.5
"""Load a core above which the machine counts as busy."""
TEACHER_PREFIX = "teacher "
"""Begins the line of a teacher that all rows share."""
UNITS = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"))
CAVEAT = (
    "An estimate from a short measurement on noise: reading, augmentation and support vector machines are not in it,"
    " and runs at the same time slow each other down. Expect up to half as much again."
)


@dataclass(frozen=True)
class TimedTraining:
    """A training of a run.

    Attributes:
        recipe: that is trained.
        clips: of an epoch.
        tested: clips of a test.
        live: teachers that predict in each step.
        labelled: clips whose soft labels it computes once trained, as a teacher.
    """

    recipe: Recipe
    clips: float
    tested: float
    live: tuple[Recipe, ...] = ()
    labelled: float = 0.0


@dataclass(frozen=True)
class BudgetLine:
    """Runs of one kind. runs: how many. seconds: of one run. trainings: in one run, with its stages."""

    what: str
    runs: int
    seconds: float
    trainings: int


@dataclass(frozen=True)
class TimeBudget:
    """An estimate.

    Attributes:
        title: of the table.
        machine, device: where it was measured.
        threads: of each run.
        at_once: runs at a time.
        measured_s: seconds of the measurement.
        load: processes that wanted a core before the measurement, for each core; None where the system does not count.
        counted: whether the number of clips is known.
        prepare_s: seconds to prepare the data set.
        longest: seconds of the longest chain of runs that wait for each other.
        batches: smallest and largest batch of the measurement.
        lines: of the runs.
    """

    title: str
    machine: str
    device: str
    threads: int
    at_once: int
    measured_s: float
    load: float | None
    counted: bool
    prepare_s: float
    longest: float
    batches: tuple[int, int]
    lines: tuple[BudgetLine, ...]

    @property
    def summed(self) -> float:
        """Seconds of all runs, one after the other."""
        return sum(line.runs * line.seconds for line in self.lines)

    @property
    def total(self) -> float:
        """Seconds from the first command to the table."""
        return self.prepare_s + max(self.summed / self.at_once, self.longest)

    def to_json(self) -> bytes:
        """The document of `reproduce --budget --json`."""
        lines = [
            {
                "what": line.what,
                "runs": line.runs,
                "trainings_per_run": line.trainings,
                "seconds_per_run": round(line.seconds, 1),
                "seconds": round(line.runs * line.seconds, 1),
            }
            for line in self.lines
        ]
        return json_bytes(
            {
                "title": self.title,
                "machine": self.machine,
                "device": self.device,
                "threads": self.threads,
                "runs_at_a_time": self.at_once,
                "measured_s": round(self.measured_s, 1),
                "processes_per_core": self.load,
                "counts_are_known": self.counted,
                "prepare_s": round(self.prepare_s, 1),
                "lines": lines,
                "runs_s": round(self.summed, 1),
                "total_s": round(self.total, 1),
                "note": CAVEAT,
            }
        )

    def to_text(self) -> str:
        """A table for a terminal."""
        head = (
            f"{self.machine}; {self.device}, {counted(self.threads, 'thread')} a run,"
            f" {counted(self.at_once, 'run')} at a time; measured for {self.measured_s:.0f} s on noise, in batches"
            f" of {' to '.join(map(str, dict.fromkeys(self.batches)))}"
        )
        rows = [
            ["prepare the data set", "", "", _duration(self.prepare_s)],
            *(
                [line.what, str(line.runs), _duration(line.seconds), _duration(line.runs * line.seconds)]
                for line in self.lines
            ),
            ["about, to the table", "", "", _duration(self.total)],
        ]
        notes = [CAVEAT, *(["The number of clips is a guess."] if not self.counted else [])]
        if self.load is not None and self.load > BUSY_LOAD:
            notes.append(
                f"This machine has other work now ({self.load:.1f} processes for each core), which makes these times"
                " longer."
            )
        return "\n".join([self.title, head, "", *columns(["", "runs", "a run", "together"], rows), "", *notes])


def estimate(name: str, seeds: str | None, workers: Workers, log: Callable[[str], None]) -> TimeBudget:
    """Measure the networks of a table, and add up the times of its runs.

    Args:
        name: of a shipped table, or a path to one.
        seeds: with commas; None is "0,1,2".
        workers: how many runs would be trained at a time, and where.
        log: called with one line for each network.

    Raises:
        InputError: see `reproduce.chosen_settings`.
    """
    start, load = time.perf_counter(), _load()
    table, chosen = load_table(name), seed_list(seeds or SEEDS)
    settings = chosen_settings(table)
    device = "cpu" if workers.slots[0].gpu is None else training_device("auto")
    torch.set_num_threads(workers.threads)
    planned = _planned(table, settings, chosen)
    networks = {
        _network_key(recipe): recipe
        for _, _, trainings in planned
        for each in trainings
        for recipe in (each.recipe, *each.live)
    }
    times = {}
    for number, (key, recipe) in enumerate(networks.items(), 1):
        log(f"measuring network {number} of {len(networks)}: {recipe.name}")
        times[key] = measure(recipe, table.data, device, MEASURED_S / len(networks))
    lines = [
        BudgetLine(what, runs, sum(_seconds(each, times) for each in trainings), len(trainings))
        for what, runs, trainings in planned
    ]
    teachers = [_seconds(_teacher(each, table.data, 1.0), times) for each in _shared_teachers(settings)]
    batches = sorted(each.batch for each in times.values())
    return TimeBudget(
        title=table.title,
        machine=machine(),
        device=device,
        threads=workers.threads,
        at_once=min(len(workers.slots), sum(line.runs for line in lines)),
        measured_s=time.perf_counter() - start,
        load=load,
        counted=table.data.counted,
        prepare_s=decode_seconds(table.data),
        longest=max(teachers, default=0.0) + max(line.seconds for line in lines),
        batches=(batches[0], batches[-1]),
        lines=tuple(lines),
    )


def _shared_teachers(settings: dict[str, Setting]) -> list[Recipe]:
    """Teachers that are runs of their own, each once."""
    return list(
        {identity_with_stages(each): each for setting in settings.values() for each in setting.teachers}.values()
    )


def _planned(
    table: PublishedTable, settings: dict[str, Setting], seeds: Sequence[int]
) -> list[tuple[str, int, list[TimedTraining]]]:
    """(what, number of runs, trainings of a run), for the runs of `reproduce.plan_runs`."""
    planned: list[tuple[str, int, list[TimedTraining]]] = []
    data, folds = table.data, max(len(table.folds), 1)
    of_rows = {
        identity_with_stages(msgspec.structs.replace(setting.recipe, seed=seed))
        for setting in settings.values()
        for seed in seeds
    }
    # a teacher that is also a run of a row is not trained twice
    teachers = [each for each in _shared_teachers(settings) if identity_with_stages(each) not in of_rows]
    seedless = [identity_with_stages(msgspec.structs.replace(each, seed=0)) for each in teachers]
    for key, runs in Counter(seedless).items():
        each = teachers[seedless.index(key)]
        planned.append((f"{TEACHER_PREFIX}{each.name}", runs * folds, [_teacher(each, data, 1.0)]))
    for row in table.rows:
        if not row.trained or any(what == settings[row.key].label for what, _, _ in planned):
            continue
        setting = settings[row.key]
        recipe = setting.recipe
        stages = [] if setting.teachers or row.teachers_of else list(_stages(recipe, data))
        teachers_of = settings[table.row(row.teachers_of).key].recipe if row.teachers_of else recipe
        live = setting.teachers or _teaching(teachers_of)
        planned.append((setting.label, len(seeds) * folds, [*stages, _training(recipe, data, live)]))
    return planned


def _teaching(recipe: Recipe) -> tuple[Recipe, ...]:
    """The recipes of a student's own teachers, without those that only prepare others."""
    return tuple(stage_recipe(each, recipe) for each in recipe.teachers if each.teaches)


def _stages(recipe: Recipe, data: TableData) -> Iterator[TimedTraining]:
    """What a recipe trains before itself: teachers, specialists, and systems beside it with their own stages."""
    for each in recipe.teachers:
        yield _teacher(stage_recipe(each, recipe), data, 1.0)
    special = recipe.specialists
    if special is not None and special.pairs:
        yield _teacher(stage_recipe(recipe.teachers[0], recipe), data, 1 - 1 / special.held_out[1])
        specialist = stage_recipe(Stage(recipe=special.recipe, set=special.set), recipe)
        for _ in range(special.pairs):
            yield _teacher(specialist, data, 2 * 2 / data.labels)  # all clips of two labels, and as many others
    for each in recipe.backend.systems if recipe.backend else ():
        system = stage_recipe(each, recipe, "student")
        yield from _stages(system, data)
        yield _training(system, data, _teaching(system))


def _teacher(recipe: Recipe, data: TableData, share: float) -> TimedTraining:
    """A teacher. share: of the training clips that it is trained on."""
    segments = data.segments if recipe.view.span == "parent" else 1
    return TimedTraining(recipe, share * data.train / segments, data.test / segments, labelled=data.clips / segments)


def _training(recipe: Recipe, data: TableData, teachers: Sequence[Recipe]) -> TimedTraining:
    """A row's own training. teachers: of a student."""
    segments = data.segments if recipe.view.span == "parent" else 1
    live = tuple(teachers) if recipe.distill.teaching in LIVE else ()
    labelled = data.clips / segments if recipe.role == "teacher" else 0.0
    return TimedTraining(recipe, data.train / segments, data.test / segments, live, labelled)


def _seconds(each: TimedTraining, times: dict[str, ClipTimes]) -> float:
    recipe, own = each.recipe, times[_network_key(each.recipe)]
    live = sum(times[_network_key(teacher)].predict for teacher in each.live)
    epochs, every = recipe.train.epochs, recipe.train.test_every
    tests = epochs // every if every else 1
    seconds = epochs * each.clips * (own.train + live) + tests * each.tested * own.predict + each.labelled * own.predict
    if recipe.has_qat:
        seconds += recipe.qat.epochs * each.clips * own.qat + each.tested * own.predict
    return seconds


def _network_key(recipe: Recipe) -> str:
    """Equal for recipes whose networks are equally fast."""
    view = recipe.view
    key = (
        resolved(recipe).model,
        recipe.frontend,
        view.span,
        view.seconds,
        view.joined,
        recipe.train.precision,
        recipe.has_qat,
    )
    return msgspec.json.encode(key).decode()


def _load() -> float | None:
    """Processes that wanted a core in the last minute, for each core; None where the system does not count."""
    return round(os.getloadavg()[0] / (os.cpu_count() or 1), 2) if hasattr(os, "getloadavg") else None


def _duration(seconds: float) -> str:
    """A time in words: "3.2 hours"."""
    for size, unit in UNITS:
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
