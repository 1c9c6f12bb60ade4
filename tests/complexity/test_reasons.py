"""The reasons why conventions differ, as lines of text."""

from edgekd.complexity.differences import Difference
from edgekd.complexity.reports.rows import difference_lines


def test_reasons_that_differ_only_in_numbers_share_a_line():
    alike = [
        Difference("ptflops", f"layer{index}", "macs", 0, count, f"+{count}: a bias at each of 4 int8 outputs")
        for index, count in enumerate((1_000, 20))
    ]
    other = Difference("ptflops", "pool", "macs", 0, 5, "a pool")
    assert difference_lines((*alike, other)) == [
        "ptflops: macs +1,020 in 2 layers, n: a bias at each of 4 int8 outputs",
        "ptflops: macs +5 in pool, a pool",
    ]
    alone = difference_lines(tuple(alike[:1]))
    assert alone == ["ptflops: macs +1,000 in layer0, +1000: a bias at each of 4 int8 outputs"]
