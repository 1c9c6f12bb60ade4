"""Words and numbers of the reports. Names come from files that anybody may have made, so what does not print is shown
escaped."""

from collections.abc import Iterable

NAME_WIDTH = 32


def plain(text: str) -> str:
    """Text on one line without control characters, lone surrogates and the like: those are escaped as Python writes
    them."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "backslashreplace").decode()
        for letter in text
    )


def encodable(text: str) -> str:
    """Text that UTF-8 can hold: bytes of a file's name that are none come back escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def shorten(name: str) -> str:
    """The end of a long name tells layers apart better than its beginning."""
    name = plain(name)
    return name if len(name) <= NAME_WIDTH else "..." + name[3 - NAME_WIDTH :]


def shape(sizes: Iterable[int] | None) -> str:
    """`1x8x6x4`; empty where there is none."""
    return "" if sizes is None else "x".join(str(size) for size in sizes)


def number(value: int | float | None) -> str:
    """`1,234`, or `-` where there is none."""
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def used(value: int | float | None, limit: int | float) -> str:
    """Share of a limit: `97.4 %`."""
    return "" if value is None else f"{100 * value / limit:.1f} %"


def brief(value: int, unit: str) -> str:
    """`126.4 kB`, `29.2 MMAC`: for badges."""
    size, prefix = next(((size, prefix) for size, prefix in ((1_000_000, "M"), (1_000, "k")) if value >= size), (1, ""))
    return f"{value / size:.4g} {prefix}{unit}"
