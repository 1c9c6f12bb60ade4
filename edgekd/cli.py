"""The command line: typer commands that import what they need inside, call one function, and print. No logic here.

Past 400 lines because every command's options and their help stand here, in one place.
"""

import contextlib
import errno
import io
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.main

from edgekd.data.sets.metadata import DATA_SETS
from edgekd.resources import names

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""Base of all that a command line can do wrong. Typer exports no name for it, and takes it from click or from a copy of
its own."""
MACHINE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
"""Failures that are neither the user's command nor a bug: a full disk, a lost permission."""
INTERRUPTED, PIPE_CLOSED, TERMINATED = 130, 141, 143
"""Exit statuses of a shell for what SIGINT, SIGPIPE and SIGTERM end."""

BLAS_THREADS = "OPENBLAS_NUM_THREADS"
"""Environment variable that numpy's BLAS reads when numpy is imported."""

app = typer.Typer(
    name="edgekd",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="From a folder of labelled audio to a live int8 acoustic scene classifier on a Raspberry Pi.",
)
data_app = typer.Typer(no_args_is_help=True, help="Prepare, synthesise and inspect clip stores.")
app.add_typer(data_app, name="data")
service_app = typer.Typer(
    no_args_is_help=True,
    help="Run the listener as a service of systemd, and change its model; with sudo, except for status.",
)
app.add_typer(service_app, name="service")

# --- data ---


@data_app.command("prepare", epilog="Example: edgekd data prepare folder audio --out own")
def data_prepare(
    dataset: Annotated[str, typer.Argument(help=f"One of {', '.join(DATA_SETS)}.")],
    path: Annotated[Path, typer.Argument(help="Folder of the data set as published; for folder also a CSV file.")],
    out: Annotated[Path, typer.Option("--out", help="The store to make.")],
    sample_rate: Annotated[int, typer.Option(help="Hz of the store.")] = 16000,
    channels: Annotated[int, typer.Option(help="Channels of the store.")] = 1,
    csv: Annotated[
        Path | None, typer.Option(help="folder: a table filename,label[,split,group,recorder,parent].")
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="folder without splits, deepship: share of each label for test, 0.2.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="folder: licence of the audio, kept in every model file.")] = None,
    subset: Annotated[
        int | None, typer.Option(help="tau22: 5, 10, 25 or 50 percent of the training clips (DCASE 2024).")
    ] = None,
    fold: Annotated[
        int | None, typer.Option(help="tut18: number of the lists in evaluation_setup; 1 is published.")
    ] = None,
    segment: Annotated[
        float | None, typer.Option(help="deepship: seconds of each clip that recordings are cut into, 5.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out clips that are missing or cannot be used instead of refusing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a store that is there.")] = False,
) -> None:
    """Decode a data set once into a clip store. The same command goes on where it was stopped."""
    from edgekd.data import info, prepare

    prepared = prepare.prepare(
        dataset,
        path,
        out,
        sample_rate=sample_rate,
        channels=channels,
        table=csv,
        test_fraction=test_fraction,
        licence=licence,
        subset=subset,
        fold=fold,
        segment=segment,
        skip_bad=skip_bad,
        force=force,
        log=_say,
    )
    for note in prepared.notes:
        _say(f"note: {note}")
    print(info.report_text(info.describe(prepared.store)))


@data_app.command("synth", epilog="Example: edgekd data synth --out store --clips 200")
def data_synth(
    out: Annotated[Path, typer.Option("--out", help="The store to make.")],
    clips: Annotated[int, typer.Option(help="Clips in all, over ten scenes.")] = 600,
    seconds: Annotated[float, typer.Option(help="Length of each clip.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Another seed is another data set.")] = 0,
    sample_rate: Annotated[int, typer.Option(help="Hz of the store.")] = 16000,
    force: Annotated[bool, typer.Option("--force", help="Replace a store that is there.")] = False,
) -> None:
    """Make a clip store of procedural scenes: a smoke data set, not recordings."""
    from edgekd.data import info, prepare

    made = prepare.synth(out, clips=clips, seconds=seconds, seed=seed, sample_rate=sample_rate, force=force)
    for note in made.notes:
        _say(f"note: {note}")
    print(info.report_text(info.describe(made.store)))


@data_app.command("fetch", epilog="Example: edgekd data fetch tau22 --out tau22 --accept-licence")
def data_fetch(
    dataset: Annotated[
        str, typer.Argument(help=f"One of {', '.join(name for name, known in DATA_SETS.items() if known.free)}.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to fill.")],
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="The licence, which is shown, is accepted.")
    ] = False,
) -> None:
    """Download and unpack a data set that its owner gives to anybody. The same command goes on where it was stopped."""
    from edgekd.data.fetch import fetch

    def accept(licence: str) -> bool:
        _say(licence)
        return accept_licence or (sys.stdin.isatty() and typer.confirm("Do you accept it?", err=True))

    folder = fetch(dataset, out, accept, _say)
    print(f"{folder}: prepare it with: edgekd data prepare {dataset} {folder} --out STORE")


