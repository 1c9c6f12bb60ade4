"""Trains the runs of a plan, writes the tables of them, and reports those that failed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from edgekd.errors import GateError
from edgekd.experiments import tables
from edgekd.experiments.folder import JOBS_FOLDER
from edgekd.experiments.jobs import JobResult, Workers, run_jobs
from edgekd.experiments.plan import Plan, Setting
from edgekd.text import counted


def train_runs(
    plan: Plan,
    settings: Iterable[Setting],
    workers: Workers,
    log: Callable[[str], None],
    runs_file: str = tables.CSV_FILE,
) -> dict[str, JobResult]:
    """Train the runs that are not done, and write the table of all runs and of their times.

    Args:
        plan: the runs.
        settings: all settings of the plan.
        workers: how many runs are trained at a time, and where.
        log: called with one line for each run that ends.
        runs_file: name of the table of runs in the experiment's folder.

    Returns:
        Name of the run -> result.

    Raises:
        KeyboardInterrupt: the message names the folder and how to continue.
    """
    try:
        results = run_jobs(plan.jobs(workers), plan.out / JOBS_FOLDER, workers, log)
    except KeyboardInterrupt:
        raise interrupted(plan.out) from None
    tables.write(plan.out, runs_file, tables.run_table(plan, {each.label: each for each in settings}, results))
    tables.write_times(plan, results)
    return results


def interrupted(out: Path) -> KeyboardInterrupt:
    """The interrupt of an experiment, which says how to continue."""
    return KeyboardInterrupt(f"{out}: interrupted; the same command continues")


def failed_runs(results: Mapping[str, JobResult]) -> list[str]:
    """One line for each run that is not done."""
    return [
        f"{name}: {result.error} (see {result.log_file})" for name, result in results.items() if result.state != "done"
    ]


def require_done(out: Path, failed: Sequence[str], total: int | None = None) -> None:
    """Raise where runs are not done.

    Args:
        out: the experiment's folder.
        failed: lines of `failed_runs`.
        total: number of all runs, where the message names it.

    Raises:
        GateError: there are failed runs; one line for each.
    """
    if failed:
        count = counted(len(failed), "run") + (f" of {total}" if total is not None else "")
        raise GateError(f"{out}: {count} not done; the same command tries again", *failed)
