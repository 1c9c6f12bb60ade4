"""Reads the status lines by which `OutputGroup.status` reports errors of outputs."""

from edgekd.runtime.config_tables import OUTPUT_TABLES
from edgekd.runtime.outputs.base import WORKS_AGAIN
from edgekd.runtime.source.health import StatusLine


def output_error(line: StatusLine) -> tuple[str, str] | None:
    """Name and error of the output that a line is about, "" for an error that has ended; None for a line about the
    source."""
    name, colon, error = line.reason.partition(": ")
    if not colon or name not in OUTPUT_TABLES:
        return None
    return name, "" if error == WORKS_AGAIN else error
