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
