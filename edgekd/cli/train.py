"""Commands that train: teachers, students, cross-validations, sweeps, published tables, the demo.

Past 400 lines because the options of every command and their help stand here, in one place.
"""

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.root import Accelerator, Json, Settings, Store, TeachSettings, Threads, say
from edgekd.resources import names

app = typer.Typer()

ForceRun = Annotated[bool, typer.Option("--force", help="Replace a run folder that exists.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
Compile = Annotated[bool, typer.Option("--compile", help="Let torch.compile generate the float network's code.")]
CrossFit = Annotated[int | None, typer.Option(help="Cross-fit the teachers, as 'edgekd teach --cross-fit'.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at a time: one per GPU, or as cores allow.")]
RunThreads = Annotated[int | None, typer.Option(min=1, help="Threads of each run on the CPU.")]


@app.command(epilog="Example: edgekd teach synth-cp-resnet --data store --out teacher")
def teach(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped teacher recipe, or a path to one.")],
    data: Store,
    out: Annotated[Path, typer.Option(help="The run folder to make.")],
    settings: Settings = None,
    force: ForceRun = False,
    resume: Resume = False,
    cross_fit: Annotated[
        int | None,
        typer.Option(
            help=(
                "Train so many networks, each without one part of the training clips, and let each give the soft "
                "labels of the part that it has not seen (out of fold)."
            )
        ),
    ] = None,
    threads: Threads = None,
    accelerator: Accelerator = "auto",
    compiled: Compile = False,
) -> None:
    """Train a teacher.

    The run folder keeps the network, its soft labels and a page for people, report.html.
    """
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
    data: Store,
    out: Annotated[Path, typer.Option(help="The run folder to make.")],
    teacher: Annotated[
        list[Path] | None,
        typer.Option(
            help=(
                "A finished run to learn from, in the place of the recipe's own teachers; may be repeated. none: "
                "labels alone."
            )
        ),
    ] = None,
    settings: Settings = None,
    teach_settings: TeachSettings = None,
    force: ForceRun = False,
    resume: Resume = False,
    threads: Threads = None,
    accelerator: Accelerator = "auto",
    compiled: Compile = False,
) -> None:
    """Train a student from teachers and labels.

    The float network comes first, then its quantization-aware form. The run folder keeps both and a page for
    people, report.html.
    """
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
    data: Store,
    out: Annotated[Path, typer.Option(help="Folder of runs and results; the same command goes on with it.")],
    folds: Annotated[
        str | None,
        typer.Option(
            help=(
                "Splits with commas, each tested by networks trained on the others and never mixed; all that the "
                "recipe names."
            )
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="With commas; more may be added later.")] = "0,1,2",
    teach: Annotated[
        list[str] | None, typer.Option(help="Teacher recipe, trained in each fold first; may be repeated.")
    ] = None,
    teach_settings: TeachSettings = None,
    cross_fit: CrossFit = None,
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
    jobs: Jobs = None,
    threads: RunThreads = None,
    as_json: Json = False,
) -> None:
    """Train and test a recipe on every fold and seed.

    The report has accuracies with 95 % intervals, and the paired difference from another recipe.
    """
    from edgekd.experiments.crossval import CrossvalOptions
    from edgekd.experiments.crossval import crossval as run_crossval
    from edgekd.experiments.plan import workers_here

    options = CrossvalOptions(
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
    report = run_crossval(options, data, out, workers_here(jobs, threads, "local"), say)
    typer.echo(report.to_json().decode() if as_json else report.markdown)


@app.command(epilog="Example: edgekd sweep synth-serfr24 --data store --out sweep --vary train.lr=1e-3,3e-3")
def sweep(
    recipes: Annotated[list[str], typer.Argument(help="Names or paths of recipes.")],
    data: Store,
    out: Annotated[Path, typer.Option(help="Folder of runs and results; the same command goes on with it.")],
    vary: Annotated[
        list[str] | None, typer.Option(help="key=v1,v2: values of a key to try; may be repeated for all combinations.")
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            help=(
                "Splits with commas, each tested by networks trained on the others, or all. By default each recipe's "
                "own splits."
            )
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="With commas.")] = "0",
    teach: Annotated[
        list[str] | None, typer.Option(help="Teacher recipe of all students, trained first; may be repeated.")
    ] = None,
    teach_settings: TeachSettings = None,
    cross_fit: CrossFit = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value of all recipes, e.g. train.epochs=20; may be repeated."),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="local, ray, or auto: ray where it is installed and RAY_ADDRESS is set.")
    ] = "auto",
    jobs: Jobs = None,
    threads: RunThreads = None,
    as_json: Json = False,
) -> None:
    """Train and test combinations of recipes and values.

    The report is one table and one plot. Exit status 1: a run failed.
    """
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
    report = run_sweep(grid, data, out, workers_here(jobs, threads, engine), say)
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
    jobs: Jobs = None,
    threads: RunThreads = None,
    as_json: Json = False,
) -> None:
    """Train and test every row of a published table.

    The report has the paper's figures beside ours, with 95 % intervals.
    """
    from edgekd.experiments.plan import workers_here

    workers = workers_here(jobs, threads, "local")
    if budget:
        from edgekd.experiments.budget import estimate

        found = estimate(name, seeds, workers, say)
        typer.echo(found.to_json().decode() if as_json else found.to_text())
        return
    from edgekd.errors import InputError
    from edgekd.experiments.reproduce import reproduce as run_reproduce

    if out is None:
        raise InputError("reproduce wants a folder for its runs and its table: --out DIR")
    report = run_reproduce(name, data, out, seeds, workers, say, smoke=smoke)
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
    threads: Threads = None,
    accelerator: Accelerator = "auto",
    as_json: Json = False,
) -> None:
    """Fine-tune a student for each recorder.

    Every file is exported and checked, and an index lists them. Exit status 1: a file is over a budget.
    """
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
        log=say,
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
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Test support vector machines on the embeddings of runs.

    The report has each machine and the sum of their scores.
    """
    from edgekd.train.stages.svm import svm_of_runs

    report = svm_of_runs(runs, data, [name.strip() for name in kernels.split(",") if name.strip()], threads)
    typer.echo(report.to_json().decode() if as_json else report.to_text())


@app.command("bench-train", epilog="Example: edgekd bench-train synth-serfr24 --data store --batches 2")
def bench_train(
    recipe: Annotated[str, typer.Argument(help="Name or path of a recipe.")] = "esc50-serfr32",
    data: Annotated[Path | None, typer.Option(help="A clip store; by default one of noise is made.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Teacher recipe whose network is timed too.")] = None,
    settings: Settings = None,
    soft_labels: Annotated[int, typer.Option(help="Made-up teachers whose soft labels enter the loss.")] = 0,
    clips: Annotated[
        int | None, typer.Option(help="One-second clips of the store that is made; 2,048 by default.")
    ] = None,
    batches: Annotated[
        int | None, typer.Option(help="Timed batches of each stage in each of three rounds; 8 by default.")
    ] = None,
    threads: Threads = None,
    accelerator: Accelerator = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and no table.")] = False,
) -> None:
    """Measure clips per second of each part of a training.

    Prints a table, then one line of JSON.
    """
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


@app.command(epilog="Example: edgekd demo --out first --keep")
def demo(
    out: Annotated[Path, typer.Option(help="Folder of everything.")] = Path("edgekd-demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Also keep the clips and the teachers.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder of an earlier demo.")] = False,
) -> None:
    """Run the whole path on synthetic scenes.

    It takes at most three minutes on two cores.
    """
    from edgekd.train.launch import relaunch_once, show_log

    relaunch_once()
    show_log()
    from edgekd.demo import run_demo

    run_demo(out, lambda text: print(text, flush=True), keep=keep, force=force)
