"""The torch mirror of the front end gives what numpy gives."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgekd.errors import InputError  # noqa: E402
from edgekd.frontend import FrontEnd, log_mel  # noqa: E402
from edgekd.models.logmel import CPU_CLIPS, LogMel  # noqa: E402

ESC50 = Path(__file__).parents[2].parent / "shared/data/esc50/audio"
CONFIGS = [
    FrontEnd(),
    FrontEnd(padding="center", pre_emphasis=0.97, mean=-4.0, std=2.5),
    FrontEnd(padding="end", mel_scale="htk", win_length=1500),
    FrontEnd(n_fft=512, win_length=400, hop_length=160, n_mels=40, mel_scale="slaney", f_max=7000.0),
]


@pytest.mark.parametrize("fe", CONFIGS)
def test_mirror_is_within_1e4_of_numpy(fe):
    waveform = (0.1 * np.random.default_rng(0).standard_normal((CPU_CLIPS + 3, 16000))).astype(np.float32)
    mirrored = LogMel(fe)(torch.from_numpy(waveform))
    assert mirrored.shape == (CPU_CLIPS + 3, 1, fe.n_mels, fe.frames(16000))
    assert mirrored.dtype == torch.float32
    assert np.abs(mirrored[:, 0].numpy() - log_mel(fe, waveform)).max() <= 1e-4


def test_quiet_bands_next_to_loud_ones_are_within_1e4_too():
    time = np.arange(16000) / 16000
    waveform = (0.9 * np.sin(2 * np.pi * 200 * time) + 1e-5 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    for fe in CONFIGS:
        expected = log_mel(fe, waveform)
        assert expected.max() - expected.min() > 12 / fe.std  # more than 50 dB
        assert np.abs(LogMel(fe)(torch.from_numpy(waveform)[None])[0, 0].numpy() - expected).max() <= 1e-4


@pytest.mark.parametrize("fe", CONFIGS)
def test_mirror_is_within_1e4_of_numpy_on_recordings(fe):
    if not ESC50.is_dir():
        pytest.skip(f"{ESC50} is not here")
    soundfile = pytest.importorskip("soundfile")
    clips = [soundfile.read(path, dtype="float32", frames=32000)[0] for path in sorted(ESC50.glob("*.flac"))[::100]]
    mirror = LogMel(fe)
    assert max(np.abs(mirror(torch.from_numpy(clip)[None])[0, 0].numpy() - log_mel(fe, clip)).max() for clip in clips) <= 1e-4


def test_mirror_has_nothing_to_train_or_to_save_and_stays_float32_under_autocast():
    mirror = LogMel(FrontEnd())
    assert not list(mirror.parameters())
    assert not mirror.state_dict()
    with torch.autocast("cpu", torch.bfloat16):
        assert mirror(torch.zeros(1, 16000)).dtype == torch.float32


def test_too_short_a_waveform_is_refused():
    with pytest.raises(InputError, match="does not fill one frame"):
        LogMel(FrontEnd())(torch.zeros(2, 1000))
