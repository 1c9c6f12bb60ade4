"""The root of the command line, and the options that several subjects share."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

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

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="key=value of the recipe, e.g. train.epochs=20; may be repeated.")
]
TeachSettings = Annotated[
    list[str] | None, typer.Option("--teach-set", help="key=value of all teachers; may be repeated.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of torch in each process; all cores by default.")]
Accelerator = Annotated[str, typer.Option(help="auto, cpu or gpu.")]
Store = Annotated[Path, typer.Option(help="A store of 'edgekd data'.")]
Model = Annotated[Path, typer.Argument(help="A model file of 'edgekd export', or a name in 'edgekd zoo'.")]
Engine = Annotated[str | None, typer.Option(help="litert or onnxruntime; by default the one that opens the file.")]
EngineThreads = Annotated[int, typer.Option(help="Threads of the engine.")]
AcceptLicence = Annotated[bool, typer.Option("--accept-licence", help="The licence, which is shown, is accepted.")]
Hop = Annotated[float, typer.Option(help="Seconds between the starts of two windows.")]


def say(line: str) -> None:
    """Print a line for people, beside the results on standard output. It may quote a file of any origin. Nothing stops
    where it cannot be printed."""
    from edgekd.text import printable

    with suppress(OSError):
        print(printable(line), file=sys.stderr)


def licence_accepted(text: str, accepted: bool) -> bool:
    """Show a text about a licence; whether it is accepted, by the option or on the terminal."""
    for line in text.splitlines():
        say(line)
    return accepted or (sys.stdin is not None and sys.stdin.isatty() and typer.confirm("Do you accept it?", err=True))


def without_blas_threads() -> None:
    """Keep BLAS to one thread, if numpy is not imported yet: a window's front end is small, and threads for it cost
    eight times what they compute."""
    os.environ.setdefault(BLAS_THREADS, "1")
