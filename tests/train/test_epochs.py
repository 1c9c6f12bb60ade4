"""Batches of an epoch: crops, windows, and random numbers that depend only on (seed, stream, epoch, clip)."""

import dataclasses
import shutil

import numpy as np
import pytest

from edgekd.data.store.clips import Clip
from edgekd.data.store.writer import StoreWriter
from edgekd.errors import InputError
from edgekd.train.batches.crops import Crops, read_pcm, read_waveforms, scored_windows, window_samples
from edgekd.train.batches.epochs import TrainingView
from edgekd.train.batches.silence import NonzeroCounts

EVERYTHING = {
    "mixup_p": 0.5,
    "mixstyle_p": 0.5,
    "time_stretch": 1.2,
    "roll": 0.1,
    "gain_db": 3.0,
    "mel_masks": 2,
    "mel_mask_bins": 3,
}


def views(store, recipe, batch_size=4, stream=0, shard=(0, 1)):
    return TrainingView(store, store.indices(["a"]), recipe, batch_size, mels=16, frames=30, stream=stream, shard=shard)


def flat(batch):
    """All arrays of a batch."""
    crops = dataclasses.asdict(batch["crops"])
    return {name: value for name, value in {**batch, **crops}.items() if isinstance(value, np.ndarray)}


def same(first, second):
    first, second = flat(first), flat(second)
    return all(np.array_equal(first[name], second[name]) for name in first)


def items_of(batch):
    """All random values of each item of a batch: {clip: values}."""
    crops, clip = batch["crops"], batch["clip"]
    rows = [
        (
            int(clip[row]),
            int(crops.start[row]),
            int(crops.span[row]),
            int(crops.shift[row]),
            float(batch["gain_db"][row]),
            int(batch["hop"][row]),
            *batch["response"][batch["response_rows"] == row].tolist(),
        )
        for row in range(len(clip))
    ]
    values = {}
    for item, partner in enumerate(batch["partner"]):
        style = batch["style"][item]
        style = style if style == item else batch["style_rows"][style - len(batch["partner"])]
        masks = tuple(batch[name][item].tolist() for name in ("mel_start", "mel_width", "frame_start", "frame_width"))
        shares = float(batch["share"][item]), float(batch["style_share"][item])
        values[int(clip[item])] = (rows[item], rows[partner], rows[style], shares, masks)
    return values


def epoch_of(view, epoch=0):
    return {clip: values for batch in view.batches(epoch) for clip, values in items_of(batch).items()}


def test_an_epoch_is_the_same_whatever_came_before(store, make_recipe):
    used, fresh = views(store, make_recipe()), views(store, make_recipe())
    for epoch in (0, 1):
        list(used.batches(epoch))
    assert all(same(*pair) for pair in zip(used.batches(2), fresh.batches(2), strict=True))


def test_epochs_seeds_and_streams_differ(store, make_recipe):
    first = epoch_of(views(store, make_recipe()))
    for other in (
        epoch_of(views(store, make_recipe()), 1),
        epoch_of(views(store, make_recipe(seed=1))),
        epoch_of(views(store, make_recipe(), stream=1)),
    ):
        assert not any(first[clip] == other[clip] for clip in first)


def test_an_epoch_has_every_clip_once_in_even_batches(store, make_recipe):
    batches = list(views(store, make_recipe()).batches(0))
    assert sorted(np.concatenate([batch["clip"][: len(batch["partner"])] for batch in batches])) == sorted(
        store.indices(["a"])
    )
    assert [len(batch["partner"]) for batch in batches] == [4, 4, 4, 3]


def test_the_augmentation_of_a_clip_does_not_depend_on_its_batch(store, make_recipe):
    recipe = make_recipe(augment=EVERYTHING)
    small, large = epoch_of(views(store, recipe, 2)), epoch_of(views(store, recipe, 15))
    assert small == large
    assert any(own != partner for own, partner, *_ in small.values())
    assert any(own == partner for own, partner, *_ in small.values())
    assert len({values[0][5] for values in small.values()}) > 3  # hops


def test_the_processes_together_have_the_batches_of_one(store, make_recipe):
    recipe = make_recipe(augment=EVERYTHING)
    whole = list(views(store, recipe, 5).batches(1))
    shards = [views(store, recipe, 5, shard=(rank, 2)) for rank in (0, 1)]
    assert [shard.steps for shard in shards] == [len(whole)] * 2
    for batch, *parts in zip(whole, *(shard.batches(1) for shard in shards), strict=True):
        assert [list(items_of(part)) for part in parts] == [list(items_of(batch))[:3], list(items_of(batch))[3:]]
        assert items_of(parts[0]) | items_of(parts[1]) == items_of(batch)


