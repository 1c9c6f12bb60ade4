"""HTML and SVG as text. Texts and attributes are escaped here, and by no caller."""

from html import escape

from edgekd.text import printable

SVG = "http://www.w3.org/2000/svg"
"""`xmlns` of an SVG file."""
VOID = frozenset({"meta"})
"""Elements of HTML that have no end."""


class Markup(str):
    """Text that is markup already."""


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. children: its content, as in `fragment`. attributes: by their names with `_` for `-`, and `class_`;
    None leaves one out."""
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    start = " ".join([name, *(f'{key}="{_escaped(value)}"' for key, value in named.items())])
    return Markup(f"<{start}>{fragment(*children)}{'' if name in VOID else f'</{name}>'}")


def fragment(*children: object, between: str = "") -> Markup:
    """Children side by side. `Markup` stays and all else is text, with Python escapes for what does not print: names
    come from data sets and files of unknown authors. Floats are rounded to a tenth. between: markup between two."""
    return Markup(between.join(each if isinstance(each, Markup) else _escaped(each) for each in children))


def _escaped(value: object) -> str:
    return escape(printable(f"{round(value, 1):g}" if isinstance(value, float) else str(value)))
