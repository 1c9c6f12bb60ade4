"""Commands of the device: listen, its history, microphones, recordings, the service."""

import inspect
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd.cli.init import SIGNALLED
from edgekd.cli.options import by_table, listen_parameters, source_option
from edgekd.cli.root import Json, Model, say, without_blas_threads

app = typer.Typer()

service_app = typer.Typer(
    no_args_is_help=True,
    help="Run the listener as a systemd service. All but status need sudo.",
)
app.add_typer(service_app, name="service")


def listen(config: Path | None = None, **settings: Any) -> None:
    """Classify audio window by window, one decision per hop.

    SIGTERM and SIGINT end it, and so does a terminal that closes. Without a terminal SIGHUP reads configuration and
    model again; outputs stay as they are.
    """
    without_blas_threads()
    from edgekd.runtime.config import Config, override, read_config
    from edgekd.runtime.control import StoppedError
    from edgekd.runtime.program import run

    def read() -> Config:
        return override(Config() if config is None else read_config(config), by_table(settings))

    try:
        run(read, lambda line: print(line, flush=True), lambda line: say(f"edgekd: {line}"))
    except StoppedError as stop:
        if stop.number == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise typer.Exit(SIGNALLED + stop.number) from None


CONFIG_OPTION = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(
            help="A .toml file with the tables [model], [source], [decision], [output], [watch], [web], [mqtt], [hook],"
            " [history] and [clips], which have a key for each option here and more (see edgekd/runtime/README.md). "
            "Options override it; a source on the command line replaces the whole table. Paths in it are relative to "
            "the file; ~ and $NAME are expanded."
        ),
    ],
)
listen_signature = inspect.Signature([*listen_parameters(), CONFIG_OPTION])
listen.__signature__ = listen_signature  # type: ignore[attr-defined]
listen.__annotations__ = {each.name: each.annotation for each in listen_signature.parameters.values()}
app.command(epilog="Example: edgekd listen yard.wav --model models/synth-serfr24.int8.tflite")(listen)


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
    """Show which label was shown when.

    The newest comes last; times are local.
    """
    from edgekd.runtime.outputs.history import day as history_day
    from edgekd.runtime.outputs.history import query as past

    question = past.parse_query(file, since=since, until=until, label=label, day=day, draws=svg is not None)
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
    """List the microphones for 'listen --mic'."""
    import json

    from edgekd.modelfile.engine import silent_stderr
    from edgekd.runtime.source.microphones import microphones, to_text

    with silent_stderr():  # ALSA complains of what is not configured
        found = microphones()
    for line in [json.dumps(one._asdict()) for one in found] if as_json else [to_text(found)]:
        print(line)
    if as_json and not found:
        say(f"edgekd: {to_text(found)}")


