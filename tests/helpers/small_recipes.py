"""Tables of recipes that train in a second, on tones at 8 kHz, and a store of such tones."""

import numpy as np

from edgekd.data.store.clips import Clip
from edgekd.data.store.writer import StoreWriter

RATE = 8000

TABLES = """
[data]
train = ["a"]
test = ["b"]
[frontend]
sample_rate = 8000
n_fft = 256
win_length = 256
hop_length = 256
n_mels = 16
"""
NETWORK = """
kind = "cp_resnet"
stem = 4
widths = [8]
kernels = [[3, 1]]
groups = [1]
pools = [1]
"""


def write_two_tones(path, splits, seconds, clips_of_a_group=1):
    """A store of noisy clips of the labels "high" and "low". splits: name -> clips of a label."""
    rng, samples = np.random.default_rng(0), round(seconds * RATE)
    with StoreWriter(path, name="tones", licence="CC0", sample_rate=RATE, channels=1, synthetic=True) as writer:
        for split, count in splits.items():
            for label, hertz in (("high", 2500.0), ("low", 250.0)):
                for number in range(count):
                    wave = 6000 * np.sin(2 * np.pi * hertz * np.arange(samples) / RATE) + rng.normal(0, 1000, samples)
                    group = f"{split}{label}{number // clips_of_a_group}" if clips_of_a_group > 1 else ""
                    clip = Clip(f"{split}/{label}{number}.wav", label, split, group=group)
                    writer.add(clip, wave.astype(np.int16)[:, None])
        writer.finish()
