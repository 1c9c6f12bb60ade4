"""Front ends that several tests compute with."""

from edgekd.frontend import FrontEnd

PUBLISHED = FrontEnd(
    pre_emphasis=0.97,
    ahead=True,
    n_fft=512,
    win_length=400,
    symmetric=True,
    hop_length=160,
    padding="reflect",
    n_mels=64,
    mel_scale="kaldi",
    log_floor=1e-30,
    log_offset=1e-5,
    mean=-4.5,
    std=5.0,
)
"""Has every field that only published networks need: that of EfficientAT's at half their rate, with fewer bands."""
