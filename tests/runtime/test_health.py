"""The states of a live source, on a clock that the test sets."""

from edgekd.runtime.source.health import Health, StateChange, Watch

WATCH = Watch(zeros_s=5.0, heal_s=0.3, failed_s=30.0)


def test_a_short_time_of_good_blocks_is_healthy_and_reported_once():
    health = Health(WATCH, 0.0)
    assert health.received(0.2, 0.2, "mic", good=True) is None
    assert health.received(0.2, 0.4, "mic", good=True) == StateChange("HEALTHY", "listening to mic")
    assert health.received(0.2, 0.6, "mic", good=True) is None


def test_a_problem_is_reported_once_and_needs_successive_good_blocks_to_heal():
    health = Health(WATCH, 0.0)
    health.received(1.0, 1.0, "mic", good=True)
    assert health.problem("gone") == StateChange("RECOVERING", "gone")
    assert health.problem("gone again") is None
    assert health.received(0.2, 1.2, "mic", good=True) is None
    assert health.received(0.2, 1.4, "mic", good=False) is None
    assert health.received(0.2, 1.6, "mic", good=True) is None
    assert health.received(0.2, 1.8, "mic", good=True) == StateChange("HEALTHY", "listening to mic")


def test_zeros_count_since_the_last_good_sound_with_a_pause_before_them():
    health = Health(WATCH, 0.0)
    health.received(0.1, 5.0, "mic", good=True)
    assert not health.has_only_zeros(99.0)
    health.received(0.1, 7.0, "mic", good=False)
    assert not health.has_only_zeros(9.9)
    assert health.has_only_zeros(10.0)
    health.received(0.1, 9.9, "mic", good=True)
    assert not health.has_only_zeros(99.0)


def test_a_new_attempt_counts_zeros_anew():
    health = Health(WATCH, 0.0)
    health.received(0.1, 1.0, "mic", good=True)
    health.received(0.1, 2.0, "mic", good=False)
    health.restarted()
    assert not health.has_only_zeros(99.0)
    health.received(0.1, 50.0, "mic", good=False)
    assert not health.has_only_zeros(54.9)
    assert health.has_only_zeros(55.0)


def test_a_long_problem_is_failed_until_good_blocks_come():
    health = Health(WATCH, 0.0)
    health.problem("absent")
    assert health.elapsed(30.0) is None
    assert health.elapsed(30.1) == StateChange("FAILED", "no good sound for 30 s; still trying")
    assert health.elapsed(99.0) is None
    assert health.problem("still absent") is None
    assert health.received(0.3, 100.0, "mic", good=True) == StateChange("HEALTHY", "listening to mic")


def test_zeros_do_not_put_off_failure():
    health = Health(WATCH, 0.0)
    health.problem("unplugged")
    assert health.received(0.1, 31.0, "mic", good=False) == StateChange(
        "FAILED", "no good sound for 30 s; still trying"
    )
