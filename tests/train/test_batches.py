"""From the indices of a batch to the network's input and its targets."""

import numpy as np
import pytest
import torch

from edgekd.data.audio.augment import mix
from edgekd.models import build
from edgekd.models.logmel import LogMel
from edgekd.train.batches.epochs import TrainingView
from edgekd.train.loop.module import TrainingModule
from edgekd.train.loss.objective import Objective
from edgekd.train.prepare.prepared import LabelTable, Teaching
from edgekd.train.run.folder import model_config, resolved

CPU = torch.device("cpu")
OFF = {"mixup_p": 0.0, "roll": 0.0, "gain_db": 0.0, "mel_masks": 0, "time_masks": 0}


def module_of(store, recipe, batch_size=4, phase=None):
    """A training module, and the batches of its first epoch on the device."""
    recipe = resolved(recipe)
    fe, clips = recipe.frontend, store.indices(["a"])
    view = TrainingView(store, clips, recipe, batch_size, fe.n_mels, fe.frames(8000), 0)
    objective = Objective(recipe.distill, len(store.labels), 0.0, teachers=0)
    model = build(model_config(recipe), len(store.labels))
    labels = LabelTable(torch.from_numpy(store.label_index), None)
    module = TrainingModule(model, LogMel(fe), view, Teaching(objective, (), labels), recipe, phase or recipe.train)
    return module, [module.transfer_batch_to_device(batch, CPU, 0) for batch in module.train_dataloader()]


def features_of(store, recipe, batch_size=4):
    """{clip: log-mel} of an epoch."""
    module, batches = module_of(store, recipe, batch_size)
    return {
        int(clip): x
        for batch in batches
        for clip, x in zip(batch["clip"][: len(batch["partner"])], module.augmented(batch)[1], strict=True)
    }


@pytest.mark.parametrize("domain", ["waveform", "loudness", "log_mel"])
def test_what_a_clip_becomes_does_not_depend_on_its_batch(store, make_recipe, response_folder, domain):
    everything = {
        "mixup_domain": domain,
        "ir_p": 0.5,
        "ir_folder": str(response_folder),
        "mixstyle_p": 0.5,
        "time_stretch": 1.3,
        "speed": 1.2,
        "filter_p": 0.5,
    }
    recipe = make_recipe(augment=everything)
    small, large = features_of(store, recipe, 2), features_of(store, recipe, 15)
    assert len(small) == 15
    assert all(torch.allclose(small[clip], large[clip], atol=1e-3) for clip in small)


@pytest.mark.parametrize(
    "change",
    [
        {"mixup_p": 1.0},
        {"mixup_p": 1.0, "mixup_domain": "loudness"},
        {"mixup_p": 1.0, "mixup_domain": "log_mel"},
        {"ir_p": 1.0},
        {"mixstyle_p": 1.0},
        {"time_stretch": 1.5},
        {"gain_db": 6.0},
        {"roll": 0.2},
        {"mel_masks": 2, "mel_mask_bins": 8},
        {"time_masks": 2, "time_mask_frames": 10},
        {"speed": 1.3},
        {"filter_p": 1.0},
    ],
)
def test_each_augmentation_changes_the_features_and_keeps_their_shape(store, make_recipe, response_folder, change):
    plain = features_of(store, make_recipe(augment=OFF))
    changed = features_of(store, make_recipe(augment={**OFF, "ir_folder": str(response_folder), **change}))
    assert all(changed[clip].shape == plain[clip].shape for clip in plain)
    assert sum(not torch.allclose(changed[clip], plain[clip], atol=1e-3) for clip in plain) >= 7


def test_without_augmentation_the_features_are_those_of_the_front_end(store, make_recipe):
    module, batches = module_of(store, make_recipe(augment=OFF))
    for batch in batches:
        assert torch.allclose(module.augmented(batch)[1], LogMel(module.recipe.frontend)(batch["waveform"]), atol=1e-3)


def test_features_are_float32_in_the_float_phase_and_exact_in_the_quantization_aware_one(store, make_recipe):
    recipe = make_recipe(augment=OFF)
    for phase, exact in ((recipe.train, False), (recipe.qat, True)):
        module, batches = module_of(store, recipe, phase=phase)
        waveform = batches[0]["waveform"]
        assert torch.equal(module.augmented(batches[0])[1], LogMel(recipe.frontend, exact)(waveform))


def test_labels_are_mixed_as_the_clips_are(store, make_recipe):
    module, batches = module_of(store, make_recipe(augment={**OFF, "mixup_p": 1.0}), 2)
    assert any(len(batch["clip"]) > len(batch["partner"]) for batch in batches)
    for batch in batches:
        targets = module.objective.targets(module.label[batch["clip"]], None, batch["partner"], batch["share"])
        own, other = (module.label[batch["clip"][rows]] for rows in (slice(len(batch["partner"])), batch["partner"]))
        for row, (first, second, share) in enumerate(zip(own, other, batch["share"], strict=True)):
            expected = np.zeros(3)
            expected[first] += share
            expected[second] += 1 - share
            assert np.allclose(targets.labels[row], expected, atol=1e-6)
        assert torch.equal(
            module.augmented(batch)[1], module.train_front(mix(batch["waveform"], batch["partner"], batch["share"]))
        )
        assert module.training_step(batch, 0).isfinite()


def test_another_speed_resamples_the_waveform_from_the_same_start(store, make_recipe):
    module, batches = module_of(store, make_recipe(augment={**OFF, "speed": 2.0}), 15)
    (batch,) = batches
    starts = next(module.view.batches(0))["crops"].start
    waveform, _ = module.augmented(batch)
    assert waveform.shape == (15, module.view.samples)
    for row, (clip, start, speed) in enumerate(zip(batch["clip"], starts, batch["speed"], strict=True)):
        source = np.pad(store.waveform(int(clip)), (0, 20_000))[int(start) :]
        position = np.arange(module.view.samples) * float(speed)
        inside = position < len(store.waveform(int(clip))) - start - 1
        assert np.allclose(
            waveform[row][inside], np.interp(position, np.arange(len(source)), source)[inside], atol=1e-4
        )
    assert (batch["speed"].min() < 0.8, batch["speed"].max() > 1.3) == (True, True)


def test_a_filter_adds_gains_along_straight_lines_and_keeps_the_floor(store, make_recipe):
    one_line = {**OFF, "filter_db": 12.0, "filter_bands": [1, 1]}
    plain, filtered = (features_of(store, make_recipe(augment={**one_line, "filter_p": share})) for share in (0.0, 1.0))
    fe = make_recipe().frontend
    for clip in plain:
        rise = (filtered[clip] - plain[clip])[0] * fe.std * 10 / np.log(10)  # decibels (mel, frame)
        above = plain[clip][0] > np.log(fe.log_floor) / fe.std + 3
        curve = torch.where(above, rise, torch.nan).nanmean(dim=1)
        known = ~curve.isnan()
        assert curve[known].abs().max() <= 12.01
        bins = np.arange(len(curve))[known.numpy()]
        assert np.allclose(np.polyval(np.polyfit(bins, curve[known], 1), bins), curve[known], atol=0.05)  # one line


def test_time_stretching_changes_the_tempo_and_not_the_pitch(store, make_recipe):
    """A tone keeps its mel bin at any tempo."""
    plain, paced = (features_of(store, make_recipe(augment={**OFF, "time_stretch": stretch})) for stretch in (1.0, 2.0))
    loudest = {clip: (plain[clip].mean(dim=2).argmax(), paced[clip].mean(dim=2).argmax()) for clip in plain}
    assert all(abs(first - second) <= 1 for first, second in loudest.values())
