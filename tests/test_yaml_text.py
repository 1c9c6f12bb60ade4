"""YAML documents, read back by PyYAML."""

import pytest
import yaml

from edgekd.yaml_text import yaml_text

NASTY = 'quote " colon: dash - # {brace} [x]\n---\n \\ tab\t \x85 \u2028 é 🎧 yes'
TEXTS = [
    NASTY,
    *("", " ", "  leading", "trailing ", "\ttab", "line\n", "\n\nlines\n\n", "cr\r\n", "a: b", "a #b", "- a", "? a"),
    *("yes", "No", "on", "y", "n", "null", "~", "true", "Null", "=", "<<", ".nan", ".inf", "-"),
    *("1", "-2.5", "1e3", "1.0e-05", "0x1f", "0o17", "017", "1_000", "1:20", "2001-01-01", "+1", ".5"),
    *("\x00", "\x07\x1b[31m", "\x7f\x9f", "\ufeff", "\ufffe\uffff", "\ud800", "a\udc80b", "\u202e", "🎧", "\U0010ffff"),
    *("'", '"', "'a", "\\", "%", "@a", "`a", "!tag", "&anchor", "*alias", "|", ">", "{", "[", "a, b", "---", "..."),
    *("word " * 2000, "x" * 5000, " " * 300 + "x"),
]


@pytest.mark.parametrize(
    "value",
    [
        {"a": {"b": [1, -2.5, 10**30, None, True, False, *TEXTS]}},
        {"list": [{"x": 1, "y": ["z", {"w": None}]}, [1, [2]]]},
        {text: number for number, text in enumerate(TEXTS)},
        {"empty": {}, "none": [], "text": "null"},
    ],
)
def test_what_is_written_is_read_back_in_its_order(value):
    read = yaml.safe_load(yaml_text(value))
    assert read == value
    assert list(read) == list(value)


@pytest.mark.parametrize("text", TEXTS)
def test_a_string_begins_no_other_document_and_stays_on_its_line(text):
    assert yaml_text({"key": text, "last": 1}).count("\n") == 2
    assert list(yaml.safe_load_all(yaml_text({"key": text}))) == [{"key": text}]


@pytest.mark.parametrize("number", [1e-05, 1e20, 0.1 + 0.2, 1.0, -0.0, 5e-324, 1.7976931348623157e308])
def test_floats_are_read_as_floats(number):
    read = yaml.safe_load(yaml_text({"a": number}))["a"]
    assert repr(read) == repr(number)


@pytest.mark.parametrize("text", ["1e3", "0o17", "y", "N", "1.5", "12e03"])
def test_strings_that_other_versions_of_yaml_read_as_numbers_or_booleans_have_quotes(text):
    assert yaml_text({"key": text}) == f'key: "{text}"\n'


def test_numbers_that_are_not_finite_are_null():
    assert yaml.safe_load(yaml_text({"a": float("nan"), "b": float("inf")})) == {"a": None, "b": None}


def test_a_value_in_two_places_is_written_twice():
    shared = [1]
    assert yaml_text({"one": shared, "two": shared}).count("- 1") == 2
