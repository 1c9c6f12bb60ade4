"""Soft labels: computed once, keyed, refused when damaged; teachers that don't fit are refused."""

import dataclasses
import shutil

import msgspec
import numpy as np
import pytest
import torch
from helpers.trainings import RATE, TONES, tone, write_store

from edgekd.data.audio.augment import gain
from edgekd.data.store.clips import Clip
from edgekd.data.store.writer import StoreWriter
from edgekd.errors import InputError
from edgekd.models import segment_logits
from edgekd.models.logmel import LogMel
from edgekd.train.batches.crops import read_waveforms
from edgekd.train.batches.teacher_view import TeacherView
from edgekd.train.loop.training import train
from edgekd.train.run.folder import MODEL_FILE, SOFT_LABELS_FOLDER, load_run
from edgekd.train.teachers import soft_labels as softlabels
from edgekd.train.teachers.soft_labels import clip_probabilities, soft_labels, teacher_scores


@pytest.fixture(scope="module")
def teacher_path(store, tmp_path_factory):
    from helpers.trainings import recipe_dict

    from edgekd.train.recipe.recipe import decode

    path = tmp_path_factory.mktemp("teachers") / "t"
    train(decode(recipe_dict("teacher", train={"epochs": 1}), "t"), store, path)
    return path


@pytest.fixture
def teacher(teacher_path, tmp_path):
    shutil.copytree(teacher_path, tmp_path / "t")
    return load_run(tmp_path / "t")


def test_they_are_the_logits_of_every_clip_and_computed_once(teacher, store, monkeypatch):
    key, logits = soft_labels(teacher, store)
    assert (logits.shape, logits.dtype) == ((len(store.clips), 3), np.float16)
    monkeypatch.setattr(softlabels, "window_logits", lambda *_: pytest.fail("computed again"))
    again, cached = soft_labels(load_run(teacher.path), store)
    assert again == key
    assert np.array_equal(cached, logits)


def test_other_weights_give_another_key(teacher, store):
    key, logits = soft_labels(teacher, store)
    state = torch.load(teacher.path / MODEL_FILE, weights_only=True)
    state["classifier.conv.bias" if "classifier.conv.bias" in state else list(state)[-1]] += 1.0
    torch.save(state, teacher.path / MODEL_FILE)
    other, changed = soft_labels(load_run(teacher.path), store)
    assert other != key
    assert not np.array_equal(changed, logits)


def test_a_changed_file_is_refused(teacher, store):
    key, logits = soft_labels(teacher, store)
    np.save(teacher.path / SOFT_LABELS_FOLDER / f"{key[:16]}.npy", logits + 1)
    with pytest.raises(InputError, match="delete the file"):
        soft_labels(teacher, store)


def test_a_teacher_of_other_labels_is_refused(teacher, tmp_path):
    other = write_store(tmp_path / "other", {"high": 3000.0, "deep": 100.0, "mid": 1000.0}, (("a", 1), ("b", 1)))
    with pytest.raises(InputError, match="not in both: deep, low"):
        soft_labels(teacher, other)


def test_a_score_of_perfect_logits_is_perfect(store):
    logits = 10 * np.eye(3, dtype=np.float32)[store.label_index]
    result = teacher_scores(clip_probabilities(logits), store, store.indices(["b"]))
    assert result.accuracy == 1.0
    assert result.log_loss < 0.001


def interrupt_after(monkeypatch, parts):
    """Raise KeyboardInterrupt once so many parts are computed; a list with the number that is left."""
    compute, left = softlabels.window_logits, [parts]

    def limited(*args):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return compute(*args)

    monkeypatch.setattr(softlabels, "window_logits", limited)
    return left


def test_parts_survive_an_interruption_and_change_nothing(teacher, store, monkeypatch):
    monkeypatch.setattr(softlabels, "PART_CLIPS", 8)  # 21 clips: three parts
    key, straight = soft_labels(teacher, store)
    folder = teacher.path / SOFT_LABELS_FOLDER
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(whole) == 2
    for path in folder.iterdir():
        path.unlink()
    left = interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        soft_labels(teacher, store)
    assert {path.name for path in folder.iterdir()} == {f"{key[:16]}-{part}.npz" for part in ("0-8", "8-16")}
    np.savez(folder / f"{key[:16]}-0-8.npz", key=np.array("0" * 64), logits=straight[:8] + 1)
    left[0] = 2  # the missing part and the one of another key
    assert soft_labels(teacher, store)[0] == key
    assert left == [0]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_a_full_disk_keeps_the_parts_that_are_done(teacher, store, monkeypatch, full_disk):
    monkeypatch.setattr(softlabels, "PART_CLIPS", 8)
    key, _ = soft_labels(teacher, store)
    folder = teacher.path / SOFT_LABELS_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    free = full_disk(f"{key[:16]}-8-16.npz")
    with pytest.raises(InputError, match=r"-8-16\.npz .*No space left on device"):
        soft_labels(teacher, store)
    free()
    assert [path.name for path in folder.iterdir()] == [f"{key[:16]}-0-8.npz"]
    assert soft_labels(teacher, store)[0] == key


