"""Figures, differences and tables of a finished cross-validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.data.sets.tau import UNUSED
from edgekd.experiments import tables
from edgekd.experiments.plan import INNER_PART, Fold, Plan, PlannedRun, Setting, setting_hash
from edgekd.experiments.predictions import Estimates, as_json, run_figures
from edgekd.experiments.tables import IntervalTable
from edgekd.metrics.intervals import FIGURES, UNITS
from edgekd.metrics.scores import Floats
from edgekd.text import json_bytes, markdown_table

CHOSEN = "chosen"
"""Label of the recipe that is chosen in each fold."""
CHOICE_FIGURE = "clip_accuracy"
"""Of the inner runs, the mean over seeds, by which a recipe is chosen."""
TEACHER_FIGURES = ("float_clip_accuracy", "out_of_fold_clip_accuracy", "fits_clip_accuracy")


@dataclass(frozen=True)
class CrossvalReport:
    """The result of a cross-validation. summary: for JSON. markdown: tables."""

    summary: dict[str, Any]
    markdown: str

    def to_json(self) -> bytes:
        """summary.json."""
        return json_bytes(self.summary)


@dataclass(frozen=True)
class Choice:
    """The choice in one fold. label: of the chosen setting. means: label -> mean clip accuracy of its inner runs."""

    label: str
    means: dict[str, float]


@dataclass(frozen=True)
class FinishedRuns:
    """The runs of a cross-validation, all done.

    Attributes:
        plan: of all runs.
        settings: one or two.
        folds: tested once each.
        seeds: of each fold.
        outer: (label of the setting, fold, seed) -> run.
        inner: the same for runs on parts of the training sides; empty where nothing is chosen.
    """

    plan: Plan
    settings: list[Setting]
    folds: list[Fold]
    seeds: list[int]
    outer: dict[tuple[str, str, int], PlannedRun]
    inner: dict[tuple[str, str, int], PlannedRun]

    def report(self) -> CrossvalReport:
        """Figures of every network, differences of the two settings, and the figures of choosing between them."""
        keys = [(setting.label, network) for setting in self.settings for network in setting.networks]
        common = [
            network for network in tables.NETWORKS if all(network in setting.networks for setting in self.settings)
        ]
        choices = {fold.name: self._choice(fold, common[-1]) for fold in self.folds} if self.inner else {}
        tallies = [self._tallies(fold, keys) for fold in self.folds]
        if choices:  # the chosen setting's networks of each fold count as the networks of a third setting
            chosen = [[keys.index((choices[fold.name].label, network)) for network in common] for fold in self.folds]
            tallies = [np.concatenate([each, each[rows]]) for each, rows in zip(tallies, chosen, strict=True)]
            keys += [(CHOSEN, network) for network in common]
        estimates = Estimates.of(tallies)
        differences: dict[str, IntervalTable] = {}
        if len(self.settings) > 1:
            first, other = (setting.label for setting in self.settings)
            differences = {
                network: estimates.estimate(keys.index((first, network)), keys.index((other, network)))
                for network in common
            }
        figures = _FoldFigures(self, keys, estimates, differences, choices)
        return CrossvalReport(figures.summary(), figures.markdown())

    def _tallies(self, fold: Fold, keys: Sequence[tuple[str, str]]) -> Floats:
        """(networks, seeds, units, recordings, columns) of one fold. keys: (label, network)."""
        side = self.plan.test_side(self.outer[self.settings[0].label, fold.name, self.seeds[0]])

        def tallies(label: str, network: str, seed: int) -> Floats:
            return side.tallies(self.plan.path(self.outer[label, fold.name, seed].name), network)

        return np.stack([np.stack([tallies(*key, seed) for seed in self.seeds]) for key in keys])

    def _choice(self, fold: Fold, network: str) -> Choice:
        """The setting with the higher mean accuracy of its inner runs; the first one where they are equal."""
        means = {}
        for setting in self.settings:
            runs = [self.inner[setting.label, fold.name, seed] for seed in self.seeds]
            figures = [run_figures(self.plan.test_side(run).tallies(self.plan.path(run.name), network)) for run in runs]
            means[setting.label] = float(np.mean([values[CHOICE_FIGURE] for values in figures]))
        return Choice(max(means, key=lambda label: means[label]), means)

    def left_out(self) -> list[str]:
        """Official folds of the store that are neither trained nor tested on."""
        if not self.plan.store.info.official_folds:
            return []
        used = {split for fold in self.folds for split in (*fold.train, *fold.test)} | {UNUSED}
        return [split for split in self.plan.store.splits if split not in used]

    def teachers(self) -> dict[str, dict[str, Any]]:
        """Name of a teacher's run -> recipe, fold and clip accuracies."""
        found = {}
        for name, run in self.plan.teachers.items():
            metrics = tables.run_info(self.plan, name)["metrics"]
            accuracies = {metric: value for metric, value in metrics.items() if metric.endswith("clip_accuracy")}
            found[name] = {"recipe": run.recipe.name, "fold": run.fold} | accuracies
        return found


