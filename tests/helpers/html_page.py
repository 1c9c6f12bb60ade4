"""Parses an HTML page: text, elements, and whether every element is closed."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta"}
"""Elements that are not closed."""


@dataclass
class Parsed(HTMLParser):
    """text: of the page, without its style. elements: (tag, attributes) in order. open: tags of elements that are not
    closed yet."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self):
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def tags(self, name):
        """Attributes of each element with this tag."""
        return [attributes for tag, attributes in self.elements if tag == name]

    def titles(self):
        """All title attributes."""
        return [attributes["title"] for _, attributes in self.elements if attributes.get("title")]


def parsed(page: bytes) -> Parsed:
    """The parsed page, which must be well formed, refer to no other file and run no script."""
    found = Parsed()
    found.feed(page.decode())
    found.close()
    assert found.open == []
    kinds = {tag for tag, _ in found.elements}
    assert not kinds & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "use", "image"}
    names = {name for _, attributes in found.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")} | names & {
        "src",
        "srcset",
        "action",
        "data",
        "xlink:href",
    }
    ids = {attributes["id"] for _, attributes in found.elements if "id" in attributes}
    assert all(each["href"].removeprefix("#") in ids for each in found.tags("a"))
    style = page.decode().partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    return found