def test_a_process_without_a_part_of_a_batch_is_refused(store, make_recipe):
    with pytest.raises(InputError, match=r"3 clips .*4 processes"):
        views(store, make_recipe(), 4, shard=(0, 4))  # batches of 4, 4, 4 and 3


def test_rows_after_the_items_are_those_mixed_into_them(store, make_recipe):
    for changes in ({"mixup_p": 0.0}, {"mixup_p": 1.0}, EVERYTHING):
        for batch in views(store, make_recipe(augment=changes)).batches(0):
            items = len(batch["partner"])
            assert len(set(batch["clip"])) == len(batch["clip"])
            wanted = set(range(items)) | set(batch["partner"]) | set(batch["style_rows"])
            assert wanted == set(range(len(batch["clip"])))
            mixed = batch["partner"] != np.arange(items)
            assert (mixed == (changes["mixup_p"] > 0)).all() or changes is EVERYTHING
            assert (batch["share"][~mixed] == 1).all()
            assert (batch["share"][mixed] < 1).all()


def test_a_clip_that_is_alone_is_mixed_with_nothing(store, make_recipe):
    view = TrainingView(store, np.array([3]), make_recipe(augment={"mixup_p": 1.0}), 4, 16, 30, 0)
    batch = next(view.batches(0))
    assert (batch["partner"].tolist(), batch["share"].tolist(), batch["clip"].tolist()) == ([0], [1.0], [3])


def test_partners_are_any_other_clip(store, make_recipe):
    view = views(store, make_recipe(augment={"mixup_p": 1.0}), 15)
    pairs = {(clip, partner[0]) for epoch in range(200) for clip, (_, partner, *_) in epoch_of(view, epoch).items()}
    assert len(pairs) == 15 * 14


def test_crops_avoid_digital_silence(store, make_recipe):
    half_silent = store.clips.index(next(clip for clip in store.clips if clip.path == "a/high0.wav"))
    plain = {"roll": 0.0, "gain_db": 0.0, "mixup_p": 0.0}
    nonzero = {}
    for skip in (True, False):
        recipe = make_recipe(view={"seconds": 0.5}, augment={**plain, "skip_silence": skip})
        nonzero[skip] = [
            read_waveforms(store, batch["crops"])[batch["clip"] == half_silent].any()
            for epoch in range(20)
            for batch in views(store, recipe).batches(epoch)
            if half_silent in batch["clip"]
        ]
    assert all(nonzero[True])
    assert not all(nonzero[False])


def test_a_crop_is_a_piece_of_its_clip_rolled(store, make_recipe):
    view = views(store, make_recipe(augment={"roll": 0.1}))
    batch = next(iter(view.batches(0)))
    for clip, waveform in zip(batch["clip"], read_waveforms(store, batch["crops"]), strict=True):
        if store.lengths[clip] < view.samples:
            continue
        whole = store.waveform(clip)
        pieces = {whole[start : start + 50].tobytes() for start in range(len(whole) - 49)}
        assert waveform[2000:2050].tobytes() in pieces


def test_short_clips_are_padded_in_windows_and_repeated_as_wholes(store):
    short = store.clips.index(next(clip for clip in store.clips if clip.path == "a/high1.wav"))
    length = store.lengths[short]
    where = np.array([short]), np.array([0])
    padded, tiled = (read_waveforms(store, Crops(*where, 8000, tile=tile))[0] for tile in (False, True))
    assert np.array_equal(padded[:length], store.waveform(short))
    assert not padded[length:].any()
    assert np.array_equal(tiled[length:], store.waveform(short)[: 8000 - length])


def test_scored_windows_are_consecutive_windows_or_whole_clips(store, make_recipe):
    clips = store.indices(["a"])
    crops = scored_windows(store, clips, make_recipe(view={"seconds": 0.5}).view)
    assert len(crops) == 3 * (len(clips) - 1) + 1  # 1.5 s clips, and one of 0.6 s
    wholes = scored_windows(store, clips, make_recipe("teacher").view)
    assert (len(wholes), wholes.samples, wholes.tile) == (len(clips), 12000, True)


def test_whole_clips_of_a_store_with_very_long_ones_need_a_length(store, make_recipe, monkeypatch):
    monkeypatch.setattr("edgekd.train.batches.crops.LONGEST_CLIP", 1.0)
    with pytest.raises(InputError, match=r"set view\.seconds"):
        window_samples(make_recipe("teacher").view, store)


