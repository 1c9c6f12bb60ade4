"""Names of files, labels and splits, as people write them."""

import unicodedata
from collections.abc import Iterable


def as_utf8(name: str) -> str:
    """A file name that can be printed and stored in JSON: bytes that are not UTF-8 become \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def alike(names: Iterable[str]) -> list[list[str]]:
    """The groups of two or more names that a reader takes for one: they differ in case, or in the way that an accented
    letter is composed, as between macOS and Linux."""
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
    return [group for group in groups.values() if len(group) > 1]