def test_memory_that_runs_out_is_reported(teacher, store, monkeypatch):
    def exhausted(*_):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(softlabels, "window_logits", exhausted)
    with pytest.raises(InputError, match=r"memory ran out .*9 TiB"):
        soft_labels(teacher, store)


def changed(run, **tables):
    """A run as if its recipe had other values in some tables."""
    tables = {
        name: msgspec.structs.replace(getattr(run.recipe, name), **value) if isinstance(value, dict) else value
        for name, value in tables.items()
    }
    return dataclasses.replace(run, recipe=msgspec.structs.replace(run.recipe, **tables))


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    """Of each label two recordings of three segments of 0.5 s, in turns, and one clip that stands alone."""
    with StoreWriter(
        tmp_path_factory.mktemp("segmented") / "s", name="s", licence="CC0", sample_rate=RATE, channels=1
    ) as writer:
        for number in range(3):
            for label, hertz in TONES.items():
                for parent in "xy":
                    name = f"{label}-{parent}"
                    writer.add(
                        Clip(f"{name}-{number}.wav", label, "a", parent=name),
                        tone(hertz, 0.5, [number, ord(parent), int(hertz)]),
                    )
        writer.add(Clip("lone.wav", "low", "a"), tone(300.0, 0.5, [9]))
        return writer.finish()


def test_views_are_what_the_teacher_says_of_each_augmented_view(teacher, store):
    _, plain = soft_labels(teacher, store)
    _, logits = soft_labels(teacher, store, views=3)
    assert (logits.shape, logits.dtype) == ((3, len(store.clips), 1, 3), np.float16)
    hears, model = LogMel(teacher.frontend), teacher.float_model()
    view = TeacherView(store, store.indices(["a"]), teacher.recipe)
    for epoch in range(3):
        crops, gain_db = view.crops(epoch, np.arange(len(store.clips)))
        with torch.no_grad():
            expected = model(
                hears(gain(torch.from_numpy(read_waveforms(store, crops)), torch.from_numpy(gain_db)))
            ).numpy()
        assert np.allclose(logits[epoch, :, 0], expected, atol=0.01)
        assert not np.allclose(logits[epoch, :, 0], plain, atol=0.01)
    assert not np.allclose(logits[0], logits[1], atol=0.01)


