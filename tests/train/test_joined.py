"""Rows of several clips (whole recordings, pairs of a label), several channels, and the views of teachers."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers.trainings import recipe_dict
from torch import nn

from edgekd.data.store import page_cache
from edgekd.data.store.clips import Clip
from edgekd.data.store.store import ClipStore
from edgekd.data.store.writer import StoreWriter
from edgekd.errors import InputError
from edgekd.train.batches.audio_cache import AudioCache
from edgekd.train.batches.crops import Crops, read_pcm, read_waveforms, scored_windows, segment_of, window_samples
from edgekd.train.batches.epochs import TrainingView
from edgekd.train.batches.random_streams import RandomStream
from edgekd.train.batches.teacher_view import TeacherView
from edgekd.train.loop.training import train
from edgekd.train.loop.validation import predict_clips
from edgekd.train.recipe.recipe import decode
from edgekd.train.recipe.schema import View
from edgekd.train.run.folder import TEST_FILES

RATE = 1000
SEGMENT = 50
PLAIN = {"mixup_p": 0.0, "roll": 0.0, "gain_db": 0.0, "mel_masks": 0, "time_masks": 0}
FRONT = {"sample_rate": RATE, "n_fft": 32, "win_length": 32, "hop_length": 32, "n_mels": 8}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Stereo. Recording "x" has segments 0, 1, 10, 2 (in this order) of 50 samples, "y" of 50 and 30, "z" three of 50,
    and two stand alone.

    Split "a" has x and y and one alone, "b" has z and the other.
    """
    rng = np.random.default_rng(0)
    rows = [(f"x-{number}.wav", "p", "a", "x", SEGMENT) for number in (0, 1, 10, 2)]
    rows += [("y-0.wav", "q", "a", "y", SEGMENT), ("y-1.wav", "q", "a", "y", 30), ("lone.wav", "p", "a", "", 70)]
    rows += [(f"z-{number}.wav", "q", "b", "z", SEGMENT) for number in range(3)] + [
        ("other.wav", "p", "b", "", SEGMENT)
    ]
    with StoreWriter(
        tmp_path_factory.mktemp("recorded") / "s", name="s", licence="CC0", sample_rate=RATE, channels=2
    ) as writer:
        for path, label, split, parent, length in rows:
            writer.add(
                Clip(path, label, split, parent=parent), rng.integers(-(2**15), 2**15, (length, 2)).astype(np.int16)
            )
        return writer.finish()


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Mono, all clips of 20 samples: five of label "m", two of "n" and one of "o" in split "a"; one of each in "b"."""
    rng = np.random.default_rng(1)
    with StoreWriter(
        tmp_path_factory.mktemp("many") / "s", name="s", licence="CC0", sample_rate=RATE, channels=1
    ) as writer:
        for split, counts in (("a", {"m": 5, "n": 2, "o": 1}), ("b", {"m": 1, "n": 1, "o": 1})):
            for label, count in counts.items():
                for number in range(count):
                    writer.add(
                        Clip(f"{split}{label}{number}.wav", label, split),
                        rng.integers(-(2**15), 2**15, (20, 1)).astype(np.int16),
                    )
        return writer.finish()


def recipe(view, **augment):
    return decode(
        recipe_dict("teacher", view=view, frontend=FRONT, augment={**PLAIN, **augment}, data={"train": ["a"]}), "test"
    )


def viewed(store, view, batch_size=3, clips=None, stream=0, shard=(0, 1), **augment):
    chosen = recipe(view, **augment)
    samples = window_samples(chosen.view, store)
    clips = store.indices(["a"]) if clips is None else clips
    return TrainingView(store, clips, chosen, batch_size, 8, chosen.frontend.frames(samples), stream, shard)


def whole(store, parent):
    """All segments of a recording in order, (time, channels)."""
    order = {"x": [0, 1, 3, 2], "y": [4, 5], "lone": [6], "z": [7, 8, 9], "other": [10]}
    return np.concatenate([store.clip_pcm(clip) for clip in order[parent]])


def pieces_of(crops):
    """{first clip of a row: all clips of the row}."""
    return {row[0]: tuple(row) for row in crops.clip.reshape(-1, crops.pieces).tolist()}


def epoch_pieces(view, epoch=0):
    return {first: row for batch in view.batches(epoch) for first, row in pieces_of(batch["crops"]).items()}


def test_recordings_are_joined_in_order_and_repeated_to_the_longest(recorded):
    view = View(span="parent")
    assert window_samples(view, recorded) == 200
    rows = read_pcm(recorded, scored_windows(recorded, np.arange(11), view))
    for row, parent in zip(rows, ("x", "y", "lone", "z", "other"), strict=True):
        assert np.array_equal(row, np.resize(whole(recorded, parent), (200, 2)))


def test_the_middle_of_longer_recordings_is_scored(recorded):
    rows = read_pcm(recorded, scored_windows(recorded, np.array([2, 5]), View(span="parent", seconds=0.11)))
    assert np.array_equal(rows[0], whole(recorded, "x")[45:155])
    assert np.array_equal(rows[1], np.resize(whole(recorded, "y"), (110, 2)))


def test_an_epoch_has_each_recording_once_and_none_of_the_other_side(recorded):
    view = viewed(recorded, {"span": "parent"}, batch_size=2)
    batches = list(view.batches(0))
    assert sorted(np.concatenate([batch["clip"] for batch in batches])) == [0, 4, 6]
    assert (view.steps, view.sizes, [len(batch["clip"]) for batch in batches]) == (2, [2, 1], [2, 1])
    for batch in batches:
        for first, row in zip(batch["clip"].tolist(), read_pcm(recorded, batch["crops"]), strict=True):
            assert np.array_equal(row, np.resize(whole(recorded, {0: "x", 4: "y", 6: "lone"}[first]), (200, 2)))
    # with leaks allowed: segments of the test side are left out
    some = viewed(recorded, {"span": "parent"}, clips=np.array([3, 1, 7]))
    assert epoch_pieces(some).keys() == {1, 7}
    assert {clip for row in epoch_pieces(some).values() for clip in row} == {1, 3, 7}


def test_recordings_are_cropped_rolled_and_stretched_as_one(recorded):
    view = viewed(recorded, {"span": "parent", "seconds": 0.12}, roll=0.03, time_stretch=1.2)
    begins = set()
    for epoch in range(20):
        batch = next(view.batches(epoch))
        crops = batch["crops"]
        for first, row, span, shift in zip(
            batch["clip"], read_pcm(recorded, crops), crops.span, crops.shift, strict=True
        ):
            if first == 0:
                unrolled = np.roll(row[:span], -shift, axis=0)
                begin = next(
                    at for at in range(201 - span) if np.array_equal(whole(recorded, "x")[at : at + span], unrolled)
                )
                begins.add(begin)
                assert not row[span:].any()
    assert len(begins) > 10


def test_segments_of_several_labels_cannot_be_trained_on_as_one(tmp_path):
    with StoreWriter(tmp_path / "s", name="s", licence="CC0", sample_rate=RATE, channels=1) as writer:
        for number, label in enumerate("pqp"):
            writer.add(Clip(f"{number}.wav", label, "a", parent="mixed"), np.ones((10, 1), np.int16))
        store = writer.finish()
    with pytest.raises(InputError, match=r"'mixed' .*labels p, q; .*view\.span"):
        viewed(store, {"span": "parent"})


class Mean(nn.Module):
    """Logits from the mean and the extremes of a waveform in the place of features."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return torch.stack([x.mean(dim=-1), x.amax(dim=-1)], dim=-1) * self.weight


