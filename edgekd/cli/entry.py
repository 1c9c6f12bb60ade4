"""The entry point of `edgekd`: runs a command line, and turns whatever stops it into one line and an exit status."""

import errno
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
import typer.main

from edgekd.cli import data, device, model, train, weights
from edgekd.cli.init import leave_first_process
from edgekd.cli.root import app, say
from edgekd.cli.streams import STANDARD_OUTPUT, close_output, prepare_streams

for subject in (data, weights, train, model, device):  # in the order of `edgekd --help`
    app.add_typer(subject.app)

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""Base of all that a command line can do wrong. Typer exports no name for it, and takes it from click or from a copy of
its own."""
MACHINE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
"""Failures that are neither the user's command nor a bug: a full disk, a lost permission."""
INTERRUPTED, PIPE_CLOSED = 130, 141
"""Exit statuses of a shell for what SIGINT and SIGPIPE end."""

MAX_LINE = 4000
"""Most characters of a line on standard error."""


def main() -> None:
    """Entry point, which always exits: whatever stops a command becomes one line on standard error and an exit
    status."""
    from edgekd.errors import EdgekdError, missing_extra

    leave_first_process()
    prepare_streams()
    try:
        run(sys.argv[1:])
        sys.stdout.flush()
        sys.exit(0)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except EdgekdError as error:
        _stop(error.args, error.exit_status)
    except USAGE_ERROR as error:
        from edgekd.train.launch import first_process  # here, because a start needs no logging

        _stop(_usage_lines(error) if first_process() else [], EdgekdError.exit_status)
    except KeyboardInterrupt as stop:
        _stop([str(stop) or "interrupted"], INTERRUPTED)
    except BrokenPipeError:  # the reader has seen enough
        close_output()
        sys.exit(PIPE_CLOSED)
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        _stop(missing.args, missing.exit_status)
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise
        if error.filename == STANDARD_OUTPUT:
            close_output()
        _stop(
            [f"{error.filename or 'a file'}: {error.strerror}; free space or choose a place that can be written"],
            EdgekdError.exit_status,
        )


def run(arguments: list[str]) -> None:
    """Run a command line; Typer's own main would answer usage errors in several lines and an interrupt with none."""
    command = typer.main.get_command(app)
    with command.make_context("edgekd", arguments) as context:
        command.invoke(context)


def _usage_lines(error: Any) -> list[str]:
    """What is wrong with a command line, or the help that a command without arguments gets."""
    lines = str(error.format_message()).splitlines()
    if len(lines) > 1:
        return lines
    return [f"{''.join(lines).rstrip('.')}; see {error.ctx.command_path if error.ctx else 'edgekd'} --help"]


def _stop(lines: Sequence[str], status: int) -> NoReturn:
    """Print lines and exit. They may quote a file of any origin, so none controls the terminal or becomes two lines."""
    from edgekd.text import cut, printable

    shown = [cut(printable(line), MAX_LINE) for line in lines]
    if shown:  # none where another process has the same to say
        for line in shown if len(shown) > 1 else [f"edgekd: {shown[0]}"]:
            say(line)
    sys.exit(status)
