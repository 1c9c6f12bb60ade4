"""Text for people: counts with their nouns, lists of names, aligned tables, Markdown tables, CSV."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

LISTED = 5
"""How many names `listing` shows before it says how many more there are."""

DIGITS = re.compile(r"(\d+)")


def counted(number: float, one: str, many: str = "", *, form: str = ",") -> str:
    """A number with its noun: "1 clip", "2,000 clips".

    Args:
        number: the number shown.
        one: what follows 1, with the verb where it differs: "clip is".
        many: what follows any other number; "" is `one` with an s.
        form: format of the number, as of `format`.
    """
    shown = format(number, form)
    return f"{shown} {one if shown == '1' else many or one + 's'}"


def columns(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, indent: str = "") -> list[str]:
    """Lines of an aligned table for a terminal.

    Args:
        header: titles; empty for a table without a header line.
        rows: cells as text, as many in each row.
        left: the first `left` columns are aligned to the left, the others, which are numbers, to the right.
        indent: begins every line.
    """
    lines = [*([header] if header else []), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        indent
        + "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> str:
    """A Markdown table; the first `left` columns are aligned to the left, the others, which are numbers, to the
    right."""
    rule = ["---" if index < left else "---:" for index in range(len(header))]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in (header, rule, *rows)
    )


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV table in UTF-8 with a header and lines that end in "\\n"."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def listing(names: Sequence[str]) -> str:
    """The first `LISTED` names, and how many more there are: "a, b, c, d, e and 2 more"."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def natural_order(name: str) -> list[str | int]:
    """Sort key that orders runs of digits as numbers: fold2 before fold10."""
    return [int(part) if index % 2 else part for index, part in enumerate(DIGITS.split(name))]
