"""Commands on model files: export, check, evaluate, predict, submit.

Past 400 lines because the options of every command and their help stand here, in one place.
"""

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.root import Engine, EngineThreads, Hop, Json, Model, without_blas_threads

app = typer.Typer()


@app.command(epilog="Example: edgekd check models/synth-serfr24.int8.tflite --target pi-4")
def check(
    models: Annotated[
        list[Path],
        typer.Argument(help="Exported .tflite or .onnx files of any tool, or names in 'edgekd zoo'; all are checked."),
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
                "Compare with an earlier model file, a stored --format json, or a folder of earlier versions; growth "
                "fails."
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
        Path | None, typer.Option(help="What 'edgekd bench --json' printed on the board; its latency is checked.")
    ] = None,
    require_latency: Annotated[
        bool, typer.Option("--require-latency", help="Fail where a latency budget has no measurement.")
    ] = False,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=1,1,16000: sizes of an .onnx input with free dimensions; may be repeated. A free batch is 1."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace reports that exist.")] = False,
) -> None:
    """Count what exported files cost, against a target.

    Exit status 1: a file is over a budget, against a rule, or has grown over the baseline.
    """
    from edgekd.complexity import check as checking
    from edgekd.modelfile.zoo import model_file

    models = [model_file(each) for each in models]
    printed = checking.known_format(report_format, "--format")
    places = checking.parse_reports(report or (), badge, models, force=force)
    options = checking.CheckOptions(
        target,
        baseline,
        checking.parse_tolerance(tolerance, baseline),
        latency_ms,
        board,
        bench,
        require_latency,
        checking.parse_shapes(shape or ()),
    )
    checked = checking.check(models, options)
    checking.write_reports(checked, places)
    typer.echo(checking.render(checked, printed))
    checking.require_ok(checked)


@app.command(epilog="Example: edgekd info models/synth-serfr24.int8.tflite")
def info(
    model: Model,
    as_json: Json = False,
    card: Annotated[
        bool,
        typer.Option(
            "--card", help="Print a model card: Markdown with the metadata of Hugging Face's hub (extra 'check')."
        ),
    ] = False,
) -> None:
    """Show what a model file carries.

    These are labels, front end, quantisation, counts and provenance.
    """
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
    as_json: Json = False,
) -> None:
    """List the models that come with edgekd.

    Shows labels, cost, accuracy and licence. The names stand for files in all commands.
    """
    from edgekd.report.zoo_table import zoo as describe

    typer.echo(describe(name, as_json=as_json))


