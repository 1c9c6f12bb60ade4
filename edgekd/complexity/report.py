"""Writes what was found for people and for programs; a further format is a further function in `FORMATS`."""

from collections.abc import Callable, Sequence

from edgekd.complexity.badge import badge
from edgekd.complexity.document import Checked, json
from edgekd.complexity.junit import junit
from edgekd.complexity.markdown import markdown
from edgekd.complexity.table import table

FORMATS: dict[str, Callable[[Sequence[Checked]], str]] = {
    "table": table, "json": json, "markdown": markdown, "junit": junit, "badge": badge,
}