@dataclass(frozen=True)
class _FoldFigures:
    """The figures of finished runs.

    Attributes:
        runs: that they are of.
        keys: (label, network) of each network, in the order of `estimates`.
        estimates: of all networks.
        differences: network -> the first setting minus the other one.
        choices: fold -> choice.
    """

    runs: FinishedRuns
    keys: list[tuple[str, str]]
    estimates: Estimates
    differences: dict[str, IntervalTable]
    choices: dict[str, Choice]

    def summary(self) -> dict[str, Any]:
        """summary.json."""
        plan, settings, folds = self.runs.plan, self.runs.settings, self.runs.folds
        networks: dict[str, dict[str, Any]] = {}
        for index, (label, network) in enumerate(self.keys):
            networks.setdefault(label, {})[network] = {
                "mean": as_json(self.estimates.estimate(index)),
                "folds": {fold.name: self.estimates.of_fold(row, index) for row, fold in enumerate(folds)},
            }
        return {
            "store": {"name": plan.store.name, "hash": plan.store.hash},
            "folds": [fold.name for fold in folds],
            "folds_left_out": self.runs.left_out(),
            "seeds": self.runs.seeds,
            "cross_fit": plan.cross_fit,
            "recipes": {
                setting.label: {
                    "name": setting.recipe.name,
                    "hash": setting_hash(setting),
                    "teachers": [teacher.name for teacher in setting.teachers],
                }
                for setting in settings
            },
            "networks": networks,
            "differences": {network: as_json(each, difference=True) for network, each in self.differences.items()}
            or None,
            "choice": {
                fold: {"chosen": choice.label, "inner_clip_accuracy": choice.means}
                for fold, choice in self.choices.items()
            }
            or None,
            "teachers": self.runs.teachers(),
        }

    def markdown(self) -> str:
        """results.md."""
        plan, settings, folds = self.runs.plan, self.runs.settings, self.runs.folds
        names = ", ".join(fold.name for fold in folds)
        seeds = ", ".join(map(str, self.runs.seeds))
        parts = [
            f"# {' against '.join(setting.label for setting in settings)}",
            f"{plan.store.name}: {len(folds)} folds ({names}), seeds {seeds}. {tables.INTERVAL_NOTE}",
        ]
        if left_out := self.runs.left_out():
            parts.append(
                f"The official folds {', '.join(left_out)} take no part, so that these figures are not those of the"
                " data set's own cross-validation; name all of them with --folds for that."
            )
        for index, (label, network) in enumerate(self.keys):
            rows = [
                [fold.name, *tables.value_cells(self.estimates.of_fold(row, index))] for row, fold in enumerate(folds)
            ]
            rows.append(["mean", *tables.interval_cells(self.estimates.estimate(index))])
            title = f"## {label}, {tables.NETWORK_TITLES[network]}"
            parts += [title, markdown_table(["fold", *tables.TITLES], rows)]
        if self.differences:
            parts += self._difference_parts()
        if self.choices:
            parts += self._choice_parts()
        if plan.teachers:
            parts += self._teacher_parts()
        return "\n\n".join(parts) + "\n"

    def _difference_parts(self) -> list[str]:
        first, other = (setting.label for setting in self.runs.settings)
        rows = [
            [tables.NETWORK_TITLES[network], *tables.interval_cells(each, difference=True)]
            for network, each in self.differences.items()
        ]
        return [
            f"## {first} minus {other}",
            "On the same recordings and seeds; bold where the interval excludes zero.",
            markdown_table(["network", *tables.TITLES], rows),
            _conclusion(first, other, self.differences),
        ]

    def _choice_parts(self) -> list[str]:
        rows = [
            [fold, *(tables.number("accuracy", value) for value in choice.means.values()), choice.label]
            for fold, choice in self.choices.items()
        ]
        return [
            "## Choice in each fold",
            (
                f"By clip accuracy on part {INNER_PART[0]} of {INNER_PART[1]} of the training recordings, the mean over"
                f" seeds; the tables of '{CHOSEN}' above are what this choice gives on folds that had no say in it."
            ),
            markdown_table(["fold", *(setting.label for setting in self.runs.settings), CHOSEN], rows),
        ]

    def _teacher_parts(self) -> list[str]:
        rows = [
            [name, *(tables.number("accuracy", each[metric]) if metric in each else "" for metric in TEACHER_FIGURES)]
            for name, each in self.runs.teachers().items()
        ]
        return [
            "## Teachers",
            markdown_table(["run", "test clips", "training clips out of fold", "test clips, mean of fits"], rows),
        ]


def _conclusion(first: str, other: str, differences: dict[str, IntervalTable]) -> str:
    """A sentence on the clip accuracies of the network that is deployed."""
    each = list(differences.values())[-1][UNITS[0]][FIGURES[0]]
    if not each.excludes_zero:
        return f"Clip accuracy does not tell {first} from {other}: the interval of the difference holds zero."
    return (
        f"{first if each.mean > 0 else other} has the higher clip accuracy: the interval of the difference excludes"
        " zero."
    )
