"""A small store of noisy tones, and recipes of networks that train on it in seconds."""

import numpy as np
import pytest
import soundfile

from edgekd.data.store.clips import Clip
from edgekd.data.store.writer import StoreWriter
from edgekd.train.recipe.recipe import decode

RATE = 8000
TONES = {"high": 3000.0, "low": 300.0, "mid": 1000.0}
SECONDS = 1.5


def tone(hertz, seconds, seed):
    """(time, 1) int16: a tone near `hertz` in noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    wave = 6000 * np.sin(2 * np.pi * hertz * rng.uniform(0.9, 1.1) * time) + rng.normal(0, 3000, len(time))
    return wave.astype(np.int16)[:, None]


def write_store(path, tones=None, clips=None):
    """Write a store with the splits "a" (5 clips of each label) and "b" (2 of each). Clip 0 is half silent, clip 1 is
    shorter than a window."""
    tones = tones or TONES
    with StoreWriter(path, name="tones", licence="CC0", sample_rate=RATE, channels=1, synthetic=True) as writer:
        for split, count in clips or (("a", 5), ("b", 2)):
            for label, hertz in tones.items():
                for number in range(count):
                    seconds = 0.6 if (split, label, number) == ("a", "high", 1) else SECONDS
                    pcm = tone(hertz, seconds, [len(split + label), number, int(hertz)])
                    if (split, label, number) == ("a", "high", 0):
                        pcm[: len(pcm) // 2] = 0
                    writer.add(Clip(f"{split}/{label}{number}.wav", label, split), pcm)
        return writer.finish()


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("stores") / "tones")


def recipe_dict(role="student", **changes):
    """Tables of a recipe; `changes` replace or add tables."""
    raw = {
        "name": f"tones-{role}",
        "data": {"train": ["a"], "test": ["b"]},
        "frontend": {"sample_rate": RATE, "n_fft": 256, "win_length": 256, "hop_length": 256, "n_mels": 16},
        role: {
            "kind": "cp_resnet",
            "stem": 4,
            "widths": [8],
            "kernels": [[3, 1]],
            "groups": [1],
            "pools": [1],
            "dropout": 0.2,
        },
        "augment": {
            "mixup_p": 0.5,
            "roll": 0.1,
            "gain_db": 3.0,
            "mel_masks": 1,
            "mel_mask_bins": 3,
            "time_masks": 1,
            "time_mask_frames": 4,
        },
        "train": {"epochs": 3, "batch_size": 4, "lr": 0.01, "warmup_epochs": 1, "test_every": 2},
        "qat": {"epochs": 2, "batch_size": 4, "freeze_epochs": 1, "calibration_clips": 8},
    }
    if role == "teacher":
        raw["view"] = {"span": "clip"}
    for table, values in changes.items():
        raw[table] = {**raw.get(table, {}), **values} if isinstance(values, dict) else values
    return raw


@pytest.fixture(scope="session")
def response_folder(tmp_path_factory):
    """A folder of two impulse responses, a low-pass and a high-pass one."""
    folder = tmp_path_factory.mktemp("responses")
    for name, factor in (("low.wav", 0.9), ("high.wav", -0.8)):
        soundfile.write(folder / name, 0.5 * factor ** np.arange(100), RATE)
    return folder


@pytest.fixture
def make_recipe():
    """`make_recipe(role, **tables)` -> Recipe."""
    return lambda role="student", **changes: decode(recipe_dict(role, **changes), "test recipe")
