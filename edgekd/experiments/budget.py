"""`edgekd reproduce --budget`: how long a table takes on the machine at hand, before any of its data is there.

Each network of the table takes a few steps on noise, in batches that grow to the recipe's own while the time lasts; the
data set's known number of clips and the recipes' epochs do the rest. It is an estimate: reading, augmentation and
support vector machines are not in it, runs at the same time slow each other down, and a batch that is smaller than the
recipe's makes the most of a CPU but not of a GPU.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import torch
from torch import Tensor, nn

from edgekd import quant
from edgekd.data.audio.decode import decode_all
from edgekd.data.sets import fixtures
from edgekd.data.sets.source import Source as AudioSource
from edgekd.data.store.store import Clip
from edgekd.evaluation.bench import machine
from edgekd.experiments.jobs import Workers
from edgekd.experiments.plan import Setting, seed_list
from edgekd.experiments.published_table import Reproduction, Source, load_reproduction
from edgekd.experiments.reproduce import chosen_settings
from edgekd.models import build, front, hears
from edgekd.models.transformer import AstConfig
from edgekd.text import counted
from edgekd.train.loop.checks import has_qat
from edgekd.train.loop.precision import autocast, training_device, with_precision
from edgekd.train.loop.quiet_warnings import quiet
from edgekd.train.recipe.recipe import Recipe, decided
from edgekd.train.recipe.schema import DEFAULT_WINDOW, Taught
from edgekd.train.run.folder import model_config, resolved
from edgekd.train.stages.stages import stage_recipe
from edgekd.train.teachers.live import LIVE

MEASURED_S = 90.0
"""Seconds of measurement in all, divided among the networks of a table."""
SMALLEST = 2
"""First batch that is timed."""
REPEATS = 3
"""Of the recipe's own batch, where there is time for it."""
DECODED = 32
"""Files of noise whose decoding is timed."""
BUSY = 0.5
"""Processes that want a core, for each core, above which a measurement is of a busy machine."""
SEEDS = "0,1,2"
SHARED = "teacher "
"""Begins the line of a teacher that all rows share."""
UNITS = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"))
CAVEAT = (
    "An estimate from a short measurement on noise: reading, augmentation and support vector machines are not in it,"
    " and runs at the same time slow each other down. Expect up to half as much again."
)


@dataclass(frozen=True)
class Pace:
    """Seconds a clip of one network. train, qat: a step of either phase, 0 without the phase. listen: a test, or a
    teacher that judges. batch: the largest that was tried."""

    train: float
    qat: float
    listen: float
    batch: int


@dataclass(frozen=True)
class Training:
    """A training of some run. clips: of an epoch. tested: clips of a test. live: teachers that listen in
    each step."""

    recipe: Recipe
    clips: float
    tested: float
    live: tuple[Recipe, ...] = ()
    judges: float = 0.0
    """Clips that it judges once trained, as a teacher."""


@dataclass(frozen=True)
class Line:
    """What takes its time. seconds: of one run. runs: how many of them."""

    what: str
    runs: int
    seconds: float
    trainings: int