def test_what_decides_the_views_is_in_their_key(teacher, store):
    def key_of(run, views=2, **more):
        return softlabels.soft_label_key(run, store, views, **more)

    louder, later = changed(teacher, augment={"gain_db": 9.0}), changed(teacher, seed=5)
    some, others = np.arange(8), np.arange(1, 9)
    keys = [
        key_of(teacher),
        key_of(teacher, 3),
        key_of(louder),
        key_of(later),
        key_of(teacher, stream=9),
        key_of(teacher, 0),
        key_of(teacher, joined=some),
        key_of(teacher, joined=others),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(louder, 0) == key_of(later, 0) == key_of(teacher, 0)
    assert key_of(teacher, joined=some[::-1]) == key_of(teacher, joined=some)


def test_parts_of_views_survive_an_interruption_and_change_nothing(teacher, store, monkeypatch):
    monkeypatch.setattr(softlabels, "PART_CLIPS", 8)  # 21 clips: three parts of each view
    key, straight = soft_labels(teacher, store, views=2)
    folder = teacher.path / SOFT_LABELS_FOLDER
    shown = f"{key[:16]}"
    whole = {path.name: path.read_bytes() for path in folder.glob(f"{shown}*")}
    assert len(whole) == 2
    for name in whole:
        (folder / name).unlink()
    left = interrupt_after(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        soft_labels(teacher, store, views=2)
    assert sorted(path.name for path in folder.glob(f"{shown}*")) == [
        f"{shown}-{part}.npz" for part in ("0-8", "16-21", "21-29", "8-16")
    ]
    np.savez(folder / f"{shown}-21-29.npz", key=np.array("0" * 64), logits=straight[1, :8, 0] + 1)
    left[0] = 3  # the missing parts and the one of another key
    assert np.array_equal(soft_labels(teacher, store, views=2)[1], straight)
    assert left == [0]
    assert {path.name: path.read_bytes() for path in folder.glob(f"{shown}*")} == whole
    np.save(folder / f"{shown}.npy", straight + 1)
    with pytest.raises(InputError, match="delete the file"):
        soft_labels(teacher, store, views=2)


def test_siblings_share_what_is_said_of_their_recording(teacher, segmented, monkeypatch):
    monkeypatch.setattr(softlabels, "PART_CLIPS", 4)  # siblings are far from each other in the table
    run = changed(teacher, view={"span": "parent"})
    hears, model = LogMel(run.frontend), run.float_model()
    _, logits = soft_labels(run, segmented)
    _, views = soft_labels(run, segmented, views=2)
    assert (logits.shape, views.shape) == ((19, 3), (2, 19, 1, 3))
    for parent in {clip.parent for clip in segmented.clips} - {""}:
        siblings = [index for index, clip in enumerate(segmented.clips) if clip.parent == parent]
        joined = np.concatenate([segmented.waveform(clip) for clip in siblings])
        with torch.no_grad():
            expected = model(hears(torch.from_numpy(joined)[None]))[0].numpy()
        assert np.allclose(logits[siblings[0]], expected, atol=0.01)
        for each in (logits, *views):
            assert (each[siblings] == each[siblings[0]]).all()
    assert len(np.unique(logits, axis=0)) == 7


def test_each_segment_has_the_posterior_of_its_own_part(teacher, segmented):
    hears, model = LogMel(teacher.frontend), teacher.float_model()
    run = changed(teacher, view={"span": "parent", "segments": 3})
    _, logits = soft_labels(run, segmented)
    siblings = [index for index, clip in enumerate(segmented.clips) if clip.parent == "low-y"]
    joined = torch.from_numpy(np.concatenate([segmented.waveform(clip) for clip in siblings]))
    with torch.no_grad():
        expected = segment_logits(model, hears(joined[None]), 3)[0].numpy()
    assert logits.shape == (19, 3)
    assert np.allclose(logits[siblings], expected, atol=0.01)
    assert not np.allclose(expected[0], expected[1], atol=0.01)
    assert soft_labels(run, segmented, views=2)[1].shape == (2, 19, 1, 3)


def test_a_clip_has_as_many_segments_as_asked_for(teacher, store):
    run = changed(teacher, view={"segments": 4})
    _, logits = soft_labels(run, store)
    assert logits.shape == (21, 4, 3)
    assert soft_labels(run, store, views=2)[1].shape == (2, 21, 4, 3)
    with torch.no_grad():
        x = LogMel(run.frontend)(torch.from_numpy(store.waveform(3))[None])
        assert np.allclose(logits[3], segment_logits(run.float_model(), x, 4)[0], atol=0.01)
    sure = np.zeros((21, 2, 3))  # half of each clip right and sure, half wrong and less so
    sure[np.arange(21), 0, store.label_index], sure[np.arange(21), 1, (store.label_index + 1) % 3] = 9.0, 1.0
    assert teacher_scores(clip_probabilities(sure), store, np.arange(21)).accuracy == 1.0
    with pytest.raises(InputError, match=r'segments = 4 with .*"pair"'):
        soft_labels(changed(teacher, view={"segments": 4, "span": "pair"}), store)


def test_a_crop_teacher_hears_a_window_around_the_middle_of_each_segment(teacher, store):
    run = changed(teacher, view={"span": "crop", "seconds": 0.5, "segments": 5})
    _, logits = soft_labels(run, store)
    assert logits.shape == (21, 5, 3)
    clip, half = 3, RATE // 4
    sound, length = store.waveform(clip), int(store.lengths[clip])
    for part, labels in enumerate(logits[clip]):
        start = min(max((2 * part + 1) * length // 10 - half, 0), length - 2 * half)
        with torch.no_grad():
            x = LogMel(run.frontend)(torch.from_numpy(sound[start : start + 2 * half])[None])
            assert np.allclose(labels, run.float_model().eval()(x)[0], atol=0.01)


def test_a_silent_window_is_judged_as_the_clip(teacher, store):
    run = changed(teacher, view={"span": "crop", "seconds": 0.2, "segments": 5})
    # its first half is silent
    (clip,) = [number for number, each in enumerate(store.clips) if each.path == "a/high0.wav"]
    labels = soft_labels(run, store)[1][clip].astype(np.float32)
    assert np.allclose(labels[0], labels[1], atol=0.01)
    assert np.allclose(labels[0], labels[2:].mean(axis=0), atol=0.01)
    assert not np.allclose(labels[2:], labels[0], atol=0.01)


def test_a_crop_teacher_says_one_thing_of_each_view(teacher, store):
    run = changed(teacher, view={"span": "crop", "seconds": 0.5})
    assert soft_labels(run, store)[1].shape == (21, 3)
    assert soft_labels(run, store, views=2)[1].shape == (2, 21, 1, 3)
