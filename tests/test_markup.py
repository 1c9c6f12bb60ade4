"""Elements of HTML and SVG: valid XML whatever texts they are given, and texts stay texts."""

from xml.etree import ElementTree as ET

import pytest

from edgekd.markup import Markup, element, fragment

HOSTILE = [
    "<script>alert(1)</script>",
    "\"' onload='x' a=\"",
    "</title></svg>&amp;&#0;",
    "]]><!-- --><?x?>",
    "line\nbreak\ttab\r",
    "\x00\x07\x1b\x7f\x85\u2028\u202e\ufffe\udc80",
    "é 🎧",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_and_attributes_are_inert_and_read_back(text):
    shown = text if text.isprintable() else text.encode("unicode_escape", "backslashreplace").decode()
    written = element("text", text, element("title", text), text, aria_label=text)
    written.encode()
    read = ET.fromstring(written)
    assert (read.text, read[0].text, read[0].tail) == (shown, shown, shown)
    assert read.attrib == {"aria-label": shown}
    assert [each.tag for each in read.iter()] == ["text", "title"]


def test_attributes_have_their_names_and_none_is_left_out():
    written = element("text", class_="a", text_anchor="end", viewBox="0 0 1 1", title="", hidden=None)
    assert written == '<text class="a" text-anchor="end" viewBox="0 0 1 1" title=""></text>'


def test_floats_are_rounded_to_a_tenth():
    assert element("g", 1.25, " ", 3.0, " ", 7, x=12.06, y=2.0, z=10**7) == '<g x="12.1" y="2" z="10000000">1.2 3 7</g>'


def test_markup_is_escaped_no_more_and_text_made_of_it_is():
    inner = element("b", "1 < 2")
    assert element("p", inner, fragment(inner, "&", between="\n")) == f"<p>{inner}{inner}\n&amp;</p>"
    assert fragment(f"{inner}") == "&lt;b&gt;1 &amp;lt; 2&lt;/b&gt;"
    assert element("p", title=Markup('"')) == '<p title="&quot;"></p>'


def test_a_meta_element_has_no_end():
    assert element("meta", name="a", http_equiv="b") == '<meta name="a" http-equiv="b">'