def test_all_segments_of_a_recording_have_its_logits(recorded):
    clips = np.array([9, 0, 6, 2, 7])
    windows = predict_clips(Mean(), nn.Identity(), recorded, clips, View(span="parent"))
    assert windows.clip.tolist() == clips.tolist()
    assert len(windows.start) == len(windows.silent) == 5
    for row, parent in zip(windows.logits, ("z", "x", "lone", "x", "z"), strict=True):
        wave = np.resize(whole(recorded, parent).mean(axis=1) / 2**15, 200)
        assert np.allclose(row, [wave.mean(), wave.max()], atol=1e-5)


def test_a_partner_is_another_training_clip_of_the_label_and_changes(many):
    view = viewed(many, {"span": "pair"}, batch_size=8)
    assert view.samples == 40
    partners = {clip: set() for clip in many.indices(["a"]).tolist()}
    for epoch in range(40):
        for first, (_, other) in epoch_pieces(view, epoch).items():
            partners[first].add(other)
    assert partners == {**{clip: {0, 1, 2, 3, 4} - {clip} for clip in range(5)}, 5: {6}, 6: {5}, 7: {7}}


def test_a_pair_is_the_clip_and_then_its_partner(many):
    for batch in viewed(many, {"span": "pair"}).batches(0):
        rows = batch["crops"].clip.reshape(-1, 2)
        assert np.array_equal(rows[:, 0], batch["clip"])
        expected = [np.concatenate([many.clip_pcm(clip) for clip in row]) for row in rows]
        assert np.array_equal(read_pcm(many, batch["crops"]), np.stack(expected))


