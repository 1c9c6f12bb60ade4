"""Numbers with their nouns."""

import pytest

from edgekd.text import counted


@pytest.mark.parametrize(
    ("said", "wanted"),
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
def test_the_noun_is_of_the_number_that_is_shown(said, wanted):
    assert said == wanted
