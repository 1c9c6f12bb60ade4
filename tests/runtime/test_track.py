"""Tracks of labels, and decisions scored against them."""

from pathlib import Path

import pytest

from edgekd.errors import InputError
from edgekd.runtime.track import Span, TrackScore, read_track, require_within, score

LABELS = ("dog", "rain", "wind")


def write(folder: Path, text: str) -> Path:
    path = folder / "track.csv"
    path.write_text(text)
    return path


def spans(*triples: tuple[float, float, str]) -> tuple[Span, ...]:
    return tuple(Span(*triple, row) for row, triple in enumerate(triples, start=2))


def test_a_track_is_read_in_the_order_of_time(tmp_path):
    path = write(tmp_path, "label;end;start;note\nrain;9;5.5;x\n\ndog;5.5;0;\nunknown;12;9;\n")
    assert [span[:3] for span in read_track(path, LABELS)] == [
        (0.0, 5.5, "dog"),
        (5.5, 9.0, "rain"),
        (9.0, 12.0, "unknown"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start,stop,label\n0,1,dog\n", "has no column 'end'"),
        ("strat,end,label\n0,1,dog\n", "did you mean 'strat'"),
        ("start,end,label\n0,x,dog\n", "row 2: end is 'x'; give seconds"),
        ("start,end,label\n-1,1,dog\n", "row 2: start is '-1'"),
        ("start,end,label\n0,nan,dog\n", "row 2: end is 'nan'"),
        ("start,end,label\n3,2,dog\n", "row 2: it ends at 2 s and starts at 3 s"),
        ("start,end,label\n0,1,dogg\n", "row 2: .*'dogg'; did you mean 'dog'"),
        ("start,end,label\n4,6,dog\n0,4.5,rain\n", r"rows 3 \(0 to 4.5 s\) and 2 .*overlap"),
        ("start,end,label\n", "no rows"),
    ],
)
def test_a_track_that_makes_no_sense_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_track(write(tmp_path, text), LABELS)


def test_a_track_longer_than_the_audio_is_refused_but_for_rounding():
    require_within(spans((0.0, 10.04, "dog")), 10.0, Path("t.csv"))
    with pytest.raises(InputError, match=r"t\.csv, row 2: .*11 s, .*10\.00 s"):
        require_within(spans((0.0, 11.0, "dog"), (3.0, 4.0, "dog")), 10.0, Path("t.csv"))


def test_figures_of_a_track_worked_out_by_hand():
    track = spans((0.0, 4.0, "dog"), (4.0, 8.0, "rain"), (9.0, 10.0, "wind"))
    times, shown = [1.0, 2.0, 5.0, 6.0, 7.0], ["unknown", "dog", "dog", "rain", "unknown"]
    # dog is shown from 2 to 6, of which 2 to 4 is right; rain from 6 to 7; from 1 to 2 and from 7 on nothing is claimed
    assert score(track, times, shown, 10.0, 1.0) == TrackScore(
        accuracy=round(3 / 8, 4), accuracy_known=round(3 / 5, 4), onsets=3, missed=1, delay_p50_s=2.0, delay_p95_s=2.0
    )


def test_unknown_is_right_where_the_track_has_it_and_counts_as_no_label():
    found = score(spans((0.0, 5.0, "unknown"), (5.0, 10.0, "dog")), [0.0, 4.0], ["unknown", "dog"], 10.0, 1.0)
    assert (found.accuracy, found.accuracy_known) == (0.9, round(5 / 6, 4))


def test_an_onset_may_be_found_until_the_last_window_that_overlaps_it_ends():
    track = spans((2.0, 2.5, "dog"))
    assert score(track, [1.0, 2.0, 3.4], ["rain", "rain", "dog"], 9.0, 1.0).delay_p50_s == 1.4
    assert score(track, [1.0, 2.0, 3.5], ["rain", "rain", "dog"], 9.0, 1.0).missed == 1


def test_what_is_shown_already_has_no_delay_and_what_goes_on_is_no_onset():
    track = spans((1.0, 3.0, "dog"), (3.0, 5.0, "dog"), (6.0, 7.0, "dog"))
    found = score(track, [1.5, 2.5], ["dog", "dog"], 9.0, 1.0)
    assert (found.onsets, found.missed, found.delay_p50_s, found.delay_p95_s) == (2, 0, 0.25, 0.475)


def test_no_figure_is_made_of_nothing():
    assert score(spans((0.0, 0.5, "dog")), [2.0], ["dog"], 9.0, 1.0) == TrackScore(
        accuracy=None, accuracy_known=None, onsets=1, missed=1, delay_p50_s=None, delay_p95_s=None
    )
