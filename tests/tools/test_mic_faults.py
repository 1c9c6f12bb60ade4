"""The judgement and the table of the microphone's faults; playing them needs PulseAudio."""

import pytest
from mic_faults import Case, in_time, is_balanced, table

from edgekd.runtime.capture import Counts


@pytest.mark.parametrize(("detect_s", "heal_s", "ok"), [
    (3.0, 5.0, True), (3.1, 1.0, False), (1.0, 5.1, False), (None, 1.0, False), (1.0, None, False), (1.0, -0.1, False),
])
def test_a_fault_must_be_noticed_and_healed_in_time(detect_s, heal_s, ok):
    assert in_time(detect_s, heal_s) is ok


def test_every_sample_must_be_accounted_for():
    assert is_balanced(Counts(10, 6, 3, 1, 0, 0, 0, 0.0))
    assert not is_balanced(Counts(10, 6, 3, 0, 0, 0, 0, 0.0))


def test_the_table_has_median_and_longest_times_of_each_fault():
    cases = [Case("stall", 1.0, 2.0, True), Case("stall", 2.0, 4.0, True), Case("stall", None, 3.0, False, "why")]
    cases.append(Case("form", None, None, True))
    rows = [line.split() for line in table(cases).splitlines()]
    assert rows[1] == ["stall", "2/3", "1.50", "s", "2.00", "s", "3.00", "s", "4.00", "s", "why"]
    assert rows[2] == ["form", "1/1", "-", "-", "-", "-"]