@pytest.fixture(scope="module")
def stereo(tmp_path_factory):
    """Clips of 250, 1 and 433 samples in two channels; 40 samples of noise and 40 zeros alternate."""
    rng = np.random.default_rng(0)
    with StoreWriter(
        tmp_path_factory.mktemp("stereo") / "s", name="s", licence="CC0", sample_rate=1000, channels=2
    ) as writer:
        for number, length in enumerate((250, 1, 433)):
            pcm = rng.integers(-(2**15), 2**15, (length, 2)).astype(np.int16)
            pcm[np.arange(length) // 40 % 2 == 1] = 0
            writer.add(Clip(f"{number}.wav", "x", "a", recorder="ab"[number % 2]), pcm)
        return writer.finish()


def test_a_row_is_shifted_in_a_circle_and_ends_in_zeros(stereo):
    crops = {
        "clip": np.array([0, 0, 2]),
        "start": np.array([100, 0, 0]),
        "samples": 500,
        "span": np.array([120, 300, 433]),
        "shift": np.array([7, -20, 0]),
    }
    window, whole = (read_pcm(stereo, Crops(tile=tile, **crops)) for tile in (False, True))
    assert np.array_equal(window[0, :120], np.roll(stereo.clip_pcm(0)[100:220], 7, axis=0))
    assert np.array_equal(window[1, :300], np.roll(np.pad(stereo.clip_pcm(0), ((0, 50), (0, 0))), -20, axis=0))
    assert np.array_equal(whole[1, :300], np.roll(np.resize(stereo.clip_pcm(0), (300, 2)), -20, axis=0))
    assert np.array_equal(window[2, :433], stereo.clip_pcm(2))
    for row, span in zip((*window, *whole), (120, 300, 433) * 2, strict=True):
        assert not row[span:].any()
    assert np.array_equal(read_waveforms(stereo, Crops(tile=False, **crops))[2, :433], stereo.waveform(2))


def test_plain_windows_are_those_of_the_store(stereo):
    crops = Crops(np.array([2, 0, 2]), np.array([300, 150, 0]), 100, tile=False)
    expected = [stereo.window(int(clip), int(start), 100) for clip, start in zip(crops.clip, crops.start, strict=True)]
    assert np.array_equal(read_waveforms(stereo, crops), np.stack(expected))
    assert np.array_equal(read_waveforms(stereo, crops[1:]), np.stack(expected[1:]))


def test_nonzero_samples_are_counted_to_a_block(stereo):
    counts = NonzeroCounts(stereo)
    clips, starts, span = (np.array(each) for each in ([0, 0, 2, 2, 1], [0, 40, 0, 85, 0], [250, 40, 433, 300, 1]))
    exact = [np.count_nonzero(stereo.clip_pcm(c)[s : s + n]) / 2 for c, s, n in zip(clips, starts, span, strict=True)]
    # a block of 10 at an end, and zeros by chance
    assert np.abs(counts.count(clips, starts, span) - exact).max() <= 12
    assert counts.count(clips[:2], starts[:2], span[:2]).tolist() == [130, 0]


def test_time_stretching_takes_more_audio_at_longer_hops(store, make_recipe):
    view = views(store, make_recipe(augment={"time_stretch": 1.5}), 15)
    batch = next(view.batches(0))
    crops, hop = batch["crops"], batch["hop"]
    assert (hop.min() >= 171, hop.max() <= 384, hop.min() < 220, hop.max() > 300) == (True,) * 4
    assert np.array_equal(crops.span - view.samples, 29 * (hop - 256))
    assert crops.samples == view.samples + 29 * 128


def test_only_clips_of_named_recorders_are_convolved_with_responses_of_a_split(
    stereo, make_recipe, response_folder, tmp_path
):
    augment = {"ir_p": 1.0, "ir_folder": str(response_folder), "ir_recorders": ["a"]}
    recipe = make_recipe(
        augment=augment,
        view={"seconds": 0.1},
        frontend={"sample_rate": 1000, "n_fft": 32, "win_length": 32, "hop_length": 32},
    )
    view = TrainingView(stereo, np.arange(3), recipe, 3, 16, 3, 0)
    batch = next(view.batches(0))
    assert sorted(batch["clip"][batch["response_rows"]]) == [0, 2]
    assert len(view.ir_hash) == 64
    own = shutil.copytree(response_folder, tmp_path / "own")
    (own / "makes.toml").write_text('[train]\nAcme = ["low"]\n[test]\nBell = ["high"]\n')
    trained = TrainingView(
        stereo, np.arange(3), make_recipe(augment={**augment, "ir_folder": str(own), "ir_split": "train"}), 3, 16, 3, 0
    )
    assert np.array_equal(trained.responses, view.responses[1:])  # of "high" and "low", in this order
    with pytest.raises(InputError, match=r"recorder 'c' .*allowed: a, b"):
        TrainingView(stereo, np.arange(3), make_recipe(augment={**augment, "ir_recorders": ["c"]}), 3, 16, 3, 0)
