"""The torch mirror of the front end gives what numpy gives."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from helpers.front_ends import PUBLISHED  # noqa: E402

from edgekd.errors import InputError  # noqa: E402
from edgekd.frontend import FrontEnd, log_mel  # noqa: E402
from edgekd.models.logmel import LogMel  # noqa: E402

CLIPS = 11
"""More than are transformed at a time, and no multiple of it."""
ESC50 = Path(__file__).parents[2].parent / "shared/data/esc50/audio"
CONFIGS = [
    FrontEnd(),
    FrontEnd(padding="center", pre_emphasis=0.97, mean=-4.0, std=2.5),
    FrontEnd(padding="end", mel_scale="htk", win_length=1500),
    FrontEnd(n_fft=512, win_length=400, hop_length=160, n_mels=40, mel_scale="slaney", f_max=7000.0),
    PUBLISHED,
]


@pytest.mark.parametrize("fe", CONFIGS)
def test_mirror_is_within_1e4_of_numpy(fe):
    waveform = (0.1 * np.random.default_rng(0).standard_normal((CLIPS, 16000))).astype(np.float32)
    mirrored = LogMel(fe)(torch.from_numpy(waveform))
    assert mirrored.shape == (CLIPS, 1, fe.n_mels, fe.frames(16000))
    assert mirrored.dtype == torch.float32
    assert np.abs(mirrored[:, 0].numpy() - log_mel(fe, waveform)).max() <= 1e-4


def test_quiet_bands_next_to_loud_ones_are_within_1e4_too():
    time = np.arange(16000) / 16000
    waveform = (0.9 * np.sin(2 * np.pi * 200 * time) + 1e-5 * np.random.default_rng(0).standard_normal(16000)).astype(
        np.float32
    )
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
    assert (
        max(np.abs(mirror(torch.from_numpy(clip)[None])[0, 0].numpy() - log_mel(fe, clip)).max() for clip in clips)
        <= 1e-4
    )


def test_mirror_has_nothing_to_train_or_to_save_and_stays_float32_under_autocast():
    mirror = LogMel(FrontEnd())
    assert not list(mirror.parameters())
    assert not mirror.state_dict()
    with torch.autocast("cpu", torch.bfloat16):
        assert mirror(torch.zeros(1, 16000)).dtype == torch.float32


def test_too_short_a_waveform_is_refused():
    with pytest.raises(InputError, match="does not fill one frame"):
        LogMel(FrontEnd())(torch.zeros(2, 1000))


@pytest.mark.parametrize("fe", CONFIGS)
def test_the_float32_transform_is_near_the_exact_one(fe):
    waveform = torch.from_numpy((0.1 * np.random.default_rng(0).standard_normal((CLIPS, 16000))).astype(np.float32))
    exact, quick = LogMel(fe)(waveform), LogMel(fe, exact=False)(waveform)
    assert (quick - exact).abs().max() < 1e-2
    assert (quick - exact).abs().mean() < 1e-5
    assert not torch.equal(quick, exact)


def test_long_clips_are_transformed_in_parts_and_after_short_ones():
    fe, mirror = FrontEnd(mean=1.0), LogMel(FrontEnd(mean=1.0))
    rng = np.random.default_rng(0)
    for length in (16000, 160_000, 3000):  # 310 frames are more than are transformed at a time
        waveform = (0.1 * rng.standard_normal((3, length))).astype(np.float32)
        assert np.abs(mirror(torch.from_numpy(waveform))[:, 0].numpy() - log_mel(fe, waveform)).max() <= 1e-4


def test_it_works_in_and_after_inference_mode():
    mirror, waveform = LogMel(FrontEnd()), torch.ones(2, 16000)
    with torch.inference_mode():
        inside = mirror(waveform)
    assert torch.equal(mirror(waveform), inside)


@pytest.mark.parametrize("fe", CONFIGS)
def test_a_hop_of_its_own_reads_each_clip_at_its_pace(fe):
    # a pre-emphasis would spread beyond the end of the clip, and a mirror is at the end of the row
    padding = "center" if fe.padding == "reflect" else fe.padding
    fe = msgspec.structs.replace(fe, pre_emphasis=0.0, ahead=msgspec.UNSET, padding=padding)
    samples = 8000
    hops = [fe.hop_length, fe.hop_length - 37, fe.hop_length + 50] * 2
    waveform = (0.1 * np.random.default_rng(0).standard_normal((len(hops), samples + fe.frames(samples) * 50))).astype(
        np.float32
    )
    frames = fe.frames(samples)
    for row, hop in zip(waveform, hops, strict=True):
        row[samples + (frames - 1) * (hop - fe.hop_length) :] = 0
    stretched = LogMel(fe)(torch.from_numpy(waveform), torch.tensor(hops), samples)
    assert stretched.shape == (len(hops), 1, fe.n_mels, frames)
    for row, hop, computed in zip(waveform, hops, stretched, strict=True):
        span = samples + (frames - 1) * (hop - fe.hop_length)
        expected = log_mel(msgspec.structs.replace(fe, hop_length=hop), row[:span])[:, :frames]
        assert np.abs(computed[0].numpy() - expected).max() <= 1e-4


def test_each_channel_is_computed_on_its_own():
    fe = FrontEnd(n_fft=512, win_length=512, n_mels=20, mean=-3.0, std=2.0)
    waveform = torch.from_numpy((0.1 * np.random.default_rng(0).standard_normal((5, 2, 6000))).astype(np.float32))
    hop = torch.tensor([512, 500, 520, 480, 512])
    mirror = LogMel(fe)
    for more in ((), (hop, 5000)):
        computed = mirror(waveform, *more)
        assert computed.shape == (5, 2, 20, fe.frames(more[1] if more else 6000))
        for channel in (0, 1):
            assert torch.equal(computed[:, channel], mirror(waveform[:, channel], *more)[:, 0])