def test_what_is_joined_to_a_clip_does_not_depend_on_its_batch_or_process(many):
    view = {"span": "pair", "joined": 3, "seconds": 0.015}
    augment = {"roll": 0.01, "mixup_p": 0.5}
    large, small = (viewed(many, view, size, **augment) for size in (8, 3))
    parts = [viewed(many, view, 3, shard=(rank, 2), **augment) for rank in (0, 1)]

    def rows_of(*views):
        batches = [batch for each in views for batch in each.batches(2)]
        return {
            int(clip): row.tobytes()
            for batch in batches
            for clip, row in zip(batch["clip"], read_pcm(many, batch["crops"]), strict=True)
        }

    assert rows_of(large) == rows_of(small) == rows_of(*parts)
    assert rows_of(large) != rows_of(viewed(many, view, 8, stream=1, **augment))


def test_three_that_are_joined_are_three_where_the_label_has_them(many):
    view = viewed(many, {"span": "pair", "joined": 4}, batch_size=8)
    rows = [row for epoch in range(30) for row in epoch_pieces(view, epoch).values()]
    assert all(len(set(row)) == 4 for row in rows if row[0] < 5)
    assert {row for row in rows if row[0] == 5} == {(5, 6, 6, 6)}
    triples = {row[1:] for row in rows if row[0] == 0}
    assert len(triples) > 12  # of 24


def test_pairs_of_longer_and_shorter_clips_have_one_length_each(recorded):
    view = viewed(recorded, {"span": "pair", "seconds": 0.06})
    for batch in view.batches(0):
        rows = batch["crops"].clip.reshape(-1, 2)
        starts = batch["crops"].start.reshape(-1, 2)
        for row, clips, begin in zip(read_pcm(recorded, batch["crops"]), rows, starts, strict=True):
            expected = [
                np.resize(recorded.clip_pcm(clip)[at : at + 60], (60, 2)) for clip, at in zip(clips, begin, strict=True)
            ]
            assert np.array_equal(row, np.concatenate(expected))


def test_a_pair_view_is_scored_on_the_repeated_clip(recorded):
    rows = read_pcm(recorded, scored_windows(recorded, np.array([6, 5]), View(span="pair", seconds=0.06, joined=3)))
    assert np.array_equal(rows[0], np.tile(recorded.clip_pcm(6)[5:65], (3, 1)))
    assert np.array_equal(rows[1], np.tile(np.resize(recorded.clip_pcm(5), (60, 2)), (3, 1)))
    windows = predict_clips(Mean(), nn.Identity(), recorded, np.array([6, 5]), View(span="pair", seconds=0.06))
    assert (windows.clip.tolist(), windows.start.tolist()) == ([6, 5], [5, 0])


