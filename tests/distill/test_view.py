"""What models hear: windows, crops, and draws that depend on nothing but (seed, stream, epoch)."""

import numpy as np
import pytest

from edgekd.distill.view import TrainingView, Windows, gather, scored_windows, window_samples
from edgekd.errors import InputError


def views(store, recipe, batch_size=4, stream=0):
    return TrainingView(store, store.indices(["a"]), recipe, batch_size, mels=16, frames=30, stream=stream)


def same(first, second):
    return all(np.array_equal(first[name], second[name]) for name in first)


def test_an_epoch_is_the_same_whatever_came_before(store, make_recipe):
    used, fresh = views(store, make_recipe()), views(store, make_recipe())
    for epoch in (0, 1):
        list(used.batches(epoch))
    assert all(same(*pair) for pair in zip(used.batches(2), fresh.batches(2), strict=True))


def test_epochs_seeds_and_streams_differ(store, make_recipe):
    first = next(iter(views(store, make_recipe()).batches(0)))
    others = [next(iter(views(store, make_recipe()).batches(1))), next(iter(views(store, make_recipe(seed=1)).batches(0))),
              next(iter(views(store, make_recipe(), stream=1).batches(0)))]
    assert not any(np.array_equal(first["waveform"], other["waveform"]) for other in others)


def test_an_epoch_has_every_clip_once_in_even_batches(store, make_recipe):
    batches = list(views(store, make_recipe()).batches(0))
    assert sorted(np.concatenate([batch["clip"] for batch in batches])) == sorted(store.indices(["a"]))
    assert [len(batch["clip"]) for batch in batches] == [4, 4, 4, 3]


def test_crops_avoid_digital_silence(store, make_recipe):
    half_silent = store.clips.index(next(clip for clip in store.clips if clip.path == "a/high0.wav"))
    plain = {"roll": 0.0, "gain_db": 0.0, "mixup_p": 0.0}
    heard = {}
    for skip in (True, False):
        recipe = make_recipe(view={"seconds": 0.5}, augment={**plain, "skip_silence": skip})
        heard[skip] = [batch["waveform"][batch["clip"] == half_silent].any()
                       for epoch in range(20) for batch in views(store, recipe).batches(epoch) if half_silent in batch["clip"]]
    assert all(heard[True])
    assert not all(heard[False])


def test_a_crop_is_a_piece_of_its_clip_rolled(store, make_recipe):
    view = views(store, make_recipe(augment={"roll": 0.1}))
    batch = next(iter(view.batches(0)))
    for clip, waveform in zip(batch["clip"], batch["waveform"], strict=True):
        if store.lengths[clip] < view.samples:
            continue
        whole = store.waveform(clip)
        pieces = {whole[start:start + 50].tobytes() for start in range(len(whole) - 49)}
        assert waveform[2000:2050].tobytes() in pieces


def test_short_clips_are_padded_in_windows_and_repeated_as_wholes(store):
    short = store.clips.index(next(clip for clip in store.clips if clip.path == "a/high1.wav"))
    length = store.lengths[short]
    where = np.array([short]), np.array([0])
    padded, tiled = (gather(store, Windows(*where, 8000, tile=tile))[0] for tile in (False, True))
    assert np.array_equal(padded[:length], store.waveform(short))
    assert not padded[length:].any()
    assert np.array_equal(tiled[length:], store.waveform(short)[: 8000 - length])


def test_tests_hear_whole_windows_or_whole_clips(store, make_recipe):
    clips = store.indices(["a"])
    crops = scored_windows(store, clips, make_recipe(view={"seconds": 0.5}).view)
    assert len(crops) == 3 * (len(clips) - 1) + 1  # 1.5 s clips, and one of 0.6 s
    wholes = scored_windows(store, clips, make_recipe("teacher").view)
    assert (len(wholes), wholes.samples, wholes.tile) == (len(clips), 12000, True)


def test_whole_clips_of_a_store_with_very_long_ones_need_a_length(store, make_recipe, monkeypatch):
    monkeypatch.setattr("edgekd.distill.view.LONGEST_CLIP", 1.0)
    with pytest.raises(InputError, match=r"set view\.seconds"):
        window_samples(make_recipe("teacher").view, store)
