"""The page: what must be on it is, names cannot do harm, and it can be read in light and dark."""

import itertools
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from helpers.html_page import parsed

from edgekd.markup import element
from edgekd.metrics.analysis import ConfusedPair, Mistake, Share, analyse
from edgekd.metrics.predictions import LabelledPredictions
from edgekd.report import charts, sections
from edgekd.report.page import STYLE, Page, Tile, finding_sections, render, score_rows, score_tiles
from edgekd.report.sections import BarsSection, CurvesSection, ListingSection, MatrixSection, PairsSection, TableSection

HOSTILE = ("<script>alert(1)</script>", "\"onmouseover='x' a", "</style><b>&amp;", "line\nbreak\u202e\udc80\x00")


def found_of(labels, count=40, recorders=None):
    rng = np.random.default_rng(0)
    truth = np.arange(count) % len(labels)
    logits = rng.normal(0, 1.5, (count, len(labels))) + 2 * np.eye(len(labels))[truth]
    return analyse(
        LabelledPredictions(
            logits,
            np.zeros(count, bool),
            np.arange(count),
            truth,
            np.arange(count),
            tuple(labels),
            tuple(f"{labels[i]}/{n}.wav" for n, i in enumerate(truth)),
            tuple(recorders or [""] * count),
        )
    )


def page_with(*parts, title="model.tflite"):
    return render(Page("test", title, "lead", [Tile("figure", "1")], parts))


def test_all_that_was_found_is_on_the_page():
    found = found_of(["cat", "cow", "dog"], recorders=["phone"] * 20 + ["array"] * 20)
    page = parsed(
        render(
            Page(
                "evaluation",
                "m.tflite",
                "on a store",
                score_tiles(found),
                [
                    TableSection("Scores", score_rows(found), ("", *"abcdef")),
                    *finding_sections(found, ("cat", "cow", "dog"), ""),
                ],
            )
        )
    )
    accuracy = found.scores.clips.accuracy
    low, high = (100 * getattr(found.intervals["clips"]["accuracy"], end) for end in ("low", "high"))
    assert page.text.count(f"{100 * accuracy:.1f} %") >= 2
    assert f"({low:.1f} to {high:.1f})" in page.text
    assert f"{found.scores.windows.calibration_error:.4f}" in page.text
    for title in (
        "Accuracy per label",
        "Accuracy per recorder",
        "Confusion matrix",
        "Most confused pairs",
        "What the confidence is worth",
    ):
        assert page.text.count(title) == 2  # in the list of sections, and over its own
    for pair in found.pairs:
        assert f"{' and '.join(pair.labels)} {len(pair.mistakes)} of {pair.clips} clips" in page.text
        assert all(mistake.path in page.text for mistake in pair.mistakes)
    confusion = found.scores.confusion
    assert f"cat: {confusion[0, 0]} of {confusion[0].sum()} correct" in page.titles()


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_data_sets_are_shown_and_inert(name):
    found = found_of([name, "other"])
    raw = page_with(
        TableSection("t", [[name, name]]),
        TableSection("u", [[name, name]], (name, name), verdict=name, note=name),
        ListingSection("l", name),
        CurvesSection("c", {name: [(1, 2.0), (2, 1.0)]}),
        *finding_sections(found, (name, "other"), name),
        title=name,
    )
    page = parsed(raw)
    shown = name.replace("\n", "\\n").replace("\u202e", "\\u202e").replace("\udc80", "\\udc80").replace("\x00", "\\x00")
    assert page.text.count(" ".join(shown.split())) > 10
    assert not re.search(rb"<b>&amp;|<script|\"on", raw)


def drawn(name):
    """Tags and names of attributes in each section of a page whose texts are all `name`."""
    sections = [
        TableSection(name, [[name, name]], (name, name), verdict=name, note=name),
        ListingSection(name, name),
        CurvesSection(name, {name: [(1, 2.0), (2, 1.0)]}),
        *finding_sections(found_of([name, "other"], recorders=[f"{name}.", "b"] * 20), (name, "other"), name, name),
    ]
    read = [ET.fromstring(element("div", each.badge(), each.body())) for each in sections]
    return [[(each.tag, *each.attrib) for each in root.iter()] for root in read]


@pytest.mark.parametrize("name", HOSTILE)
def test_sections_are_valid_xml_and_names_add_nothing_to_them(name):
    assert drawn(name) == drawn("name")