@pytest.mark.parametrize(
    "view", [{"span": "crop", "seconds": 0.04}, {"span": "parent", "seconds": 0.15}, {"span": "pair", "joined": 3}]
)
@pytest.mark.parametrize("channels", ["mean", "all"])
@pytest.mark.parametrize("resident", [False, True])
def test_the_audio_cache_reads_joined_clips_and_channels_as_numpy_does(recorded, view, channels, resident):
    view = viewed(recorded, {**view, "channels": channels}, batch_size=20, roll=0.02, time_stretch=1.3)
    audio_cache = AudioCache(recorded, torch.device("cpu"), resident)
    for epoch in range(3):
        for batch in view.batches(epoch):
            for crops in (
                batch["crops"],
                batch["crops"][1:3],
                scored_windows(recorded, np.arange(11), view.recipe.view),
            ):
                assert np.array_equal(audio_cache.waveforms(crops).numpy(), read_waveforms(recorded, crops))


def test_waveforms_have_all_channels_or_their_mean(recorded):
    crops = scored_windows(recorded, np.arange(11), View(span="clip", channels="all"))
    apart = read_waveforms(recorded, crops)
    assert apart.shape == (11, 2, 70)
    assert np.array_equal(apart[6], recorded.clip_pcm(6).T / np.float32(2**15))
    assert np.allclose(
        apart.mean(axis=1), read_waveforms(recorded, dataclasses.replace(crops, channels="mean")), atol=1e-6
    )
    assert next(viewed(recorded, {"span": "clip", "channels": "all"}).unaugmented(4, RandomStream.FLOAT)).shape == (
        4,
        2,
        70,
    )


def test_the_segment_of_a_crop_is_that_of_its_middle(recorded):
    # middles 10, 35, 65 of 70, and 10 of 30
    crops = Crops(np.array([6, 6, 6, 5]), np.array([0, 25, 60, 0]), 20, tile=False)
    assert segment_of(crops, recorded, 7).tolist() == [1, 3, 6, 2]
    # of 6 samples 10 to 60, of 5 all and 20 of it again
    assert segment_of(crops, recorded, 2, teacher_samples=50).tolist() == [0, 1, 1, 0]
    assert segment_of(crops[3:], recorded, 5, teacher_samples=50).tolist() == [1]


def test_the_view_of_a_teacher_depends_on_its_recipe_and_the_epoch(many):
    chosen = recipe({"span": "pair"}, roll=0.005, gain_db=6.0)
    train = many.indices(["a"])
    clips = np.arange(len(many.clips))
    crops, gain_db = TeacherView(many, train, chosen).crops(3, clips)
    again, _ = TeacherView(many, train[::-1], chosen).crops(3, clips[::-1])
    assert np.array_equal(read_pcm(many, crops), read_pcm(many, again)[::-1])
    later, other_gain = TeacherView(many, train, chosen).crops(4, clips)
    assert (gain_db != other_gain).all()
    assert not np.array_equal(read_pcm(many, crops), read_pcm(many, later))
    joined = {first: row[1:] for first, row in pieces_of(crops).items()}
    assert all(set(row) <= set(train.tolist()) for row in joined.values())
    assert all(many.label_index[row[0]] == many.label_index[first] for first, row in joined.items())


def test_segments_of_a_recording_have_the_same_teacher_view(recorded):
    crops, gain_db = TeacherView(
        recorded, np.arange(7), recipe({"span": "parent", "seconds": 0.1}, roll=0.02, gain_db=6.0)
    ).crops(0, np.array([0, 2, 4, 7]))
    rows = read_pcm(recorded, crops)
    assert np.array_equal(rows[0], rows[1])
    assert gain_db[0] == gain_db[1] != gain_db[2]
    assert crops.owner.tolist() == [0, 0, 4, 7]


def test_segments_keep_their_positions(recorded):
    view = TeacherView(recorded, np.arange(7), recipe({"span": "parent", "segments": 4}, roll=0.02, gain_db=6.0))
    for epoch in (0, 1):
        crops, gain_db = view.crops(epoch, np.arange(4))
        assert np.array_equal(read_pcm(recorded, crops)[1], whole(recorded, "x"))
        assert gain_db.any()