@dataclass(frozen=True)
class Budget:
    """An estimate. lines: of runs; longest: seconds of the longest that wait for each other. at_once: runs at a time.
    busy: processes that wanted a core before the measurement, for each core; None where the system does not tell."""

    title: str
    machine: str
    device: str
    threads: int
    at_once: int
    measured_s: float
    busy: float | None
    counted: bool
    prepare_s: float
    longest: float
    batches: tuple[int, int]
    lines: tuple[Line, ...]

    @property
    def summed(self) -> float:
        """Seconds of all runs, one after the other."""
        return sum(line.runs * line.seconds for line in self.lines)

    @property
    def total(self) -> float:
        """Seconds from the first command to the table."""
        return self.prepare_s + max(self.summed / self.at_once, self.longest)

    def to_json(self) -> bytes:
        """One document."""
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
        return (
            msgspec.json.format(
                msgspec.json.encode(
                    {
                        "title": self.title,
                        "machine": self.machine,
                        "device": self.device,
                        "threads": self.threads,
                        "runs_at_a_time": self.at_once,
                        "measured_s": round(self.measured_s, 1),
                        "processes_per_core": self.busy,
                        "counts_are_known": self.counted,
                        "prepare_s": round(self.prepare_s, 1),
                        "lines": lines,
                        "runs_s": round(self.summed, 1),
                        "total_s": round(self.total, 1),
                        "note": CAVEAT,
                    }
                ),
                indent=2,
            )
            + b"\n"
        )

    def to_text(self) -> str:
        """A table for people."""
        width = max(len("prepare the data set"), *(len(line.what) for line in self.lines))
        rows = [
            f"{self.title}",
            (
                f"{self.machine}; {self.device}, {counted(self.threads, 'thread')} a run,"
                f" {counted(self.at_once, 'run')} at a time; measured for {self.measured_s:.0f} s on noise, in batches"
                f" of {' to '.join(map(str, dict.fromkeys(self.batches)))}"
            ),
            "",
            f"{'':{width}} {'runs':>5} {'a run':>14} {'together':>14}",
            f"{'prepare the data set':{width}} {'':5} {'':14} {_told(self.prepare_s):>14}",
        ]
        rows += [
            f"{line.what:{width}} {line.runs:5} {_told(line.seconds):>14} {_told(line.runs * line.seconds):>14}"
            for line in self.lines
        ]
        notes = [CAVEAT, *(["The number of clips is a guess."] if not self.counted else [])]
        if self.busy is not None and self.busy > BUSY:
            notes.append(
                f"This machine has other work now ({self.busy:.1f} processes for each core), which is in these times;"
                " without it they are shorter."
            )
        return "\n".join([*rows, f"{'about, to the table':{width}} {'':5} {'':14} {_told(self.total):>14}", "", *notes])


def estimate(name: str, seeds: str | None, workers: Workers, say: Callable[[str], None]) -> Budget:
    """Measure the networks of a table and add up what its runs take.

    Args:
        name: of a shipped table, or a path to one.
        seeds: with commas.
        workers: where runs would be trained.
        say: told of progress.

    Raises:
        InputError: see `reproduce.chosen_settings`.
    """
    began, busy = time.perf_counter(), _busy()
    table, chosen = load_reproduction(name), seed_list(seeds or SEEDS)
    settings = chosen_settings(table)
    device = "cpu" if workers.slots[0].gpu is None else training_device("auto")
    torch.set_num_threads(workers.threads)
    planned = _planned(table, settings, chosen)
    wanted = {
        _key(recipe): recipe
        for _, _, trainings in planned
        for each in trainings
        for recipe in (each.recipe, *each.live)
    }
    paces = {}
    for number, (key, recipe) in enumerate(wanted.items(), 1):
        say(f"measuring network {number} of {len(wanted)}: {recipe.name}")
        paces[key] = measure(recipe, table.data, device, MEASURED_S / len(wanted))
    lines = [
        Line(what, runs, sum(_seconds(each, paces) for each in trainings), len(trainings))
        for what, runs, trainings in planned
    ]
    shared = max((_seconds(_teacher(each, table.data, 1.0), paces) for each in _shared(settings)), default=0.0)
    longest = shared + max(line.seconds for line in lines)
    batches = sorted(each.batch for each in paces.values())
    return Budget(
        table.title,
        machine(),
        device,
        workers.threads,
        min(len(workers.slots), sum(line.runs for line in lines)),
        time.perf_counter() - began,
        busy,
        table.data.counted,
        _prepare_seconds(table.data),
        longest,
        (batches[0], batches[-1]),
        tuple(lines),
    )


def _shared(settings: dict[str, Setting]) -> list[Recipe]:
    """Teachers that runs of several rows share."""
    return list({decided(each): each for setting in settings.values() for each in setting.teachers}.values())