@app.command(
    epilog=(
        'Example: edgekd record rain --out audio --count 2 --rate 16000 --command "arecord -q -f S16_LE -r 16000 -t'
        ' raw"'
    )
)
def record(
    label: Annotated[str, typer.Argument(help="The label, which is the name of the clips' folder.")],
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
    sample_rate: Annotated[
        int | None, typer.Option(help="Hz of the files, 1000 to 768000; by default that of the source.")
    ] = None,
    min_level: Annotated[
        float | None, typer.Option(help="Do not keep clips below this level in dBFS, for instance -60.")
    ] = None,
    mic: Annotated[str | None, source_option("mic")] = None,
    command: Annotated[str | None, source_option("command")] = None,
    channel: Annotated[int | None, source_option("channel")] = None,
    rate: Annotated[
        int | None,
        source_option(
            "rate", "Sample rate in Hz, 1000 to 768000: of a microphone by default its own, of a command --sample-rate."
        ),
    ] = None,
    channels: Annotated[int | None, source_option("channels")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a clip.")] = False,
) -> None:
    """Collect labelled clips from a microphone.

    Writes 16-bit wav files to OUT/LABEL and prints a line for each; states go to standard error.
    """
    from edgekd.runtime import record as recording
    from edgekd.runtime.source.child import SourceRequest

    order = recording.RecordSettings(label, out, place, seconds, count, sample_rate, min_level)
    line = recording.to_json if as_json else recording.to_text
    try:
        for made in recording.record(order, SourceRequest(mic, command, rate, channels, channel)):
            if isinstance(made, str):
                say(made)
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
    mic: Annotated[str | None, source_option("mic")] = None,
    command: Annotated[str | None, source_option("command")] = None,
    channel: Annotated[int | None, source_option("channel")] = None,
    rate: Annotated[
        int | None,
        source_option(
            "rate", "Sample rate in Hz, 1000 to 768000: of a microphone by default its own; a command needs it."
        ),
    ] = None,
    channels: Annotated[int | None, source_option("channels")] = None,
    as_json: Json = False,
) -> None:
    """Test the microphone and this machine.

    Exit status 1: a check fails. Exit status 2: the microphone gives no samples.
    """
    from edgekd.modelfile.zoo import model_file
    from edgekd.runtime.diagnose import examine
    from edgekd.runtime.source.child import SourceRequest

    report = examine(
        SourceRequest(mic, command, rate, channels, channel),
        None if model is None else model_file(model),
        seconds=seconds,
        wait_s=wait,
    )
    typer.echo(report.to_json().decode() if as_json else report.to_text())
    report.require()


Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        help="Prepare the files of another system below this directory instead of asking the systemd of this one.",
    ),
]


def _place(verb: str, root: Path | None, *, changes: bool = True) -> Any:
    """Where a verb works, and on which systemd."""
    from edgekd.service.paths import ServicePaths
    from edgekd.service.systemd import local_systemd

    if root is not None:
        return ServicePaths(root), None
    return ServicePaths(Path("/")), local_systemd(verb, str(Path(sys.executable).with_name("edgekd")), changes=changes)


@service_app.command("install", epilog="Example: edgekd service install models/synth-serfr24.int8.tflite --root image")
def service_install(
    model: Annotated[
        Path | None,
        typer.Argument(
            help=(
                "A model file that 'edgekd export' wrote, or the name of one in 'edgekd zoo'; without it the "
                "installed one stays, or else the default of 'edgekd listen' is installed."
            )
        ),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            help=(
                "With --root: the interpreter as the service will see it; /opt/edgekd/bin/python. Otherwise that of "
                "this command."
            )
        ),
    ] = None,
    root: Root = None,
) -> None:
    """Install or update the service, and start it.

    Writes unit, user and configuration, verifies the model, and starts the listener, now and with the system.
    """
    from edgekd.modelfile.zoo import model_file
    from edgekd.service.paths import INSTALL_FOLDER
    from edgekd.service.verbs import install, own_python

    place, manager = _place("install", root)
    interpreter = python or (own_python() if root is None else f"{INSTALL_FOLDER}/bin/python")
    typer.echo("\n".join(install(place, manager, None if model is None else model_file(model), interpreter)))


@service_app.command("status", epilog="Example: edgekd service status --root image")
def service_status(
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Show state, model and configuration of the service.

    Exit status 1: something is wrong; the output says what to do.
    """
    from edgekd.service.status import status

    report = status(*_place("status", root, changes=False))
    typer.echo(report.to_json().decode() if as_json else report.to_text())
    report.require()


@service_app.command("update", epilog="Example: edgekd service update models/synth-serfr24.int8.onnx --root image")
def service_update(
    model: Model,
    root: Root = None,
) -> None:
    """Give the running service another model.

    The model is verified first. If the listener does not go on with it, the model before comes back.
    """
    from edgekd.modelfile.zoo import model_file
    from edgekd.service.verbs import update

    place, manager = _place("update", root)
    typer.echo("\n".join(update(place, manager, model_file(model))))


@service_app.command("rollback", epilog="Example: edgekd service rollback --root image")
def service_rollback(root: Root = None) -> None:
    """Go back to the model before the one in use.

    Each call goes back by one; five are kept.
    """
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
    """Stop and remove the service.

    Configuration and models stay.
    """
    from edgekd.service.verbs import remove

    typer.echo("\n".join(remove(*_place("remove", root), purge=purge)))
