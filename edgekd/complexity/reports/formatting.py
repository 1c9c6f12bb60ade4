"""Names and numbers as text for the reports. Names come from files of any origin, so `printable` escapes them."""

from collections.abc import Iterable

from edgekd.text import printable

NAME_WIDTH = 32
"""Most characters of a name in a table."""


def encodable(text: str) -> str:
    """Text that UTF-8 can encode. Bytes of a file name that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def shorten(name: str) -> str:
    """A name of at most `NAME_WIDTH` characters: the end of a longer one, which distinguishes layers better than the
    beginning."""
    name = printable(name)
    return name if len(name) <= NAME_WIDTH else "..." + name[3 - NAME_WIDTH :]


def shape(sizes: Iterable[int] | None) -> str:
    """A shape as `1x8x6x4`; empty for None."""
    return "" if sizes is None else "x".join(str(size) for size in sizes)


def number(value: int | float | None) -> str:
    """A number as `1,234`, or `-` for None."""
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def used(value: int | float | None, limit: int | float) -> str:
    """Share of a limit as `97.4 %`; empty for None."""
    return "" if value is None else f"{100 * value / limit:.1f} %"


def brief(value: int, unit: str) -> str:
    """A count with a unit in a few characters: `126.4 kB`, `29.2 MMAC`."""
    size, prefix = next(((size, prefix) for size, prefix in ((1_000_000, "M"), (1_000, "k")) if value >= size), (1, ""))
    return f"{value / size:.4g} {prefix}{unit}"