def _planned(
    table: Reproduction, settings: dict[str, Setting], seeds: Sequence[int]
) -> list[tuple[str, int, list[Training]]]:
    """(what, runs, trainings of a run), as `reproduce.planned` has them."""
    found: list[tuple[str, int, list[Training]]] = []
    data, folds = table.data, max(len(table.folds), 1)
    of_rows = {
        decided(msgspec.structs.replace(setting.recipe, seed=seed)) for setting in settings.values() for seed in seeds
    }
    # the others are runs of a row of their own
    teachers = [each for each in _shared(settings) if decided(each) not in of_rows]
    alike = [decided(msgspec.structs.replace(each, seed=0)) for each in teachers]
    for key, runs in Counter(alike).items():
        each = teachers[alike.index(key)]
        found.append((f"{SHARED}{each.name}", runs * folds, [_teacher(each, data, 1.0)]))
    for row in table.rows:
        if not row.trained or any(what == settings[row.key].label for what, _, _ in found):
            continue
        setting = settings[row.key]
        live: tuple[Recipe, ...] = setting.teachers
        if row.teachers_of:
            owner = settings[table.row(row.teachers_of).key].recipe
            live = tuple(stage_recipe(each, owner) for each in owner.teachers if each.teaches)
        recipe = setting.recipe
        own = [] if setting.teachers or row.teachers_of else list(_stages(recipe, data))
        heard = live or tuple(stage_recipe(each, recipe) for each in recipe.teachers if each.teaches)
        found.append((setting.label, len(seeds) * folds, [*own, _training(recipe, data, heard)]))
    return found


def _stages(recipe: Recipe, data: Source) -> Iterator[Training]:
    """What a recipe trains before itself: teachers, specialists, and systems beside it with theirs."""
    for each in recipe.teachers:
        yield _teacher(stage_recipe(each, recipe), data, 1.0)
    special = recipe.specialists
    if special is not None and special.pairs:
        yield _teacher(stage_recipe(recipe.teachers[0], recipe), data, 1 - 1 / special.held_out[1])
        specialist = stage_recipe(Taught(recipe=special.recipe, set=special.set), recipe)
        for _ in range(special.pairs):
            yield _teacher(specialist, data, 2 * 2 / data.labels)  # all clips of two labels, and as many others
    for each in recipe.backend.beside if recipe.backend else ():
        system = stage_recipe(each, recipe, "student")
        yield from _stages(system, data)
        yield _training(
            system, data, tuple(stage_recipe(taught, system) for taught in system.teachers if taught.teaches)
        )


def _teacher(recipe: Recipe, data: Source, share: float) -> Training:
    sounds = data.segments if recipe.view.span == "parent" else 1
    return Training(recipe, share * data.train / sounds, data.test / sounds, judges=data.clips / sounds)


def _training(recipe: Recipe, data: Source, teachers: Sequence[Recipe]) -> Training:
    sounds = data.segments if recipe.view.span == "parent" else 1
    live = tuple(teachers) if recipe.distill.teaching in LIVE else ()
    return Training(
        recipe, data.train / sounds, data.test / sounds, live, data.clips / sounds if recipe.role == "teacher" else 0.0
    )


def _seconds(each: Training, paces: dict[str, Pace]) -> float:
    recipe, pace = each.recipe, paces[_key(each.recipe)]
    heard = sum(paces[_key(teacher)].listen for teacher in each.live)
    epochs, every = recipe.train.epochs, recipe.train.test_every
    tests = epochs // every if every else 1
    seconds = epochs * each.clips * (pace.train + heard) + tests * each.tested * pace.listen + each.judges * pace.listen
    if has_qat(recipe):
        seconds += recipe.qat.epochs * each.clips * pace.qat + each.tested * pace.listen
    return seconds


def _key(recipe: Recipe) -> str:
    """What decides the pace of a network."""
    view = recipe.view
    return msgspec.json.encode(
        (
            resolved(recipe).model,
            recipe.frontend,
            view.span,
            view.seconds,
            view.joined,
            recipe.train.precision,
            has_qat(recipe),
        )
    ).decode()


