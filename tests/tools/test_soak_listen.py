"""The soak test of the listener detects lost samples, skipped windows and growing memory; on a model without an engine,
with short hours."""

from types import SimpleNamespace

import numpy as np
import pytest
import soak_listen

from edgekd.frontend import FrontEnd
from edgekd.runtime.listen import decisions

MODEL = SimpleNamespace(
    manifest=SimpleNamespace(labels=("a", "b"), frontend=FrontEnd(), window=16000, temperature=1.0),
    logits=lambda features: np.stack((features.mean(axis=(1, 2)), features[:, :128].mean(axis=(1, 2))), axis=1),
)


@pytest.fixture(autouse=True)
def short_hours(monkeypatch):
    monkeypatch.setattr(soak_listen, "HOUR_S", 30)


def test_a_listener_that_reads_every_sample_passes(capsys):
    counts, memory, wrong = soak_listen.soak(MODEL, 3, 0.5, 0)
    assert (wrong, len(memory)) == ([], 3)
    assert counts["samples"] == 16000 + 184 * 8000  # 8 hops of 8,000 samples are whole frames of 512
    assert counts["decisions"] == counts["known"] + counts["unknown"] + counts["gated"] == 185
    assert counts["gated"] > 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_the_same_seed_is_the_same_audio():
    first, second, other = (np.concatenate(list(soak_listen.Feed(16000, 96000, seed))) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_lost_sample_is_detected(monkeypatch):
    def forgetful(model, feed, *rest):
        return decisions(model, (chunk[:-1] if number == 50 else chunk for number, chunk in enumerate(feed)), *rest)

    monkeypatch.setattr(soak_listen, "decisions", forgetful)
    assert "of 185 decisions the last was number 184, 0.5" in soak_listen.soak(MODEL, 3, 0.5, 0)[2][0]


def test_a_skipped_window_is_detected(monkeypatch):
    monkeypatch.setattr(
        soak_listen,
        "decisions",
        lambda *arguments: (one for number, one in enumerate(decisions(*arguments)) if number != 20),
    )
    assert soak_listen.soak(MODEL, 3, 0.5, 0)[2][0] == "decision 21 is that of 11.496 s, -0.496 s early"


def test_memory_that_grows_fails(monkeypatch, tmp_path):
    sizes = iter((10.0, 10.5, 12.0))
    monkeypatch.setattr(soak_listen, "resident_mb", lambda: next(sizes))
    monkeypatch.setattr(soak_listen, "open_model", lambda _: MODEL)
    with pytest.raises(soak_listen.GateError, match=r"memory grew by 2\.00 MB"):
        soak_listen.main(tmp_path, hours=3, hop=0.5, growth_mb=1.0, seed=0)