def test_the_kernel_is_asked_to_read_every_piece(recorded, monkeypatch):
    read = []
    monkeypatch.setattr(page_cache, "prefetch", lambda _, parts: read.extend(parts))
    streamed = ClipStore.open(recorded.path, streamed=True)
    batch = next(viewed(streamed, {"span": "parent", "seconds": 0.08}, batch_size=3).batches(0))
    wanted = {
        (int(streamed.offsets[clip] + start) * 4, int(streamed.offsets[clip] + start + length) * 4)
        for clip, start, length in zip(batch["crops"].clip, batch["crops"].start, batch["crops"].length, strict=True)
        if length
    }
    assert set(read) == wanted
    # the last is a clip of 70 samples, which is repeated
    assert sum(after - begin for begin, after in read) == (80 + 80 + 70) * 4


def test_half_of_each_batch_of_a_specialist_is_of_its_pair(many):
    chosen = decode(
        recipe_dict("teacher", frontend=FRONT, data={"train": ["a"], "pair": ["m", "n"]}, augment=PLAIN), "test"
    )
    view = TrainingView(many, many.indices(["a"]), chosen, 4, 8, 1, 0)
    batches = list(view.batches(0))
    assert view.sizes == [len(batch["partner"]) for batch in batches] == [4, 4, 4, 2]
    assert all((many.label_index[batch["clip"]] < 2).sum() == len(batch["clip"]) / 2 for batch in batches)
    unknown = decode(recipe_dict("teacher", frontend=FRONT, data={"train": ["a"], "pair": ["m", "k"]}), "test")
    with pytest.raises(InputError, match=r"no label 'k' of data\.pair"):
        TrainingView(many, many.indices(["a"]), unknown, 4, 8, 1, 0)


@pytest.mark.parametrize(("view", "clips"), [({"span": "parent"}, [3, 3]), ({"span": "pair"}, [4, 4, 4])])
def test_a_teacher_of_joined_clips_is_trained_and_tested_clip_by_clip(tmp_path, view, clips):
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "s", name="s", licence="CC0", sample_rate=RATE, channels=1) as writer:
        for split in "ab":
            for number in range(12):
                parent = f"{split}{number // 2}"
                pcm = (3000 * rng.standard_normal((200, 1)) * (1 + number // 6)).astype(np.int16)
                writer.add(Clip(f"{split}{number}.wav", "pq"[number // 6], split, parent=parent), pcm)
        store = writer.finish()
    chosen = decode(recipe_dict("teacher", view=view, frontend=FRONT, train={"epochs": 1, "batch_size": 4}), "test")
    assert viewed(store, view, 4).sizes == clips
    run = train(chosen, store, tmp_path / "t")
    assert run.info.window == 400
    with np.load(run.path / TEST_FILES["float"]) as tested:
        assert tested["clip"].tolist() == store.indices(["b"]).tolist()
        assert tested["logits"].shape == (12, 2)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"mel_masks": 1}, r"augment\.mel_masks = 1 .* set it to 0"),
        ({"time_masks": 2}, r"augment\.time_masks = 2 .* set it to 0"),
        ({"time_stretch": 1.2}, r"time_stretch = 1\.2 .*to 1"),
        ({"mixstyle_p": 0.5}, r"augment\.mixstyle_p"),
        ({"mixup_p": 0.5, "mixup_domain": "log_mel"}, 'mixup_domain = log_mel .*"waveform"'),
    ],
)
def test_what_changes_a_log_mel_is_refused_for_networks_that_take_waveforms(many, augment, message):
    clips = many.indices(["a"])
    with pytest.raises(InputError, match=message):
        TrainingView(many, clips, recipe({"span": "clip"}, **augment), 4, 0, 0, 0)
    plain = TrainingView(many, clips, recipe({"span": "clip"}, roll=0.01, gain_db=3.0, mixup_p=0.5), 4, 0, 0, 0)
    assert all(batch["crops"].samples == 20 for batch in plain.batches(0))
