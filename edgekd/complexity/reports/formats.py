"""The formats of a report. A new format is a new function in `FORMATS`."""

from collections.abc import Callable, Sequence

from edgekd.complexity.reports.badge import badge
from edgekd.complexity.reports.document import CheckResult, json
from edgekd.complexity.reports.junit import junit
from edgekd.complexity.reports.markdown import markdown
from edgekd.complexity.reports.table import table

FORMATS: dict[str, Callable[[Sequence[CheckResult]], str]] = {
    "table": table,
    "json": json,
    "markdown": markdown,
    "junit": junit,
    "badge": badge,
}
"""Name on the command line -> function from results to text."""
