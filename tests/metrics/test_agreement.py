import numpy as np

from edgekd.metrics.agreement import Agreement, agreement


def test_equal_logits_agree_fully():
    logits = np.array([[3, -128], [127, 0]], np.int8)
    assert agreement(logits, logits) == Agreement(0.0, 0.0, 1.0)


def test_steps_do_not_wrap_around_int8():
    assert agreement(np.array([[127, 0]], np.int8), np.array([[-128, 0]], np.int8)).max_steps == 255.0


def test_shares_count_logits_and_windows():
    result = agreement(np.array([[5, 4], [1, 9]], np.int8), np.array([[5, 6], [1, 9]], np.int8))
    assert result == Agreement(2.0, 0.25, 0.5)
