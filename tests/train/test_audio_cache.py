"""Waveforms of the audio cache are those of the memory map."""

import numpy as np
import pytest
import torch

from edgekd.data.store.clips import Clip
from edgekd.data.store.writer import StoreWriter
from edgekd.train.batches import audio_cache
from edgekd.train.batches.audio_cache import AudioCache
from edgekd.train.batches.crops import Crops, read_waveforms

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=[1, 3])
def store(request, tmp_path_factory):
    rng = np.random.default_rng(0)
    with StoreWriter(
        tmp_path_factory.mktemp("audio") / "s", name="s", licence="CC0", sample_rate=1000, channels=request.param
    ) as writer:
        for number, length in enumerate((90, 300, 7)):
            writer.add(
                Clip(f"{number}.wav", "x", "a"), rng.integers(-(2**15), 2**15, (length, request.param)).astype(np.int16)
            )
        return writer.finish()


def random_crops(tile):
    """Crops inside a clip and beyond its end, of short clips, shifted either way, with a span."""
    rng = np.random.default_rng(1)
    span = rng.integers(50, 121, 60)
    clip = rng.integers(0, 3, 60)
    start = np.where(clip == 1, rng.integers(0, 250, 60), 0)
    return Crops(clip, start, 120, tile, span, (rng.random(60) * span).astype(int) - span // 2)


@pytest.mark.parametrize("tile", [False, True])
@pytest.mark.parametrize("resident", [False, True])
def test_the_audio_cache_reads_the_waveforms_that_numpy_reads(store, tile, resident, monkeypatch):
    monkeypatch.setattr(audio_cache, "CPU_SAMPLES", 1000)  # several parts
    monkeypatch.setattr(audio_cache, "ACCELERATOR_SAMPLES", 1000)
    for crops in (random_crops(tile), Crops(np.array([1, 1]), np.array([0, 180]), 120, tile)):
        waveforms = AudioCache(store, CPU, resident).waveforms(crops)
        assert waveforms.dtype == torch.float32
        assert np.array_equal(waveforms.numpy(), read_waveforms(store, crops))


def test_a_store_is_resident_where_it_takes_little_of_the_free_memory(store, monkeypatch):
    size = store.pcm.nbytes
    for free, resident in ((2 * size, False), (2 * size + 1, True)):
        monkeypatch.setattr(audio_cache, "free_bytes", lambda _, free=free: free)
        assert (AudioCache(store, CPU).pcm is not None) == resident
    monkeypatch.undo()
    assert AudioCache(store, CPU).pcm is None  # the memory map is memory already