@data_app.command("info", epilog="Example: edgekd data info store")
def data_info(
    store: Annotated[Path, typer.Argument(help="A clip store.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check a clip store and tell what it holds."""
    import msgspec

    from edgekd.data import info

    report = info.info(store)
    print(msgspec.json.encode(report).decode() if as_json else info.report_text(report))


def _without_blas_threads() -> None:
    """Before numpy is imported: the products of a window's front end are small, and threads for them cost eight times
    what they compute."""
    os.environ.setdefault(BLAS_THREADS, "1")


def _say(line: str) -> None:
    print(line, file=sys.stderr)


# --- train ---


@app.command(epilog="Example: edgekd teach synth-cp-resnet --data store --out teacher")
def teach(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped teacher recipe, or a path to one.")],
    data: Annotated[Path, typer.Option(help="A store that 'edgekd data' made.")],
    out: Annotated[Path, typer.Option(help="The run folder to make.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, e.g. train.epochs=20; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a run folder that is there.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    cross_fit: Annotated[
        int | None,
        typer.Option(
            help=(
                "Train so many networks, each without its part of the training clips, which it then judges: soft labels"
                " out of fold."
            )
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch in each process; all cores by default.")
    ] = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Let torch.compile generate the float network's code.")
    ] = False,
) -> None:
    """Train a teacher on whole clips or windows and keep its soft labels beside it, and a page for people,
    report.html."""
    from edgekd.train.launch import end_with_parent, first_process, relaunch_once, show_log

    relaunch_once()
    end_with_parent()
    show_log()
    from edgekd.train.loop.training import Options
    from edgekd.train.teach import teach as run_teach

    run = run_teach(
        recipe, data, out, settings or [], Options(force, resume, threads, accelerator, compiled), cross_fit
    )
    if first_process():
        typer.echo(run.summary())


@app.command(epilog="Example: edgekd distill synth-serfr24 --data store --teacher teacher --out student")
def distill(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped student recipe, or a path to one.")],
    data: Annotated[Path, typer.Option(help="A store that 'edgekd data' made.")],
    out: Annotated[Path, typer.Option(help="The run folder to make.")],
    teacher: Annotated[
        list[Path] | None,
        typer.Option(
            help=(
                "A finished run to learn from, in the place of the recipe's own teachers; may be repeated. none: labels"
                " alone."
            )
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the student, e.g. train.epochs=20; may be repeated.")
    ] = None,
    teach_settings: Annotated[
        list[str] | None, typer.Option("--teach-set", help="key=value of all teachers of the recipe.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a run folder that is there.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch in each process; all cores by default.")
    ] = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Let torch.compile generate the float network's code.")
    ] = False,
) -> None:
    """Train a student from teachers: first in float, then quantization-aware. Its run folder gets a page for people,
    report.html."""
    from edgekd.train.launch import end_with_parent, first_process, relaunch_once, show_log

    relaunch_once()
    end_with_parent()
    show_log()
    from edgekd.train.distill import distill as run_distill
    from edgekd.train.loop.training import Options

    run = run_distill(
        recipe,
        data,
        out,
        teacher or [],
        settings or [],
        Options(force, resume, threads, accelerator, compiled),
        teach_settings or [],
    )
    if first_process():
        typer.echo(run.summary())


@app.command(epilog="Example: edgekd crossval synth-serfr24 --data store --out cv --folds train,test --seeds 0,1")
def crossval(
    recipe: Annotated[str, typer.Argument(help="Name or path of a recipe, a student's or a teacher's.")],
    data: Annotated[Path, typer.Option(help="A store that 'edgekd data' made.")],
    out: Annotated[Path, typer.Option(help="Folder of runs and results; the same command goes on with it.")],
    folds: Annotated[
        str | None,
        typer.Option(
            help=(
                "Splits with commas, each tested by networks trained on the others and never mixed; all that the recipe"
                " names."
            )
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="With commas; more may be added later.")] = "0,1,2",
    teach: Annotated[
        list[str] | None, typer.Option(help="Teacher recipe, trained in each fold first; may be repeated.")
    ] = None,
    teach_settings: Annotated[list[str] | None, typer.Option("--teach-set", help="key=value of all teachers.")] = None,
    cross_fit: Annotated[
        int | None, typer.Option(help="Cross-fit the teachers, as 'edgekd teach --cross-fit'.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the recipe, and of the other one too.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="Another recipe: report the paired difference.")] = None,
    against_settings: Annotated[
        list[str] | None,
        typer.Option(
            "--against-set",
            help="key=value of the other recipe, on top of --set; without --against of the same recipe.",
        ),
    ] = None,
    against_teach: Annotated[
        list[str] | None, typer.Option(help="Teachers of the other recipe, or none; by default the same.")
    ] = None,
    choose: Annotated[
        bool, typer.Option("--choose", help="Also choose between the two, in each fold on a part of its training side.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time: one per GPU, or as cores allow.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each run on the CPU.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Train and test a recipe on every fold and seed: accuracies with 95 % intervals, and whether it beats another
    recipe."""
    from edgekd.experiments.crossval import Question
    from edgekd.experiments.crossval import crossval as run_crossval
    from edgekd.experiments.plan import workers_here

    question = Question(
        recipe,
        tuple(settings or ()),
        tuple(teach or ()),
        tuple(teach_settings or ()),
        against,
        tuple(against_settings or ()),
        tuple(against_teach or ()),
        folds,
        seeds,
        cross_fit,
        choose,
    )
    report = run_crossval(question, data, out, workers_here(jobs, threads, "local"), _say)
    typer.echo(report.to_json().decode() if as_json else report.markdown)


@app.command(epilog="Example: edgekd sweep synth-serfr24 --data store --out sweep --vary train.lr=1e-3,3e-3")
def sweep(
    recipes: Annotated[list[str], typer.Argument(help="Names or paths of recipes.")],
    data: Annotated[Path, typer.Option(help="A store that 'edgekd data' made.")],
    out: Annotated[Path, typer.Option(help="Folder of runs and results; the same command goes on with it.")],
    vary: Annotated[
        list[str] | None, typer.Option(help="key=v1,v2: values of a key to try; may be repeated for all combinations.")
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            help=(
                "Splits with commas, each tested by networks trained on the others, or all. By default each recipe's"
                " own splits."
            )
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="With commas.")] = "0",
    teach: Annotated[
        list[str] | None, typer.Option(help="Teacher recipe of all students, trained first; may be repeated.")
    ] = None,
    teach_settings: Annotated[list[str] | None, typer.Option("--teach-set", help="key=value of all teachers.")] = None,
    cross_fit: Annotated[
        int | None, typer.Option(help="Cross-fit the teachers, as 'edgekd teach --cross-fit'.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value of all recipes.")] = None,
    engine: Annotated[
        str, typer.Option(help="local, ray, or auto: ray where it is installed and RAY_ADDRESS is set.")
    ] = "auto",
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time: one per GPU, or as cores allow.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each run on the CPU.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Train and test all combinations of recipes, values, folds and seeds: one table, one plot; exit status 1 when a
    run failed."""
    from edgekd.experiments.plan import workers_here
    from edgekd.experiments.sweep import Grid
    from edgekd.experiments.sweep import sweep as run_sweep

    grid = Grid(
        tuple(recipes),
        tuple(settings or ()),
        tuple(vary or ()),
        tuple(teach or ()),
        tuple(teach_settings or ()),
        folds,
        seeds,
        cross_fit,
    )
    report = run_sweep(grid, data, out, workers_here(jobs, threads, engine), _say)
    typer.echo(report.to_json().decode() if as_json else report.markdown)
    report.require()


@app.command(epilog="Example: edgekd reproduce cp-mobile2024 --out table --smoke")
def reproduce(
    name: Annotated[
        str, typer.Argument(help=f"A published table: {', '.join(names('reproductions'))}; or a path to one.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of store, runs and table; the same command goes on with it.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The data set's folder as published, or a store of it.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="With commas; more may be added later. 0,1,2, of --smoke 0.")
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A few steps a training, without --data on a made-up data set.")
    ] = False,
    budget: Annotated[
        bool,
        typer.Option("--budget", help="Only estimate how long it takes here; without the data, nothing is trained."),
    ] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time: one per GPU, or as cores allow.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each run on the CPU.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Train and judge every row of a published table, and show the paper's figures beside ours with 95 % intervals."""
    from edgekd.experiments.plan import workers_here

    workers = workers_here(jobs, threads, "local")
    if budget:
        from edgekd.experiments.budget import estimate

        found = estimate(name, seeds, workers, _say)
        typer.echo(found.to_json().decode() if as_json else found.to_text())
        return
    from edgekd.errors import InputError
    from edgekd.experiments.reproduce import reproduce as run_reproduce

    if out is None:
        raise InputError("reproduce wants a folder for its runs and its table: --out DIR")
    report = run_reproduce(name, data, out, seeds, workers, _say, smoke=smoke)
    typer.echo(report.to_json().decode() if as_json else report.to_markdown())
    report.require()


@app.command(epilog="Example: edgekd adapt student --data store --out adapted --min-clips 10")
def adapt(
    run: Annotated[Path, typer.Argument(help="A finished student's run folder.")],
    data: Annotated[Path, typer.Option(help="The store that it was trained on.")],
    out: Annotated[Path, typer.Option(help="Folder of runs, models and results; the same command goes on with it.")],
    recorders: Annotated[
        str | None, typer.Option(help="With commas; all with enough training clips by default.")
    ] = None,
    min_clips: Annotated[
        int, typer.Option(min=1, help="Recorders with fewer training clips keep the general model.")
    ] = 100,
    epochs: Annotated[int, typer.Option(min=1, help="Of the float phase.")] = 10,
    qat_epochs: Annotated[int, typer.Option(min=1, help="Of the quantization-aware phase.")] = 5,
    lr: Annotated[float, typer.Option(min=1e-9, help="Peak learning rate of the float phase.")] = 1e-4,
    teacher: Annotated[
        list[Path] | None, typer.Option(help="A finished run to learn from beside the labels; may be repeated.")
    ] = None,
    target: Annotated[str, typer.Option(help="Whose budgets every file is held to.")] = "dcase2025",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch; all cores by default.")] = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Fine-tune a student for each recorder, export and check every file, and write an index of them; exit status 1
    over a budget."""
    from edgekd.train.launch import relaunch_once, show_log

    relaunch_once()
    show_log()
    from edgekd.dcase.adapt import Tuning
    from edgekd.dcase.adapt import adapt as run_adapt
    from edgekd.train.loop.training import Options

    tuning = Tuning(epochs, qat_epochs, lr, min_clips, target)
    report = run_adapt(
        run,
        data,
        out,
        recorders=recorders,
        tuning=tuning,
        teachers=teacher or [],
        options=Options(threads=threads, accelerator=accelerator),
        say=_say,
    )
    typer.echo(report.to_json().decode() if as_json else report.to_markdown())
    report.require()


@app.command(epilog="Example: edgekd svm teacher student --data store --kernels linear")
def svm(
    runs: Annotated[
        list[Path], typer.Argument(help="Finished run folders of the same labels, training clips and test clips.")
    ],
    data: Annotated[Path, typer.Option(help="The store that they were trained on.")],
    kernels: Annotated[
        str, typer.Option(help="With commas: linear, rbf, poly, sigmoid; each run has the best of them.")
    ] = "linear,rbf",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch; all cores by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Judge test clips by support vector machines on the embeddings of runs, and by the sum of their scores."""
    from edgekd.train.stages.svm import svm_of_runs

    report = svm_of_runs(runs, data, [name.strip() for name in kernels.split(",") if name.strip()], threads)
    typer.echo(report.to_json().decode() if as_json else report.to_text())


# --- models ---

Model = Annotated[
    Path, typer.Argument(help="A model file that 'edgekd export' wrote, or the name of one in 'edgekd zoo'.")
]


@app.command(epilog="Example: edgekd check models/synth-serfr24.int8.tflite --target pi-4")
def check(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="Exported .tflite or .onnx files, ours or anybody's, or names in 'edgekd zoo'; all of them are judged."
        ),
    ],
    target: Annotated[str, typer.Option(help="Name of a shipped target, or a path to a .toml file.")] = "dcase2023",
    report_format: Annotated[
        str, typer.Option("--format", help="What is printed: table, json, markdown, junit or badge.")
    ] = "table",
    report: Annotated[
        list[str] | None, typer.Option(help="FORMAT=FILE: also write a report there; may be repeated.")
    ] = None,
    badge: Annotated[Path | None, typer.Option(help="Also write an SVG badge there.")] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Compare with an earlier model file, a stored --format json, or a folder of earlier versions; growth"
                " fails."
            )
        ),
    ] = None,
    tolerance: Annotated[
        str | None, typer.Option(help="With --baseline: growth that passes, like 0.02 or 2%; 2% by default.")
    ] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="A figure measured as the target's latency budget asks; needs --board.")
    ] = None,
    board: Annotated[str | None, typer.Option(help="The board that --latency-ms was measured on.")] = None,
    bench: Annotated[
        Path | None, typer.Option(help="What 'edgekd bench --json' printed on the board: judges the latency.")
    ] = None,
    require_latency: Annotated[
        bool, typer.Option("--require-latency", help="Fail where a latency budget has no measurement.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace reports that exist.")] = False,
) -> None:
    """Count what exported files cost and judge it; exit status 1 when one is over budget, against a rule, or has
    grown."""
    from edgekd.complexity import check as checking
    from edgekd.modelfile.zoo import model_file

    models = [model_file(each) for each in models]
    printed = checking.known_format(report_format, "--format")
    places = checking.parse_reports(report or (), badge, models, force=force)
    options = checking.CheckOptions(
        target, baseline, checking.parse_tolerance(tolerance, baseline), latency_ms, board, bench, require_latency
    )
    checked = checking.check(models, options)
    checking.write_reports(checked, places)
    typer.echo(checking.render(checked, printed))
    checking.require_ok(checked)


@app.command(epilog="Example: edgekd info models/synth-serfr24.int8.tflite")
def info(
    model: Model,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    card: Annotated[
        bool, typer.Option("--card", help="Print a model card: Markdown with the metadata of Hugging Face's hub.")
    ] = False,
) -> None:
    """Show what travels inside a model file: labels, front end, quantisation, counts, provenance."""
    from edgekd.export.card import card_of
    from edgekd.modelfile.zoo import model_file
    from edgekd.report.model_info import info as describe

    model = model_file(model)
    if card and as_json:
        raise typer.BadParameter("--card and --json are two forms; give one of them")
    typer.echo(card_of([model]) if card else describe(model, as_json), nl=not card)


@app.command(epilog="Example: edgekd zoo esc50-best")
def zoo(
    name: Annotated[str | None, typer.Argument(help="A model, whose card is shown; without it all are listed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the models that come with edgekd: labels, cost, accuracy, licence. Their names stand for files in all
    commands."""
    from edgekd.report.zoo_table import zoo as describe

    typer.echo(describe(name, as_json=as_json))


@app.command(epilog="Example: edgekd verify models/synth-serfr24.int8.tflite")
def verify(
    model: Model,
    engine: Annotated[
        str | None, typer.Option(help="litert or onnxruntime; by default the one that opens the file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Replay the golden vectors inside a model file on this machine; exit status 1 when it computes something else."""
    from edgekd.modelfile.verify import verify as replay
    from edgekd.modelfile.zoo import model_file

    report = replay(model_file(model, engine), engine)
    typer.echo(report.to_json().decode() if as_json else report.to_text())
    report.require()


@app.command(epilog="Example: edgekd export student --int8 --out models")
def export(
    run: Annotated[Path, typer.Argument(help="A finished run folder of 'edgekd distill'.")],
    int8: Annotated[bool, typer.Option("--int8", help="Write the integer graph.")] = False,
    as_float: Annotated[bool, typer.Option("--float", help="Write the float32 twin of the same graph.")] = False,
    formats: Annotated[str, typer.Option("--format", help="tflite, onnx, or both with a comma.")] = "tflite,onnx",
    out: Annotated[Path | None, typer.Option(help="Folder of the files; by default 'export' inside the run.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files of the same names.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="A clip store: compare float, QAT, reference and files on held-out windows.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="With --data: split to compare on; repeatable. The recipe's test splits.")
    ] = None,
    calibrate_split: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "With --data: held-out split that fits the temperature; repeatable. Those of the recipe, which are none"
                " by default."
            )
        ),
    ] = None,
    hop: Annotated[float, typer.Option(help="With --data: seconds between the starts of two windows.")] = 1.0,
    card: Annotated[
        bool, typer.Option("--card", help="Also write a model card beside the files, NAME.PRECISION.md.")
    ] = False,
    crossval: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a finished 'edgekd crossval' of the same recipe, whose accuracies files and card then tell."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write a student as model files that carry labels, front end and provenance, after running them in their
    engines."""
    from edgekd.export.export import chosen_precision, export_run
    from edgekd.export.parity import chosen_trial

    trial = chosen_trial(data, split or (), calibrate_split or (), hop)
    precision = chosen_precision(int8=int8, as_float=as_float)
    figures = None
    if crossval is not None:
        from edgekd.experiments.crossval_summary import crossval_summary

        figures = crossval_summary(crossval, run, precision)
    report = export_run(run, precision, formats, out, force=force, trial=trial, card=card, crossval=figures)
    typer.echo(report.to_json().decode() if as_json else report.to_text())
    report.require()


@app.command(epilog="Example: edgekd bench models/synth-serfr24.int8.tflite")
def bench(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="Model files that 'edgekd export' wrote, folders of them, or names in 'edgekd zoo'; timed interleaved."
        ),
    ],
    engine: Annotated[
        str | None, typer.Option(help="litert or onnxruntime; by default the one that opens each file.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of the engine.")] = 1,
    repeats: Annotated[
        int | None, typer.Option(help="Turns; in each, every file runs every stage once. 300 by default.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document: an object for one file, a list for several.")
    ] = False,
) -> None:
    """Time front end, network and whole pipeline of exported files; resident memory and start-up in a fresh process."""
    _without_blas_threads()
    from edgekd.evaluation.bench import REPEATS, to_json, to_text
    from edgekd.evaluation.bench import bench as run_bench
    from edgekd.modelfile.zoo import model_file

    results = run_bench(
        [model_file(each, engine) for each in models],
        engine=engine,
        threads=threads,
        repeats=REPEATS if repeats is None else repeats,
    )
    typer.echo(to_json(results) if as_json else to_text(results))


@app.command("bench-train", epilog="Example: edgekd bench-train synth-serfr24 --data store --batches 2")
def bench_train(
    recipe: Annotated[str, typer.Argument(help="Name or path of a recipe.")] = "esc50-serfr32",
    data: Annotated[Path | None, typer.Option(help="A clip store; by default one of noise is made.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Teacher recipe whose network is timed too.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, e.g. train.batch_size=64; may be repeated.")
    ] = None,
    soft_labels: Annotated[int, typer.Option(help="Made-up teachers whose soft labels enter the loss.")] = 0,
    clips: Annotated[
        int | None, typer.Option(help="One-second clips of the store that is made; 2,048 by default.")
    ] = None,
    batches: Annotated[
        int | None, typer.Option(help="Timed batches of each stage in each of three rounds; 8 by default.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch on the CPU; all cores by default.")
    ] = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and no table.")] = False,
) -> None:
    """Clips per second of each part of a training and of the whole; a table, then one line of JSON."""
    from edgekd.train.launch import relaunch_once

    relaunch_once()
    import msgspec

    from edgekd.train import bench as timing

    result = timing.bench_train(
        recipe,
        data,
        teacher=teacher,
        overrides=settings or [],
        soft_labels=soft_labels,
        clips=timing.MADE_CLIPS if clips is None else clips,
        batches=timing.BATCHES if batches is None else batches,
        threads=threads,
        accelerator=accelerator,
    )
    if not as_json:
        typer.echo(timing.to_text(result))
    typer.echo(msgspec.json.encode(result).decode())


@app.command(epilog="Example: edgekd evaluate models/synth-serfr24.int8.tflite --data store")
def evaluate(
    model: Model,
    data: Annotated[Path, typer.Option(help="A clip store.")],
    split: Annotated[
        list[str] | None,
        typer.Option(help="Split to evaluate on; repeatable. By default all clips, also those trained on."),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="litert or onnxruntime; by default the one that opens the file.")
    ] = None,
    hop: Annotated[float, typer.Option(help="Seconds between the starts of two windows.")] = 1.0,
    threads: Annotated[int, typer.Option(help="Threads of the engine.")] = 1,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Exit status 1 when the clip accuracy (0..1) is below.")
    ] = None,
    microphones: Annotated[
        Path | None,
        typer.Option(
            help=(
                "A folder of impulse responses of microphones: judge the same clips through each as well, and the worst"
                " of them."
            )
        ),
    ] = None,
    mic_split: Annotated[
        str | None,
        typer.Option(
            help=(
                "With --microphones: test, those of makes kept for tests, train or all; test. Makes are told by"
                " makes.toml in the folder, or "
                "by the table of MicIRP that comes with edgekd."
            )
        ),
    ] = None,
    equalise: Annotated[
        int | None,
        typer.Option(
            help=(
                "With --microphones: put each behind an equaliser first, made from so many unlabelled clips of the"
                " other splits heard through "
                "it, as 'edgekd equalise' makes one."
            )
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="With --microphones: exit status 1 when the worst clip accuracy is lower by more than this (0..1)."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Also write a page for people there, e.g. report.html: one file with intervals, confusions and the"
                " paths of their clips, "
                "reliability, complexity, and latency here."
            )
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="With --report: the target that judges, as in 'edgekd check'; dcase2023.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a report that exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Run an exported file in its engine over a store: accuracies and log loss per window and per clip, per label and
    per recorder."""
    _without_blas_threads()
    from edgekd.evaluation.evaluate import evaluate_file
    from edgekd.evaluation.microphones import asked
    from edgekd.evaluation.report import planned
    from edgekd.modelfile.zoo import model_file

    model, through = model_file(model, engine), asked(microphones, mic_split, max_drop, equalise)
    page = planned(report, model, data, target, force=force)
    found = evaluate_file(
        model,
        data,
        split or (),
        engine=engine,
        hop=hop,
        threads=threads,
        min_accuracy=min_accuracy,
        microphones=through,
        equalise=equalise,
    )
    if page is not None:
        page.write(found, threads)
    typer.echo(found.to_json().decode() if as_json else found.to_text())
    found.require(min_accuracy, max_drop)


@app.command(epilog="Example: edgekd predict models/synth-serfr24.int8.tflite audio --csv labels.csv")
def predict(
    model: Model,
    folder: Annotated[
        Path, typer.Argument(help="Folder of audio files (wav, flac, ogg, mp3), searched through all levels.")
    ],
    csv: Annotated[Path, typer.Option(help="The table to write: filename, label, one probability column per label.")],
    engine: Annotated[
        str | None, typer.Option(help="litert or onnxruntime; by default the one that opens the file.")
    ] = None,
    hop: Annotated[float, typer.Option(help="Seconds between the starts of two windows.")] = 1.0,
    equaliser: Annotated[
        Path | None, typer.Option(help="Of the microphone that recorded them, a file that 'edgekd equalise' wrote.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of the engine.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace a table that exists.")] = False,
) -> None:
    """Classify every recording in a folder and write one row of probabilities per file."""
    _without_blas_threads()
    from edgekd.evaluation.predict import predict_folder
    from edgekd.modelfile.zoo import model_file

    typer.echo(
        predict_folder(
            model_file(model, engine),
            folder,
            csv,
            engine=engine,
            hop=hop,
            equaliser=equaliser,
            threads=threads,
            force=force,
        ).to_text()
    )


@app.command(epilog="Example: edgekd equalise models/synth-serfr24.int8.tflite audio --out mic.json")
def equalise(
    model: Model,
    folder: Annotated[
        Path,
        typer.Argument(
            help=(
                "Recordings made with the microphone, two minutes or more of many kinds of sound, without labels: a"
                " folder searched through "
                "all levels, or a file."
            )
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file to write, for --equaliser of listen and predict.")],
    gate: Annotated[
        float | None, typer.Option(help="Leave out windows below this level in dBFS, for instance -60.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure what a microphone adds to each band of a model's log-mel, so that listen and predict can take it off."""
    _without_blas_threads()
    from edgekd.evaluation.equalise import equalise as measure
    from edgekd.modelfile.zoo import model_file

    report = measure(model_file(model), folder, out, gate_dbfs=gate, force=force)
    typer.echo(report.to_json().decode() if as_json else report.to_text())


@app.command(epilog="Example: edgekd submission --init system.toml")
def submission(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help=(
                "Model files of 'edgekd export': one; in 2024 5=FILE 10=FILE ... 100=FILE; in 2025 a general .onnx"
                " file, and of recorders "
                "with their own a=FILE, s1=FILE ..."
            )
        ),
    ] = None,
    year: Annotated[
        int | None,
        typer.Option(
            help="2022 to 2025: whose form is written, or judged by --check; there by default told by the files."
        ),
    ] = None,
    label: Annotated[str | None, typer.Option(help="LASTNAME_INSTITUTE_task1_N.")] = None,
    system: Annotated[
        Path | None, typer.Option(help="A .toml file with authors and description, which --init begins.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the submission: task1/LABEL/..., in 2025 also inference/, a package.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Store of the development set, for the results in the meta file.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="With --data: its test split; repeatable. By default evaluate.")
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="Folder or store of the evaluation set: the output has a row a file.")
    ] = None,
    energy: Annotated[
        str | None,
        typer.Option(help="2023, 2024: measure by codecarbon; the country's ISO code of three letters, e.g. FIN."),
    ] = None,
    energy_baseline: Annotated[
        Path | None, typer.Option(help="With --energy: the official baseline's .tflite file, measured too.")
    ] = None,
    init: Annotated[Path | None, typer.Option(help="Write the form for --system there, and nothing else.")] = None,
    check: Annotated[Path | None, typer.Option(help="Judge the submissions in a folder, and write nothing.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
) -> None:
    """Write the files of a DCASE task 1 submission and judge them; exit status 1 where the organisers would refuse
    something."""
    from edgekd.dcase import submission as submitting
    from edgekd.dcase.check import check as judge

    submitting.one_task(bool(models), init, check)
    if init is not None:
        print(f"{submitting.write_template(init, force=force)}: fill it in")
        return
    if check is not None:
        report = judge(check, year, evaluation)
    else:
        report = submitting.build(
            submitting.Order(
                tuple(models or ()),
                year,
                label,
                system,
                out,
                data,
                tuple(split or (submitting.DEVELOPMENT_SPLIT,)),
                evaluation,
                energy,
                energy_baseline,
                force,
            )
        )
    typer.echo(report.to_text())
    report.require()


# --- live ---


@app.command(epilog="Example: edgekd listen yard.wav --model models/synth-serfr24.int8.tflite")
def listen(
    *,
    source: Annotated[
        str | None,
        typer.Argument(
            help=(
                "An audio file, or - for raw signed 16-bit little-endian mono at the model's rate on standard input."
                " Without it a "
                "microphone is heard, for ever."
            )
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help=(
                "A model file that 'edgekd export' wrote, or the name of one in 'edgekd zoo'; by default the one marked"
                " there, of the 50 "
                "labels of ESC-50."
            )
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help=(
                "A .toml file with tables [model], [source], [decision], [output], [web], [mqtt], [hook], [history] and"
                " [clips], which have a "
                "key for each option here and more (see edgekd/runtime/README.md), and [watch], the limits by which a"
                " live source is "
                "watched; options on the command line override it, and a source here the whole table. Its paths are"
                " relative to the "
                "file."
            )
        ),
    ] = None,
    mic: Annotated[
        str | None,
        typer.Option(
            help="The microphone: part of its name, hw:CARD,DEVICE or USB VENDOR:PRODUCT[:SERIAL]; see 'edgekd mics'."
        ),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(
            help=(
                "Instead of a microphone, a command that writes raw signed 16-bit samples, such as 'arecord ... -t"
                " raw'; run again when it "
                "ends."
            )
        ),
    ] = None,
    channel: Annotated[int | None, typer.Option(help="The channel to use, from 0; by default the mean of all.")] = None,
    rate: Annotated[
        int | None, typer.Option(help="Hz of the microphone, by default its own, or of the command, the model's.")
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Channels that the command writes, by default 1.")] = None,
    equaliser: Annotated[
        Path | None, typer.Option(help="The microphone's, a file that 'edgekd equalise' wrote.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="litert or onnxruntime; by default the one that opens the file.")
    ] = None,
    hop: Annotated[
        float | None, typer.Option(help="Seconds from decision to decision, 0.25 to the model's window; 0.5.")
    ] = None,
    top: Annotated[int | None, typer.Option(help="How many labels to show; 3.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the engine; 1.")] = None,
    smooth: Annotated[
        float | None,
        typer.Option(
            help=(
                "Time constant in seconds of the smoothing of probabilities, right for any hop; 0, the default, is off."
            )
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help=(
                "By how much another label's probability must exceed that of the label shown to replace it, 0 to below"
                " 1; 0."
            )
        ),
    ] = None,
    dwell: Annotated[
        float | None, typer.Option(help="Least seconds that a label, or unknown, is shown; 0, the default, is off.")
    ] = None,
    unknown: Annotated[
        float | None, typer.Option(help="Say 'unknown' below this probability, 0 to below 1; 0, the default, is off.")
    ] = None,
    gate: Annotated[
        float | None,
        typer.Option(help="Windows below this level in dBFS, for instance -60, are not judged but marked as gated."),
    ] = None,
    replay: Annotated[
        bool | None,
        typer.Option("--replay/--no-replay", help="Print no decisions but, at the end of a file, a report on them."),
    ] = None,
    track: Annotated[
        Path | None,
        typer.Option(
            help=(
                "A table start,end,label in seconds: a replay that also tells accuracy over time and delays of"
                " detection."
            )
        ),
    ] = None,
    as_json: Annotated[bool | None, typer.Option("--json/--no-json", help="Print one JSON object a line.")] = None,
    plain: Annotated[
        bool | None,
        typer.Option(
            "--plain/--no-plain",
            help="Print lines also on a terminal, which otherwise shows a view of level, labels and state.",
        ),
    ] = None,
    web: Annotated[
        str | None,
        typer.Option(
            help=(
                "Serve a page with spectrogram, labels and health, and /metrics for Prometheus, at [HOST]:PORT, for"
                " instance :8080; without "
                "a host to this machine alone. EDGEKD_WEB_TOKEN or --config asks for a token."
            )
        ),
    ] = None,
    mqtt: Annotated[
        str | None,
        typer.Option(
            help=(
                "Publish to the broker at mqtt://HOST[:PORT] or mqtts://..., with Home Assistant discovery; credentials"
                " come from --config or "
                "the environment."
            )
        ),
    ] = None,
    hook: Annotated[
        str | None,
        typer.Option(
            help="A command to run where the label shown changes, with the event as JSON on its standard input."
        ),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(help="An http(s) address to post the same to, with the token in EDGEKD_WEBHOOK_TOKEN, if any."),
    ] = None,
    history: Annotated[Path | None, typer.Option(help="A database of decisions, which 'edgekd history' reads.")] = None,
    clips: Annotated[
        Path | None,
        typer.Option(
            help=(
                "A folder for the sound of uncertain windows, which 'edgekd data prepare folder' reads; without it none"
                " is stored."
            )
        ),
    ] = None,
    changes: Annotated[
        bool | None,
        typer.Option("--changes/--no-changes", help="Print a line only where the label shown or the state changes."),
    ] = None,
) -> None:
    """Classify audio window by window, one decision per hop. SIGTERM and SIGINT end it; SIGHUP reads configuration and
    model again; outputs stay as they are."""
    _without_blas_threads()
    from edgekd.runtime.config import Config, override, prepared, read_config, require_same_outputs
    from edgekd.runtime.control import Control, Setup, StoppedError
    from edgekd.runtime.decision import ChangesOnly, to_json, to_text
    from edgekd.runtime.listen import listen as decisions
    from edgekd.runtime.notify import notifier
    from edgekd.runtime.outputs.opening import open_outputs
    from edgekd.runtime.outputs.view import terminal_view

    flags: dict[str, dict[str, Any]] = {
        "model": {"file": model, "engine": engine, "threads": threads},
        "source": {
            "file": source,
            "mic": mic,
            "command": command,
            "rate": rate,
            "channels": channels,
            "channel": channel,
            "equaliser": equaliser,
        },
        "decision": {
            "hop": hop,
            "top": top,
            "smooth": smooth,
            "margin": margin,
            "dwell": dwell,
            "unknown": unknown,
            "gate": gate,
        },
        "output": {"json": as_json, "plain": plain, "changes": changes, "replay": replay, "track": track},
        "web": {"address": web},
        "mqtt": {"url": mqtt},
        "hook": {"command": hook, "url": webhook},
        "history": {"file": history},
        "clips": {"folder": clips},
    }

    def tell() -> Config:
        return override(Config() if config is None else read_config(config), flags)

    def load() -> Setup:
        from edgekd.modelfile.verify import verify_model

        if systemd is not None:
            systemd.reloading()
        now = tell()
        require_same_outputs(told, now)
        return prepared(now, lambda opened, where: verify_model(opened, where).require())

    told = tell()
    source, output, hop_s = told.source.file, told.output, told.decision.hop
    if output.replay or output.track is not None:
        from edgekd.runtime import replay as replaying

        report = replaying.replay(
            source,
            told.model_file,
            engine=told.model.engine,
            threads=told.model.threads,
            hop_s=hop_s,
            settings=told.settings,
            track=None if output.track is None else Path(output.track),
            equaliser=told.source.equaliser,
        )
        print(replaying.to_json(report) if output.json else replaying.to_text(report))
        if (note := replaying.left_out(told)) is not None:
            _say(f"edgekd: {note}")
        return
    if told.web is not None:
        from edgekd.runtime.outputs.web.access import warning

        if (open_to_all := warning(told.web)) is not None:
            print(f"edgekd: {open_to_all}", file=sys.stderr)
    line, news, systemd = to_json if output.json else to_text, ChangesOnly(), notifier()
    try:
        with Control(load) as control, open_outputs(told, systemd) as outputs, contextlib.ExitStack() as drawing:
            view = None if output.json or output.plain or output.changes else terminal_view()
            if view is not None:
                drawing.enter_context(view)
            lines = decisions(
                source,
                told.model_file,
                engine=told.model.engine,
                threads=told.model.threads,
                hop_s=hop_s,
                top=told.decision.top,
                live=told.request,
                settings=told.settings,
                control=control,
                observe=outputs.tell,
                watch=told.limits,
                news=outputs.news,
                equaliser=told.source.equaliser,
            )
            for decision in outputs.through(lines):
                if view is not None:
                    view.show(decision)
                elif news.is_new(decision) or not output.changes:
                    print(line(decision), flush=True)
    except StoppedError as stop:
        if stop.number == signal.SIGINT:
            raise KeyboardInterrupt from None
        if source not in (None, "-"):  # a file was not heard to its end
            raise typer.Exit(TERMINATED) from None
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@app.command(epilog="Example: edgekd history history.sqlite --day today")
def history(
    file: Annotated[
        Path | None, typer.Argument(help="The database that 'edgekd listen --history FILE' writes; it may be writing.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="A day, a time (14:30, '2026-01-31 14:30') or how long ago (90m, 2h, 3d).")
    ] = None,
    until: Annotated[str | None, typer.Option(help="The same; a day is meant to its end.")] = None,
    label: Annotated[str | None, typer.Option(help="Only this label.")] = None,
    day: Annotated[str | None, typer.Option(help="Draw a day: YYYY-MM-DD, today or yesterday.")] = None,
    svg: Annotated[
        Path | None, typer.Option(help="With --day: draw it into this file instead, which any browser shows.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a table, with times in UTC.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line, or with --day one document.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a table or a picture that exists.")] = False,
) -> None:
    """Tell what a listener heard when: from when to when which label was shown, the newest last, in local time."""
    from edgekd.runtime.outputs.history import day as history_day
    from edgekd.runtime.outputs.history import query as past

    question = past.ask(file, since=since, until=until, label=label, day=day, draws=svg is not None)
    if csv is not None:
        print(past.export(question, csv, force=force))
    if question.day is not None and (csv is None or svg is not None):
        drawn = history_day.read_day(question.day, past.rows(question))
        if svg is not None:
            print(history_day.write_svg(drawn, svg, force=force))
        else:
            print(history_day.to_json(drawn) if as_json else history_day.to_text(drawn, sys.stdout.encoding))
    elif csv is None:
        line = past.to_json if as_json else past.to_text
        for row in past.rows(question):
            print(line(row))


@app.command(epilog="Example: edgekd mics")
def mics(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False) -> None:
    """List the microphones by which 'edgekd listen --mic' can be told."""
    import json

    from edgekd.modelfile.engine import silent_stderr
    from edgekd.runtime.source.microphones import microphones, to_text

    with silent_stderr():  # ALSA complains of what is not configured
        found = microphones()
    typer.echo(
        "\n".join(json.dumps(one._asdict()) for one in found) if as_json else to_text(found),
        nl=bool(found) or not as_json,
    )


@app.command(
    epilog=(
        'Example: edgekd record rain --out audio --count 2 --rate 16000 --command "arecord -q -f S16_LE -r 16000 -t'
        ' raw"'
    )
)
def record(
    label: Annotated[str, typer.Argument(help="What is heard: the name of the clips' folder.")],
    out: Annotated[
        Path, typer.Option("--out", help="The folder above, which 'edgekd data prepare folder' reads later.")
    ],
    place: Annotated[
        str | None,
        typer.Option(
            help="A folder below the label, for instance a room or a day: its clips stay together when data are split."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of each clip, 0.1 to 600.")] = 5.0,
    count: Annotated[int | None, typer.Option(help="Clips to keep; without it until Ctrl-C.")] = None,
    sample_rate: Annotated[int | None, typer.Option(help="Hz of the files, by default that of the source.")] = None,
    min_level: Annotated[
        float | None, typer.Option(help="Do not keep clips below this level in dBFS, for instance -60.")
    ] = None,
    mic: Annotated[
        str | None,
        typer.Option(
            help="The microphone: part of its name, hw:CARD,DEVICE or USB VENDOR:PRODUCT[:SERIAL]; see 'edgekd mics'."
        ),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(
            help="Instead of a microphone, a command that writes raw signed 16-bit samples; run again when it ends."
        ),
    ] = None,
    channel: Annotated[int | None, typer.Option(help="The channel to use, from 0; by default the mean of all.")] = None,
    rate: Annotated[
        int | None,
        typer.Option(help="Hz of the microphone, by default its own, or of the command, by default --sample-rate."),
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Channels that the command writes, by default 1.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a clip.")] = False,
) -> None:
    """Collect labelled clips from a microphone into OUT/LABEL, 16-bit wav, one line per clip; states go to standard
    error."""
    from edgekd.runtime import record as recording
    from edgekd.runtime.source.child import Request

    order = recording.Order(label, out, place, seconds, count, sample_rate, min_level)
    line = recording.to_json if as_json else recording.to_text
    try:
        for made in recording.record(order, Request(mic, command, rate, channels, channel)):
            if isinstance(made, str):
                _say(made)
            else:
                print(line(made), flush=True)
    except KeyboardInterrupt:
        if count is not None:
            raise  # without a count it is how a recording ends


@app.command(epilog='Example: edgekd doctor --rate 16000 --command "arecord -q -f S16_LE -r 16000 -t raw"')
def doctor(
    model: Annotated[
        Path | None, typer.Option(help="A model file to open and verify, or the name of one in 'edgekd zoo'.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of the recording, 0.5 to 30.")] = 2.0,
    wait: Annotated[float, typer.Option(help="Longest wait for sound, in seconds.")] = 5.0,
    mic: Annotated[
        str | None,
        typer.Option(
            help="The microphone: part of its name, hw:CARD,DEVICE or USB VENDOR:PRODUCT[:SERIAL]; see 'edgekd mics'."
        ),
    ] = None,
    command: Annotated[
        str | None, typer.Option(help="Instead of a microphone, a command that writes raw signed 16-bit samples.")
    ] = None,
    channel: Annotated[
        int | None, typer.Option(help="The channel that will be used, from 0; by default the mean of all.")
    ] = None,
    rate: Annotated[
        int | None, typer.Option(help="Hz of the microphone, by default its own, or of the command.")
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Channels that the command writes, by default 1.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Judge the microphone and this machine; exit status 1 where a check fails, 2 where nothing is heard."""
    from edgekd.modelfile.zoo import model_file
    from edgekd.runtime.diagnose import examine
    from edgekd.runtime.source.child import Request

    report = examine(
        Request(mic, command, rate, channels, channel),
        None if model is None else model_file(model),
        seconds=seconds,
        wait_s=wait,
    )
    typer.echo(report.to_json().decode() if as_json else report.to_text())
    report.require()


# --- service ---

Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        help="Prepare the files of another system below this directory instead of asking the systemd of this one.",
    ),
]


def _place(verb: str, root: Path | None, *, changes: bool = True) -> Any:
    """Where a verb works, and on which systemd."""
    from edgekd.service.paths import Place
    from edgekd.service.systemd import this_machine

    if root is not None:
        return Place(root), None
    return Place(Path("/")), this_machine(verb, str(Path(sys.executable).with_name("edgekd")), changes=changes)


@service_app.command("install", epilog="Example: edgekd service install models/synth-serfr24.int8.tflite --root image")
def service_install(
    model: Annotated[
        Path | None,
        typer.Argument(
            help=(
                "A model file that 'edgekd export' wrote, or the name of one in 'edgekd zoo'; without it that installed"
                " stays, or else the "
                "default of 'edgekd listen' is taken."
            )
        ),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            help=(
                "With --root: the interpreter as the service will see it; /opt/edgekd/bin/python. Otherwise that of"
                " this command."
            )
        ),
    ] = None,
    root: Root = None,
) -> None:
    """Write unit, user and configuration, verify the model, start the listener, now and with the system. Again: bring
    all up to date."""
    from edgekd.modelfile.zoo import model_file
    from edgekd.service.paths import ROOM
    from edgekd.service.verbs import install, own_python

    place, manager = _place("install", root)
    interpreter = python or (own_python() if root is None else f"{ROOM}/bin/python")
    typer.echo("\n".join(install(place, manager, None if model is None else model_file(model), interpreter)))


@service_app.command("status", epilog="Example: edgekd service status --root image")
def service_status(
    root: Root = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show how the service does, its model and configuration, and what to do; exit status 1 where something is
    wrong."""
    from edgekd.service.status import status

    report = status(*_place("status", root, changes=False))
    typer.echo(report.to_json().decode() if as_json else report.to_text())
    report.require()


@service_app.command("update", epilog="Example: edgekd service update models/synth-serfr24.int8.onnx --root image")
def service_update(
    model: Model,
    root: Root = None,
) -> None:
    """Verify a model and let the running listener take it; where it does not go on, the model before comes back by
    itself."""
    from edgekd.modelfile.zoo import model_file
    from edgekd.service.verbs import update

    place, manager = _place("update", root)
    typer.echo("\n".join(update(place, manager, model_file(model))))


@service_app.command("rollback", epilog="Example: edgekd service rollback --root image")
def service_rollback(root: Root = None) -> None:
    """Go back to the model before the one in use; again: to the one before that. Five are kept."""
    from edgekd.service.verbs import rollback

    typer.echo("\n".join(rollback(*_place("rollback", root))))


@service_app.command("remove", epilog="Example: edgekd service remove --root image")
def service_remove(
    root: Root = None,
    purge: Annotated[
        bool,
        typer.Option(
            "--purge", help="Also the configuration, all models, and all that the listener has kept in /var/lib/edgekd."
        ),
    ] = False,
) -> None:
    """End the service and remove it; configuration and models stay."""
    from edgekd.service.verbs import remove

    typer.echo("\n".join(remove(*_place("remove", root), purge=purge)))


# --- demo ---


@app.command(epilog="Example: edgekd demo --out first --keep")
def demo(
    out: Annotated[Path, typer.Option(help="Folder of everything.")] = Path("edgekd-demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Also keep the clips and the teachers.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder of an earlier demo.")] = False,
) -> None:
    """The whole path on synthetic scenes, in at most three minutes on two cores."""
    from edgekd.train.launch import relaunch_once, show_log

    relaunch_once()
    show_log()
    from edgekd.demo import run_demo

    run_demo(out, lambda text: print(text, flush=True), keep=keep, force=force)


def main() -> None:
    """Entry point, which always exits: whatever stops a command becomes one line on standard error and an exit
    status."""
    from edgekd.errors import EdgekdError, missing_extra
    from edgekd.train.launch import first_process

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal cannot show
    try:
        _run(sys.argv[1:])
        sys.stdout.flush()
        sys.exit(0)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except EdgekdError as error:
        _stop(str(error), error.exit_status)
    except USAGE_ERROR as error:
        _stop(_usage_line(error) if first_process() else "", EdgekdError.exit_status)
    except KeyboardInterrupt as stop:
        _stop(str(stop) or "interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        _stop(str(missing), missing.exit_status)
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise
        _stop(
            f"{error.filename or 'a file'}: {error.strerror}; free space or choose a place that can be written",
            EdgekdError.exit_status,
        )


def _run(arguments: list[str]) -> None:
    """Run a command line; Typer's own main would answer usage errors in several lines and an interrupt with none."""
    command = typer.main.get_command(app)
    with command.make_context("edgekd", arguments) as context:
        command.invoke(context)


def _usage_line(error: Any) -> str:
    """What is wrong with a command line, or the help that a command without arguments gets."""
    message = str(error.format_message())
    return (
        message
        if "\n" in message
        else f"{message.rstrip('.')}; see {error.ctx.command_path if error.ctx else 'edgekd'} --help"
    )


def _stop(message: str, status: int) -> NoReturn:
    if message:  # none where another process has the same to say
        print(message if "\n" in message else f"edgekd: {message}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
