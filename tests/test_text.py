"""Numbers with nouns, aligned tables, Markdown tables and CSV."""

import csv
import io
import json

import pytest

from edgekd.text import columns, counted, csv_bytes, listing, markdown_table, printable_json


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (counted(1, "clip"), "1 clip"),
        (counted(0, "clip"), "0 clips"),
        (counted(2000, "clip"), "2,000 clips"),
        (counted(1, "clip is", "clips are"), "1 clip is"),
        (counted(2, "clip is", "clips are"), "2 clips are"),
        (counted(0.9999, "step", form=".3g"), "1 step"),
        (counted(0.25, "step", form=".3g"), "0.25 steps"),
    ],
)
def test_the_noun_agrees_with_the_number_as_printed(text, expected):
    assert text == expected


def test_columns_are_aligned_and_lines_end_without_spaces():
    rows = [["stem", "27", "ok"], ["classifier", "1,000", ""]]
    assert columns(["layer", "macs", ""], rows) == [
        "layer        macs",
        "stem           27  ok",
        "classifier  1,000",
    ]


def test_columns_without_a_header_with_an_indent():
    assert columns((), [["a", "bb", "1"], ["aa", "b", "10"]], left=2, indent="  ") == ["  a   bb   1", "  aa  b   10"]
    assert columns((), []) == []


def test_rows_of_different_lengths_are_an_error():
    with pytest.raises(ValueError, match="shorter"):
        columns(["a", "b"], [["1"]])


def test_a_markdown_table_aligns_numbers_to_the_right_and_escapes_bars():
    assert markdown_table(["name", "macs"], [["a|b", 1]]) == "| name | macs |\n| --- | ---: |\n| a\\|b | 1 |"
    assert markdown_table(["a", "b"], [], left=2).splitlines()[1] == "| --- | --- |"


def test_csv_is_read_back_as_it_was():
    rows = [["a,b", '"quoted"'], ["two\nlines", "ü"], ["", "1.5"]]
    content = csv_bytes(["x", "y"], rows)
    assert content.startswith(b"x,y\n")
    assert b"\r" not in content
    assert [*csv.reader(io.StringIO(content.decode(), newline=""))] == [["x", "y"], *rows]


def test_names_in_tables_and_lists_stay_on_their_line():
    assert columns((), [["a\n\x1b[2J", "1"]]) == ["a\\n\\x1b[2J  1"]
    assert listing(["雨\u3000音", "b\r\u202e"]) == "雨\u3000音, b\\r\\u202e"


def test_json_keeps_its_line_ends_and_its_values():
    document = json.dumps({"name": "a\n\x9b\u2028\x7f"}, indent=1, ensure_ascii=False)
    shown = printable_json(document)
    assert shown.count("\n") == document.count("\n")
    assert not {*"\x9b\u2028\x7f"} & {*shown}
    assert json.loads(shown) == json.loads(document)