def test_a_browser_is_told_to_run_and_load_nothing():
    policy = [
        each["content"]
        for each in parsed(page_with()).tags("meta")
        if each.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert b"http:" not in page_with()
    assert b"https:" not in page_with()


def test_equal_analyses_give_equal_bytes():
    first, second = (page_with(*finding_sections(found_of(["a", "b"]), ("a", "b"), "")) for _ in range(2))
    assert first == second


def test_bars_are_as_long_as_the_accuracy_and_the_worst_comes_first():
    page = parsed(page_with(BarsSection("bars", (Share("good", 3, 4), Share("bad", 1, 8)))))
    assert [each["style"] for each in page.tags("b")] == ["width:12.5%", "width:75.0%"]
    assert "bad 12.5 % 1 of 8 good 75.0 % 3 of 4" in page.text


def test_a_cell_s_shade_is_its_share_of_the_row_and_zeros_are_blank():
    raw = charts.matrix(("a", "b"), np.array([[9, 1], [0, 0]]))
    assert 'class="r5"' in raw
    assert 'class="w1"' in raw
    assert 'title="a taken for b: 1 of 10"' in raw
    assert ">0<" not in raw


def test_the_matrix_names_every_row_and_column_and_scrolls_by_keyboard():
    labels = [f"label {i}" for i in range(50)]
    page = parsed(page_with(MatrixSection("Confusion matrix", labels, np.eye(50, dtype=np.int64))))
    assert [each["title"] for each in page.tags("th")] == [*labels, *labels]
    assert [each["aria-label"] for each in page.tags("div") if each.get("tabindex") == "0"] == ["Confusion matrix"]


def test_too_many_labels_give_no_matrix():
    many = sections.MATRIX_LABELS + 1
    page = parsed(page_with(MatrixSection("m", ["x"] * many, np.zeros((many, many), np.int64))))
    assert f"{many} labels are too many" in page.text
    assert not page.tags("table")


def test_lists_of_pairs_and_clips_are_bounded_and_count_the_rest():
    mistakes = tuple(Mistake(f"{i}.wav", "a", "b", 0.9, 0.1) for i in range(sections.PATHS + 7))
    pairs = [
        ConfusedPair(("a", "b"), 99, mistakes),
        *[ConfusedPair(("c", str(i)), 9, mistakes[:2]) for i in range(sections.PAIRS)],
    ]
    page = parsed(page_with(PairsSection("pairs", pairs, "")))
    assert "and 7 more" in page.text
    assert "Not listed: 1 more pair, with at most 2 such clips each" in page.text
    assert [("open" in each) for each in page.tags("details")] == [True] * 3 + [False] * (sections.PAIRS - 3)
    assert "No clip was taken for another" in parsed(page_with(PairsSection("pairs", [], ""))).text


@pytest.mark.parametrize(
    "values",
    [[(1, 0.5)], [(1, 2.0), (2, 2.0)], [(1, 1e-9), (500, 3e-9)], [(1, 0.0), (2, 9.9)], [(1, -5e12), (2, 1e12)]],
)
def test_a_curve_stays_within_its_chart_and_names_its_ends(values):
    raw = charts.lines("loss", values)
    assert f"<b>{values[-1][1]:.4g}</b>" in raw
    assert f"to {values[-1][1]:.4g} in epoch {values[-1][0]}" in raw
    points = re.findall(r'points="([^"]*)"', raw)
    assert len(points) == (len(values) > 1)
    for x, y in (map(float, point.split(",")) for each in points for point in each.split()):
        assert charts.LEFT <= x <= charts.WIDTH
        assert 0 <= y <= charts.HEIGHT - charts.BOTTOM + 0.1
    assert 1 <= raw.count('class="grid"') <= 6


def test_an_exceeded_limit_is_in_words_and_marked():
    costs = TableSection("costs", [["a", "b"]], verdict="over budget", ok=False)
    page = parsed(render(Page("k", "t", "l", [Tile("bytes", "9", "of 8", ok=False)], [costs])))
    assert "over budget" in page.text
    assert [each["class"] for each in page.tags("em")] == ["bad"]
    assert "tile bad" in [each.get("class") for each in page.tags("div")]


def colours(dark):
    """Variables of the style, light ones with those of the dark page over them."""
    light, _, night = STYLE.read_text(encoding="utf-8").partition("@media (prefers-color-scheme: dark)")
    pairs = re.findall(r"--(\w+): (#[0-9a-f]{6})", light + (night if dark else ""))
    return {name: [int(value[i : i + 2], 16) / 255 for i in (1, 3, 5)] for name, value in pairs}


def contrast(a, b):
    """Of WCAG 2, 1 to 21."""

    def luminance(rgb):
        return sum(
            weight * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
            for weight, c in zip((0.2126, 0.7152, 0.0722), rgb, strict=True)
        )

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_lines_have_the_contrast_of_wcag_aa(dark):
    colour = colours(dark)
    text = [(front, back) for front in ("text", "quiet", "good", "bad", "link") for back in ("page", "panel")]
    text += [
        (f"{kind}{shade}t", f"{kind}{shade}") for kind, shade in itertools.product("rw", range(1, charts.LEVELS + 1))
    ]
    assert {
        pair: contrast(*(colour[name] for name in pair))
        for pair in text
        if contrast(*(colour[name] for name in pair)) < 4.5
    } == {}
    drawn = [("bar", "page"), ("bar", "track"), ("before", "page"), ("after", "page")]
    assert {
        pair: contrast(*(colour[name] for name in pair))
        for pair in drawn
        if contrast(*(colour[name] for name in pair)) < 3
    } == {}
