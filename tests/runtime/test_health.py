"""The states of a live source, on a clock of numbers."""

from edgekd.runtime.health import Health, Turn, Watch

WATCH = Watch(zeros_s=5.0, heal_s=0.3, failed_s=30.0)


def test_good_sound_for_a_moment_is_healthy_and_told_once():
    health = Health(WATCH, 0.0)
    assert health.heard(0.2, 0.2, "mic", good=True) is None
    assert health.heard(0.2, 0.4, "mic", good=True) == Turn("HEALTHY", "hearing mic")
    assert health.heard(0.2, 0.6, "mic", good=True) is None


def test_trouble_is_told_once_and_needs_good_sound_in_a_row_to_heal():
    health = Health(WATCH, 0.0)
    health.heard(1.0, 1.0, "mic", good=True)
    assert health.lost("gone") == Turn("RECOVERING", "gone")
    assert health.lost("gone again") is None
    assert health.heard(0.2, 1.2, "mic", good=True) is None
    assert health.heard(0.2, 1.4, "mic", good=False) is None
    assert health.heard(0.2, 1.6, "mic", good=True) is None
    assert health.heard(0.2, 1.8, "mic", good=True) == Turn("HEALTHY", "hearing mic")


def test_zeros_count_in_seconds_of_sound_and_in_a_row():
    health = Health(WATCH, 0.0)
    health.heard(4.9, 4.9, "mic", good=False)
    assert not health.has_only_zeros
    health.heard(0.1, 5.0, "mic", good=True)
    health.heard(4.9, 9.9, "mic", good=False)
    assert not health.has_only_zeros
    health.heard(0.2, 10.1, "mic", good=False)
    assert health.has_only_zeros
    health.restarted()
    assert not health.has_only_zeros


def test_long_trouble_is_failure_until_good_sound_comes():
    health = Health(WATCH, 0.0)
    health.lost("absent")
    assert health.waited(30.0) is None
    assert health.waited(30.1) == Turn("FAILED", "no good sound for 30 s; still trying")
    assert health.waited(99.0) is None
    assert health.lost("still absent") is None
    assert health.heard(0.3, 100.0, "mic", good=True) == Turn("HEALTHY", "hearing mic")


def test_zeros_do_not_put_off_failure():
    health = Health(WATCH, 0.0)
    health.lost("unplugged")
    assert health.heard(0.1, 31.0, "mic", good=False) == Turn("FAILED", "no good sound for 30 s; still trying")
