"""Writes what was found for people and for programs; a further format is a further function in `FORMATS`."""

from collections.abc import Callable, Sequence

from edgekd.complexity.reports.badge import badge
from edgekd.complexity.reports.document import Checked, json
from edgekd.complexity.reports.junit import junit
from edgekd.complexity.reports.markdown import markdown
from edgekd.complexity.reports.table import table

FORMATS: dict[str, Callable[[Sequence[Checked]], str]] = {
    "table": table,
    "json": json,
    "markdown": markdown,
    "junit": junit,
    "badge": badge,
}