@app.command(epilog="Example: edgekd verify models/synth-serfr24.int8.tflite")
def verify(
    model: Model,
    engine: Engine = None,
    as_json: Json = False,
) -> None:
    """Replay the golden vectors of a model file here.

    Exit status 1: this machine computes something else than the one that exported it.
    """
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
                "With --data: held-out split that fits the temperature; repeatable. Those of the recipe, which are "
                "none by default."
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
            help="Folder of a finished 'edgekd crossval' of the same recipe; files and card carry its accuracies."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a student as TFLite and ONNX files.

    The files carry labels, front end and provenance, and are run in their engines before they are kept.
    """
    from edgekd.export.export import chosen_precision, export_run
    from edgekd.export.parity import parity_options

    parity = parity_options(data, split or (), calibrate_split or (), hop)
    precision = chosen_precision(int8=int8, as_float=as_float)
    figures = None
    if crossval is not None:
        from edgekd.experiments.crossval_summary import crossval_summary

        figures = crossval_summary(crossval, run, precision)
    report = export_run(run, precision, formats, out, force=force, parity=parity, card=card, crossval=figures)
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
    engine: Engine = None,
    threads: EngineThreads = 1,
    repeats: Annotated[
        int | None, typer.Option(help="Turns; in each, every file runs every stage once. 300 by default.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document: an object for one file, a list for several.")
    ] = False,
) -> None:
    """Time front end, network and pipeline of files.

    Also measures resident memory and start-up in a fresh process.
    """
    without_blas_threads()
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


@app.command(epilog="Example: edgekd evaluate models/synth-serfr24.int8.tflite --data store")
def evaluate(
    model: Model,
    data: Annotated[Path, typer.Option(help="A clip store.")],
    split: Annotated[
        list[str] | None,
        typer.Option(help="Split to evaluate on; repeatable. By default all clips, also those trained on."),
    ] = None,
    engine: Engine = None,
    hop: Hop = 1.0,
    threads: EngineThreads = 1,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Exit status 1 when the clip accuracy (0..1) is below.")
    ] = None,
    microphones: Annotated[
        Path | None,
        typer.Option(
            help=(
                "A folder of impulse responses of microphones: also score the clips through each of them, and "
                "report the worst."
            )
        ),
    ] = None,
    mic_split: Annotated[
        str | None,
        typer.Option(
            help=(
                "With --microphones: test takes the makes that are kept for tests, train the others, all both; test "
                "by default. The makes are in makes.toml in the folder, or in edgekd's own table of MicIRP."
            )
        ),
    ] = None,
    equalise: Annotated[
        int | None,
        typer.Option(
            help=(
                "With --microphones: also measure an equaliser for each, as 'edgekd equalise' does, from so many "
                "unlabelled clips of the other splits."
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
                "Also write a page for people there, e.g. report.html: one file with intervals, confusions and the "
                "paths of their clips, reliability, complexity, and latency here."
            )
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="With --report: the target whose budgets are checked; dcase2023.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a report that exists.")] = False,
    as_json: Json = False,
) -> None:
    """Score a model file on a clip store.

    Prints accuracy and log loss of windows and clips, by label and by recorder.
    """
    without_blas_threads()
    from edgekd.evaluation.evaluate import evaluate_file
    from edgekd.evaluation.microphones import microphone_options
    from edgekd.evaluation.report import plan_report
    from edgekd.modelfile.zoo import model_file

    model, through = model_file(model, engine), microphone_options(microphones, mic_split, max_drop, equalise)
    page = plan_report(report, model, data, target, force=force)
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
        Path,
        typer.Argument(
            help="Folder of audio files (wav, flac, ogg, mp3), searched through all levels and links to folders."
        ),
    ],
    csv: Annotated[Path, typer.Option(help="The table to write: filename, label, one probability column per label.")],
    engine: Engine = None,
    hop: Hop = 1.0,
    equaliser: Annotated[
        Path | None, typer.Option(help="Of the microphone that recorded them, a file that 'edgekd equalise' wrote.")
    ] = None,
    threads: EngineThreads = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace a table that exists.")] = False,
) -> None:
    """Classify every recording in a folder.

    The table has a row of probabilities for each file.
    """
    without_blas_threads()
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
                "Recordings made with the microphone, two minutes or more of many kinds of sound, without labels: a "
                "folder searched through all levels, or a file."
            )
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file to write, for --equaliser of listen and predict.")],
    gate: Annotated[
        float | None, typer.Option(help="Leave out windows below this level in dBFS, for instance -60.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    as_json: Json = False,
) -> None:
    """Measure a microphone's equaliser from recordings.

    It is the mean difference of each log-mel band from that of the training clips, which listen and predict can
    take off.
    """
    without_blas_threads()
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
                "Model files of 'edgekd export': one; in 2024 5=FILE 10=FILE ... 100=FILE; in 2025 a general .onnx "
                "file, and of recorders with their own a=FILE, s1=FILE ..."
            )
        ),
    ] = None,
    year: Annotated[
        int | None,
        typer.Option(help="2022 to 2025: whose form is written or checked; --check finds it in the files."),
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
    check: Annotated[Path | None, typer.Option(help="Check the submissions in a folder, and write nothing.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
) -> None:
    """Write and check a DCASE task 1 submission.

    Exit status 1: the organisers would refuse something.
    """
    from edgekd.dcase import submission as submitting
    from edgekd.dcase.check import check_submissions

    submitting.check_one_task(bool(models), init, check)
    if init is not None:
        print(f"{submitting.write_template(init, force=force)}: fill it in")
        return
    if check is not None:
        report = check_submissions(check, year, evaluation)
    else:
        report = submitting.write_submission(
            submitting.SubmissionOptions(
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