def measure(recipe: Recipe, data: Source, device: str, limit_s: float) -> Pace:
    """Time the steps of a recipe's network on noise.

    Args:
        recipe: a student's or a teacher's.
        data: rate, channels, labels and lengths of what it would hear.
        device: type of torch's device.
        limit_s: about how long to measure.
    """
    place = torch.device(device)
    recipe = with_precision(recipe, device)
    config = model_config(recipe)
    if isinstance(config, AstConfig):
        config = msgspec.structs.replace(config, weights="")  # of the sizes that the recipe tells, nothing fetched
    network = build(config, data.labels).to(place, memory_format=torch.channels_last)
    ear = front(config, recipe.frontend, exact=False).to(place)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    phases = 3 if has_qat(recipe) else 2

    def heard(batch: int) -> Tensor:
        return ear(torch.randn(batch, *_sound(recipe, data), device=place) * 0.1)

    def step(batch: int) -> None:
        network.train()
        _stepped(network, optimizer, heard(batch), None, recipe.train.precision, data.labels)

    def listen(batch: int) -> None:
        network.eval()
        with torch.inference_mode():
            network(heard(batch))

    with quiet():
        train, batch = _timed(step, recipe.train.batch_size, place, limit_s / phases)
        listening, _ = _timed(listen, recipe.train.batch_size, place, limit_s / phases)
        qat = 0.0
        if has_qat(recipe):
            quantised = quant.to_qat(network.cpu().eval())
            quant.calibrate(quantised, [heard(SMALLEST).cpu()] if hears(config) == "log_mel" else [])
            network.to(place)
            quantised.to(place)
            second = torch.optim.AdamW(quantised.parameters(), lr=1e-4)
            qat, _ = _timed(
                lambda size: _stepped(quantised.train(), second, heard(size), network.eval(), "float32", data.labels),
                recipe.qat.batch_size,
                place,
                limit_s / phases,
            )
    return Pace(train, qat, listening, batch)


def _stepped(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    beside: nn.Module | None,
    precision: str,
    labels: int,
) -> None:
    """A step of training on random labels, after another network has listened."""
    if beside is not None:
        with torch.no_grad():
            beside(x)
    with autocast(precision, x.device):
        logits = network(x)
    loss = nn.functional.cross_entropy(logits.float(), torch.randint(labels, (len(x),), device=x.device))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _timed(work: Callable[[int], None], largest: int, device: torch.device, limit_s: float) -> tuple[float, int]:
    """Least seconds a clip in batches that grow while there is time, which passes over what disturbed some of them; the
    largest batch."""
    end, batch, repeats = time.perf_counter() + limit_s, min(SMALLEST, largest), 0
    work(batch)  # the first pays for memory and choices of kernels
    least = float("inf")
    while True:
        _finish(device)
        began = time.perf_counter()
        work(batch)
        _finish(device)
        seconds = time.perf_counter() - began
        least, repeats = min(least, seconds / batch), repeats + (batch == largest)
        if repeats == REPEATS or time.perf_counter() + 2 * 2 * seconds > end:
            return least, batch
        batch = min(2 * batch, largest)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _sound(recipe: Recipe, data: Source) -> tuple[int, ...]:
    """Shape of the waveform that a view hears: (samples,) or (channels, samples)."""
    view = recipe.view
    seconds = view.seconds or (
        DEFAULT_WINDOW if view.span == "crop" else data.seconds * (data.segments if view.span == "parent" else 1)
    )
    samples = round(seconds * recipe.frontend.sample_rate) * (view.joined if view.span == "pair" else 1)
    return (data.channels, samples) if view.channels == "all" else (samples,)


def _prepare_seconds(data: Source) -> float:
    """Seconds to decode and resample all clips, by a few files of noise that are read from memory's copy of the
    disk."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "noise.wav"
        fixtures.wav(path, data.file_rate, data.file_channels, data.seconds)
        sources = [AudioSource(path, Clip(str(number), "noise", "train")) for number in range(DECODED)]
        began = time.perf_counter()
        for _ in decode_all(sources, data.sample_rate, data.channels):
            pass
        return (time.perf_counter() - began) / DECODED * data.clips


def _busy() -> float | None:
    """Processes that want a core, for each core, over the last minute."""
    return round(os.getloadavg()[0] / (os.cpu_count() or 1), 2) if hasattr(os, "getloadavg") else None


def _told(seconds: float) -> str:
    """A time for people: "3.2 hours"."""
    for size, unit in UNITS:
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
