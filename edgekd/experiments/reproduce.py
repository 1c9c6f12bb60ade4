"""`edgekd reproduce`: from a data set's official folder to a published table, with the paper's figures and ours side by
side.

DIR/store is the prepared data set, DIR/runs/ the run folders of all rows and seeds. The same command continues an
interrupted one.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from edgekd.data import prepare as preparing
from edgekd.data.sets.metadata import DATA_SETS
from edgekd.data.store.store import INFO_FILE, ClipStore
from edgekd.errors import InputError
from edgekd.experiments import tables
from edgekd.experiments.folder import experiment_folder
from edgekd.experiments.jobs import Workers
from edgekd.experiments.plan import (
    Fold,
    Plan,
    PlannedRun,
    Setting,
    load_resolved,
    recipe_fold,
    seed_list,
)
from edgekd.experiments.published_table import PublishedTable, TableData, load_table
from edgekd.experiments.reproduce_report import PlannedTable, ReproduceReport, Runs, measured_rows
from edgekd.experiments.runs import failed_runs, interrupted, train_runs
from edgekd.experiments.smoke import few_steps, make_tree
from edgekd.text import counted
from edgekd.train.recipe.recipe import Recipe, without_teachers
from edgekd.train.stages.stages import stage_recipe

STORE_FOLDER, TREE_FOLDER = "store", "tree"
"""Inside the output folder: the prepared data set, and a made-up data set."""
RUNS_FILE = "runs.csv"
SEEDS, SMOKE_SEEDS = "0,1,2", "0"
SMOKE_FOLDS = 2
"""Number of a table's folds that a smoke run tests."""
RECIPE_SPLITS = ("",)
"""The only fold of a table that names none: the splits of the recipes."""


def reproduce(
    name: str,
    data: Path | None,
    out: Path,
    seeds: str | None,
    workers: Workers,
    log: Callable[[str], None],
    *,
    smoke: bool = False,
) -> ReproduceReport:
    """Prepare the data set, then train and score every row. The same call continues an interrupted one.

    Args:
        name: of a shipped table, or a path to one.
        data: the data set's folder as published, or a store of it. None where `out` holds the store already, and for a
            smoke run on made-up data.
        out: folder of store, runs and results.
        seeds: with commas; None is "0,1,2", for a smoke run "0".
        workers: how many runs are trained at a time, and where.
        log: called with lines of progress.
        smoke: a few steps for each training.

    Raises:
        InputError: the table or the data are wrong, found before the first run.
        KeyboardInterrupt: the message says how to continue.
    """
    table = load_table(name)
    chosen = seed_list(seeds or (SMOKE_SEEDS if smoke else SEEDS))
    settings = chosen_settings(table, smoke=smoke)
    if data is None and not smoke and not (out / STORE_FOLDER / INFO_FILE).is_file():
        known = DATA_SETS[table.data.set]
        fetch = f", after edgekd data fetch {table.data.set}" if known.free else ""
        raise InputError(
            f"reproduce {name} wants the folder of {known.title}: give it with --data FOLDER{fetch}, or try the path"
            " with --smoke"
        )
    with experiment_folder(out, {"command": f"reproduce {Path(name).stem}{' --smoke' if smoke else ''}"}):
        try:
            store = _store(table.data, data, out, log, smoke=smoke)
            plan = Plan(store, out)
            folds = (table.folds[:SMOKE_FOLDS] if smoke else table.folds) or RECIPE_SPLITS
            planned = PlannedTable(table, plan, plan_runs(table, settings, plan, chosen, folds), chosen, len(folds))
            if not smoke:
                _check_sides(table, plan)
            plan.check()
        except KeyboardInterrupt:
            raise interrupted(out) from None
        results = train_runs(plan, settings.values(), workers, log, RUNS_FILE)
        report = ReproduceReport(
            out,
            table,
            tuple(chosen),
            f"{store.name}: {planned.described_test_side()}",
            smoke,
            tuple(measured_rows(planned, results)),
            tuple(failed_runs(results)),
        )
        tables.write(out, tables.MARKDOWN_FILE, report.to_markdown())
        tables.write(out, tables.CSV_FILE, report.to_csv())
        tables.write(out, tables.JSON_FILE, report.to_json())
    return report


