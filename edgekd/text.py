"""Text for people: counts with their nouns, lists of names, text from elsewhere, aligned tables, Markdown tables, CSV,
JSON."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

LISTED = 5
"""How many names `listing` shows before it says how many more there are."""
MAX_SHOWN_CHARS = 120
"""Characters of text from elsewhere that a line shows."""

DIGITS = re.compile(r"(\d+)")


def counted(number: float, one: str, many: str = "", *, form: str = ",") -> str:
    """A number and its noun: "1 clip", "2,000 clips".

    Args:
        number: the number.
        one: text after 1, with the verb if that differs: "clip is".
        many: text after any other number; "" for `one` with an s.
        form: format specification of the number.
    """
    shown = format(number, form)
    return f"{shown} {one if shown == '1' else many or one + 's'}"


def columns(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, indent: str = "") -> list[str]:
    """Lines of an aligned table for a terminal.

    Args:
        header: titles of the columns; empty for no header line.
        rows: cells as text, the same number in each row.
        left: number of columns, from the first, that are aligned to the left; the others are aligned to the right.
        indent: start of every line.
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
    """A Markdown table. left: as in `columns`."""
    rule = ["---" if index < left else "---:" for index in range(len(header))]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in (header, rule, *rows)
    )


def json_bytes(document: object) -> bytes:
    """A JSON document in UTF-8, indented by two spaces, with a line end. Structs and dataclasses become objects."""
    import msgspec  # late: the capture process imports this module and stays small

    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[object]], *, errors: str = "strict") -> bytes:
    """A CSV table in UTF-8 with a header and lines that end in "\\n"; errors: as of `str.encode`."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode(errors=errors)


def listing(names: Sequence[str]) -> str:
    """The first `LISTED` names, and how many more there are: "a, b, c, d, e and 2 more"."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def printable(text: str) -> str:
    """`text` in one line of at most `MAX_SHOWN_CHARS` characters, without control characters, which could move a
    terminal's cursor."""
    visible = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return visible if len(visible) <= MAX_SHOWN_CHARS else visible[: MAX_SHOWN_CHARS - 3] + "..."


def natural_order(name: str) -> list[str | int]:
    """Sort key that orders runs of digits as numbers: fold2 before fold10."""
    return [int(part) if index % 2 else part for index, part in enumerate(DIGITS.split(name))]
