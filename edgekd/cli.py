"""The command line: typer commands that import what they need inside, call one function, and print. No logic here."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(name="edgekd", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
                  help="From a folder of labelled audio to a live int8 acoustic scene classifier on a Raspberry Pi.")
data_app = typer.Typer(no_args_is_help=True, help="Prepare, synthesise and inspect clip stores.")
app.add_typer(data_app, name="data")

# --- data ---

# --- train ---

# --- models ---


@app.command()
def check(
    model: Annotated[Path, typer.Argument(help="An exported .tflite or .onnx file, ours or anybody's.")],
    target: Annotated[str, typer.Option(help="Name of a shipped target, or a path to a .toml file.")] = "dcase2023",
    report_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Count parameter bytes and MACs of an exported file and judge them; exit status 1 when a budget is exceeded."""
    from edgekd.pipeline.check import check as run_check
    from edgekd.pipeline.check import require_ok

    text, verdict = run_check(model, target, report_format)
    typer.echo(text)
    require_ok(model, verdict)


@app.command()
def info(
    model: Annotated[Path, typer.Argument(help="A model file that 'edgekd export' wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what travels inside a model file: labels, front end, quantisation, counts, provenance."""
    from edgekd.pipeline.info import info as describe

    typer.echo(describe(model, as_json))


# --- live ---

# --- demo ---


def main() -> None:
    """Entry point: a deliberate error becomes one line on standard error and its exit status."""
    from edgekd.errors import EdgekdError

    try:
        app()
    except EdgekdError as error:
        print(f"edgekd: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("edgekd: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