def chosen_settings(table: PublishedTable, *, smoke: bool = False) -> dict[str, Setting]:
    """`TableRow.key` -> the setting that is trained for all rows of that key.

    Teachers that need no other stage and that no row scores are runs of their own, which all rows and all seeds share.

    Raises:
        InputError: see `load_resolved`; a row that asks for what its recipe does not have.
    """
    found: dict[str, Setting] = {}
    for row in table.rows:
        if not row.trained or row.key in found:
            continue
        recipe = load_resolved(row.recipe, row.set)
        if smoke:
            recipe = load_resolved(row.recipe, (*row.set, *few_steps(recipe)))
        if row.teachers == "none" or row.teachers_of:
            recipe = msgspec.structs.replace(without_teachers(recipe), backend=None)
        shared = _has_plain_teachers(recipe) and not any(
            (each.key == row.key and each.part) or (each.teachers_of and table.row(each.teachers_of).key == row.key)
            for each in table.rows
        )
        teachers = tuple(stage_recipe(each, recipe) for each in recipe.teachers) if shared else ()
        found[row.key] = Setting(row.label, recipe, teachers)
    for row in table.rows:
        if row.trained and row.network not in found[row.key].networks and not row.part:
            raise InputError(
                f"row '{row.label}': recipe {row.recipe} has no quantization-aware phase; set network = \"float\""
            )
    return found


def _has_plain_teachers(recipe: Recipe) -> bool:
    """Whether the only stages of a recipe are teachers that are trained independently of each other and all teach."""
    return (
        bool(recipe.teachers)
        and recipe.specialists is None
        and recipe.backend is None
        and all(each.teaches for each in recipe.teachers)
        and not any(stage_recipe(each, recipe).init.run for each in recipe.teachers)
    )


def plan_runs(
    table: PublishedTable,
    settings: Mapping[str, Setting],
    plan: Plan,
    seeds: Sequence[int],
    folds: Sequence[str] = RECIPE_SPLITS,
) -> Runs:
    """Plan all runs of a table; runs that teach others come first. folds: names of splits, or `RECIPE_SPLITS`."""
    runs: dict[tuple[str, int, int], PlannedRun] = {}
    for row in table.rows:
        if not row.trained or (row.key, 0, seeds[0]) in runs:
            continue
        setting = settings[row.key]
        for (index, fold), seed in itertools.product(enumerate(folds), seeds):
            more_teachers: list[str] = []
            if row.teachers_of:
                owner_key = table.row(row.teachers_of).key
                owner = settings[owner_key].recipe
                more_teachers = [
                    f"{runs[owner_key, index, seed].name}/teachers/{each.name or stage_recipe(each, owner).name}"
                    for each in owner.teachers
                    if each.teaches
                ]
            runs[row.key, index, seed] = plan.add(
                setting, _fold(table, setting.recipe, fold), seed, more_teachers=more_teachers
            )
    return runs


def _fold(table: PublishedTable, recipe: Recipe, tested: str) -> Fold:
    """A fold of the table by its name, or the recipe's own splits for ""."""
    if tested:
        return Fold(tested, tuple(other for other in table.folds if other != tested), (tested,))
    return recipe_fold(recipe.data)


def _store(source: TableData, data: Path | None, out: Path, log: Callable[[str], None], *, smoke: bool) -> ClipStore:
    """The prepared data set: an existing store, or one that is prepared now."""
    path = out / STORE_FOLDER
    if data is not None and (data / INFO_FILE).is_file():
        path = data
    elif not (path / INFO_FILE).is_file():
        if data is None:
            data = make_tree(source.set, source.options, out / TREE_FOLDER)
        log(f"preparing {DATA_SETS[source.set].title}")
        prepared = preparing.prepare(
            source.set, data, path, sample_rate=source.sample_rate, channels=source.channels, log=log, **source.options
        )
        for note in prepared.notes:
            log(f"note: {note}")
    store = ClipStore.open(path)
    for what, got, wanted in (
        ("data set", store.name, source.set),
        ("sample rate", store.sample_rate, source.sample_rate),
        ("channels", store.channels, source.channels),
    ):
        if got != wanted:
            raise InputError(
                f"{path}: its {what} is {got}, this table wants {wanted}; give another --data, or the folder as"
                " published"
            )
    if not smoke and source.counted and len(store.clips) != source.clips:
        log(
            f"note: {path} has {counted(len(store.clips), 'clip')}, the whole data set has {source.clips:,}: the table"
            " covers only these"
        )
    return store


def _check_sides(table: PublishedTable, plan: Plan) -> None:
    """Raise where a complete data set is split otherwise than the table's, for instance a store of all training clips
    where the table is of a quarter.

    Raises:
        InputError: another number of clips to train or to test on.
    """
    source, store, data = table.data, plan.store, plan.runs[0].recipe.data
    if table.folds or not source.counted or len(store.clips) != source.clips:
        return
    sides = data.sides(store)
    train, test = len(sides.train) + len(sides.left_out), len(sides.test)
    for side, got, wanted in (("train on", train, source.train), ("test on", test, source.test)):
        if got != wanted:
            options = "".join(f" --{name} {value}" for name, value in source.options.items())
            raise InputError(
                f"{store.path}: it has {got:,} clips to {side}, this table {wanted:,}; prepare it by edgekd data"
                f" prepare {source.set}{options} --sample-rate {source.sample_rate}, or give the folder as published"
            )
