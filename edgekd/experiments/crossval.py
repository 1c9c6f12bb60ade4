"""`edgekd crossval`: how good a recipe is, and whether it is better than another, with every fold tested once and an
interval.

Every run is trained for all its epochs and judged by its last weights. Nothing is chosen on what is tested: with
`choose`, the choice between two recipes is made in each fold on a part of its training side, and only then is the fold
looked at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekd.data.sets.tau import UNUSED
from edgekd.data.store.store import ClipStore
from edgekd.errors import GateError, InputError
from edgekd.experiments import tables
from edgekd.experiments.jobs import Workers, run_jobs
from edgekd.experiments.plan import (
    INNER,
    JOBS_FOLDER,
    Fold,
    Plan,
    Planned,
    Setting,
    claimed,
    cross_folds,
    digest,
    failures,
    load,
    seed_list,
    with_teachers,
)
from edgekd.experiments.predictions import Estimate, Estimates, as_json, run_figures
from edgekd.metrics.intervals import FIGURES, UNITS
from edgekd.metrics.scores import Floats
from edgekd.text import counted, markdown_table
from edgekd.train.recipe.recipe import without_teachers

NO_TEACHERS = "none"
"""Of --against-teach: the other recipe learns from labels alone."""
CHOSEN = "chosen"
CHOICE_FIGURE = "clip_accuracy"
"""Of the inner runs, the mean over seeds."""


@dataclass(frozen=True)
class Question:
    """What to find out, as the command line says it. settings hold for both recipes, against_settings come on top for
    the other."""

    recipe: str
    settings: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    teacher_settings: tuple[str, ...] = ()
    against: str | None = None
    against_settings: tuple[str, ...] = ()
    against_teachers: tuple[str, ...] = ()
    folds: str | None = None
    seeds: str = "0,1,2"
    cross_fit: int | None = None
    choose: bool = False


@dataclass(frozen=True)
class CrossReport:
    """What came out.

    Attributes:
        summary: for JSON.
        markdown: tables.
    """

    summary: dict[str, Any]
    markdown: str

    def to_json(self) -> bytes:
        """One document."""
        return msgspec.json.format(msgspec.json.encode(self.summary), indent=2) + b"\n"


def crossval(question: Question, data: Path, out: Path, workers: Workers, say: Callable[[str], None]) -> CrossReport:
    """Train and test every fold, seed and recipe, or go on with that.

    Args:
        question: what to find out.
        data: a store.
        out: folder of runs and results.
        workers: where runs are trained.
        say: told of progress.

    Raises:
        InputError: anything wrong in the question, found before the first run.
        GateError: a run has failed; the others are done.
        KeyboardInterrupt: with how to go on.
    """
    settings = chosen_settings(question)
    store = ClipStore.open(data)
    folds, seeds = cross_folds(settings[0].recipe, store, question.folds), seed_list(question.seeds)
    plan = Plan(store, out, question.cross_fit)
    outer = {
        (setting.label, fold.name, seed): plan.add(setting, fold, seed)
        for fold in folds
        for setting in settings
        for seed in seeds
    }
    inner = {
        (setting.label, fold.name, seed): plan.add(setting, fold, seed, inner=True)
        for fold in folds
        for setting in settings
        for seed in seeds
        if question.choose
    }
    plan.check()
    identity = {
        "command": "crossval",
        "store": store.hash,
        "recipe": digest(settings[0]),
        "--cross-fit": str(question.cross_fit),
    }
    if len(settings) > 1:
        identity["--against"] = digest(settings[1])
    with claimed(out, identity):
        try:
            outcomes = run_jobs(plan.jobs(workers), out / JOBS_FOLDER, workers, say)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{out}: interrupted; go on with the same command") from None
        tables.write(out, tables.CSV_FILE, tables.run_table(plan, {each.label: each for each in settings}, outcomes))
        tables.write_times(plan, outcomes)
        failed = failures(outcomes)
        if failed:
            for stale in (tables.MARKDOWN_FILE, tables.JSON_FILE):
                (out / stale).unlink(missing_ok=True)
            raise GateError(
                "\n".join(
                    [
                        (
                            f"{out}: {counted(len(failed), 'run')} of {len(outcomes)} not done; the same command tries"
                            " again"
                        ),
                        *failed,
                    ]
                )
            )
        report = _Judge(plan, settings, folds, seeds, outer, inner).report()
        tables.write(out, tables.MARKDOWN_FILE, report.markdown)
        tables.write(out, tables.JSON_FILE, report.to_json())
    return report


def chosen_settings(question: Question) -> list[Setting]:
    """The recipe, and the other one where there is one.

    Raises:
        InputError: see `experiment.load`; a choice without alternative, or two that are the same.
    """
    first = load(
        question.recipe, question.settings, teacher_settings=() if question.teachers else question.teacher_settings
    )
    if question.teachers and first.role != "student":
        raise InputError(
            f"--teach {question.teachers[0]}: recipe {first.name} is a teacher's and learns from labels alone; leave"
            " it out"
        )
    if question.cross_fit is not None and question.cross_fit < 2:
        raise InputError(f"--cross-fit {question.cross_fit}: give at least 2 fits")
    if question.cross_fit is not None and not question.teachers:
        raise InputError(f"--cross-fit {question.cross_fit} is for teachers; name them with --teach")
    taught = with_teachers(first, question.teachers, question.teacher_settings)
    settings = [Setting(first.name, first, taught)]
    if question.against is None and not question.against_settings and not question.against_teachers:
        if question.choose:
            raise InputError("--choose chooses between two recipes; name the other with --against")
        return settings
    names = question.against_teachers or question.teachers
    other = load(
        question.against or question.recipe,
        (*question.settings, *question.against_settings),
        teacher_settings=() if names else question.teacher_settings,
    )
    if question.against_teachers and other.role != "student":
        raise InputError(
            f"--against-teach {question.against_teachers[0]}: recipe {other.name} is a teacher's and learns from labels"
            " alone; leave it out"
        )
    label = " ".join(
        [other.name, *question.against_settings, *(f"--teach {name}" for name in question.against_teachers)]
    )
    none = names == (NO_TEACHERS,)
    second = Setting(
        label if label != first.name else f"{label} (against)",
        without_teachers(other) if none else other,
        () if none else with_teachers(other, names, question.teacher_settings),
    )
    if digest(settings[0]) == digest(second):
        raise InputError(
            f"--against: recipe {other.name} with the same settings and teachers; there is nothing to compare"
        )
    return [*settings, second]


@dataclass(frozen=True)
class _Judge:
    """Finished runs. outer, inner: (setting, fold, seed) -> run; inner is empty where nothing is chosen."""

    plan: Plan
    settings: list[Setting]
    folds: list[Fold]
    seeds: list[int]
    outer: dict[tuple[str, str, int], Planned]
    inner: dict[tuple[str, str, int], Planned]

    def report(self) -> CrossReport:
        """Figures of every network, differences, and what choosing gives."""
        keys = [(setting.label, network) for setting in self.settings for network in setting.networks]
        common = [
            network for network in tables.NETWORKS if all(network in setting.networks for setting in self.settings)
        ]
        choice = self._choice(common[-1]) if self.inner else {}
        folds = [self._fold(fold, keys) for fold in self.folds]
        if choice:  # the chosen recipe's networks of each fold, as networks of a third recipe
            picked = [[keys.index((choice[fold.name][0], network)) for network in common] for fold in self.folds]
            folds = [np.concatenate([each, each[which]]) for each, which in zip(folds, picked, strict=True)]
            keys += [(CHOSEN, network) for network in common]
        estimates = Estimates.of(folds)
        found = {key: estimates.estimate(index) for index, key in enumerate(keys)}
        differences: dict[str, Estimate] = {}
        if len(self.settings) > 1:
            first, other = (setting.label for setting in self.settings)
            differences = {
                network: estimates.estimate(keys.index((first, network)), keys.index((other, network)))
                for network in common
            }
        return CrossReport(
            self._summary(keys, estimates, found, differences, choice),
            self._markdown(keys, estimates, found, differences, choice),
        )

    def _fold(self, fold: Fold, keys: Sequence[tuple[str, str]]) -> Floats:
        """(networks, seeds, units, recordings, columns)."""
        side = self.plan.tested(self.outer[self.settings[0].label, fold.name, self.seeds[0]])
        return np.stack(
            [
                np.stack(
                    [
                        side.tallies(self.plan.path(self.outer[label, fold.name, seed].name), network)
                        for seed in self.seeds
                    ]
                )
                for label, network in keys
            ]
        )

    def _choice(self, network: str) -> dict[str, tuple[str, dict[str, float]]]:
        """Fold -> the chosen label, and each label's mean accuracy on the inner test side; the first recipe wins a
        tie."""
        found = {}
        for fold in self.folds:
            means = {}
            for setting in self.settings:
                runs = [self.inner[setting.label, fold.name, seed] for seed in self.seeds]
                each = [run_figures(self.plan.tested(run).tallies(self.plan.path(run.name), network)) for run in runs]
                means[setting.label] = float(np.mean([values[CHOICE_FIGURE] for values in each]))
            found[fold.name] = max(means, key=lambda label: means[label]), means
        return found

    def _left_out(self) -> list[str]:
        """Official folds of the store that are neither trained nor tested on."""
        used = {split for fold in self.folds for split in (*fold.train, *fold.test)}
        used.add(UNUSED)
        return (
            [split for split in self.plan.store.splits if split not in used]
            if self.plan.store.info.official_folds
            else []
        )

    def _teachers(self) -> dict[str, dict[str, Any]]:
        """Run -> fold and accuracies of each teacher."""
        return {
            name: (
                {"recipe": run.recipe.name, "fold": run.fold}
                | {
                    metric: value
                    for metric, value in tables.run_info(self.plan, name)["metrics"].items()
                    if metric.endswith("clip_accuracy")
                }
            )
            for name, run in self.plan.teachers.items()
        }

    def _summary(
        self,
        keys: Sequence[tuple[str, str]],
        estimates: Estimates,
        found: dict[tuple[str, str], Estimate],
        differences: dict[str, Estimate],
        choice: dict[str, tuple[str, dict[str, float]]],
    ) -> dict[str, Any]:
        labels = [setting.label for setting in self.settings] + ([CHOSEN] if choice else [])

        def of(label: str) -> dict[str, Any]:
            def of_folds(index: int) -> dict[str, Any]:
                return {fold.name: estimates.of_fold(row, index) for row, fold in enumerate(self.folds)}

            return {
                network: {"mean": as_json(found[label, network]), "folds": of_folds(index)}
                for index, (name, network) in enumerate(keys)
                if name == label
            }

        return {
            "store": {"name": self.plan.store.name, "hash": self.plan.store.hash},
            "folds": [fold.name for fold in self.folds],
            "folds_left_out": self._left_out(),
            "seeds": self.seeds,
            "cross_fit": self.plan.cross_fit,
            "recipes": {
                setting.label: {
                    "name": setting.recipe.name,
                    "hash": digest(setting),
                    "teachers": [teacher.name for teacher in setting.teachers],
                }
                for setting in self.settings
            },
            "networks": {label: of(label) for label in labels},
            "differences": {network: as_json(each, difference=True) for network, each in differences.items()} or None,
            "choice": (
                {fold: {"chosen": label, "inner_clip_accuracy": means} for fold, (label, means) in choice.items()}
                or None
            ),
            "teachers": self._teachers(),
        }

    def _markdown(
        self,
        keys: Sequence[tuple[str, str]],
        estimates: Estimates,
        found: dict[tuple[str, str], Estimate],
        differences: dict[str, Estimate],
        choice: dict[str, tuple[str, dict[str, float]]],
    ) -> str:
        labels = " against ".join(setting.label for setting in self.settings)
        parts = [
            f"# {labels}",
            (
                f"{self.plan.store.name}: {len(self.folds)} folds ({', '.join(fold.name for fold in self.folds)}),"
                f" seeds {', '.join(map(str, self.seeds))}. {tables.INTERVAL_NOTE}"
            ),
        ]
        if out := self._left_out():
            parts.append(
                f"The official folds {', '.join(out)} take no part, so that these figures are not those of the data"
                " set's own cross-validation; name all of them with --folds for that."
            )
        for index, (label, network) in enumerate(keys):
            rows = [
                [fold.name, *tables.value_cells(estimates.of_fold(row, index))] for row, fold in enumerate(self.folds)
            ]
            rows.append(["mean", *tables.interval_cells(found[label, network])])
            parts += [f"## {label}, {tables.NAMES[network]}", markdown_table(["fold", *tables.TITLES], rows)]
        if differences:
            first, other = (setting.label for setting in self.settings)
            rows = [
                [tables.NAMES[network], *tables.interval_cells(each, difference=True)]
                for network, each in differences.items()
            ]
            parts += [
                f"## {first} minus {other}",
                "On the same recordings and seeds; bold where the interval excludes zero.",
                markdown_table(["network", *tables.TITLES], rows),
                _verdict(first, other, differences),
            ]
        if choice:
            rows = [
                [fold, *(tables.number("accuracy", value) for value in means.values()), label]
                for fold, (label, means) in choice.items()
            ]
            parts += [
                "## Choice in each fold",
                (
                    f"By clip accuracy on part {INNER[0]} of {INNER[1]} of the training recordings, the mean over"
                    f" seeds; the tables of '{CHOSEN}' above are what this choice gives on folds that had no say in it."
                ),
                markdown_table(["fold", *(setting.label for setting in self.settings), CHOSEN], rows),
            ]
        if self.plan.teachers:
            rows = [
                [
                    name,
                    *(
                        tables.number("accuracy", each[metric]) if metric in each else ""
                        for metric in ("float_clip_accuracy", "out_of_fold_clip_accuracy", "fits_clip_accuracy")
                    ),
                ]
                for name, each in self._teachers().items()
            ]
            parts += [
                "## Teachers",
                markdown_table(["run", "test clips", "training clips out of fold", "test clips, mean of fits"], rows),
            ]
        return "\n\n".join(parts) + "\n"


def _verdict(first: str, other: str, differences: dict[str, Estimate]) -> str:
    """A sentence on the clip accuracy of the network that is deployed."""
    each = list(differences.values())[-1][UNITS[0]][FIGURES[0]]
    if not each.excludes_zero:
        return f"Clip accuracy does not tell {first} from {other}: the interval of the difference holds zero."
    return (
        f"{first if each.mean > 0 else other} has the higher clip accuracy: the interval of the difference excludes"
        " zero."
    )
