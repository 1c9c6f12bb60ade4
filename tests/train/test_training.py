"""Training from recipe to run folder: resuming, refusing, and what the folder holds. Past 400 lines for the many
trainings that are refused."""

import logging
import shutil
import signal
from contextlib import ExitStack

import msgspec
import numpy as np
import pytest
import torch
from helpers.training_runs import PowerCutError, assert_refused, equal_states, metrics_of, stop_in_epoch
from helpers.trainings import recipe_dict, write_store

from edgekd import quant
from edgekd.errors import InputError
from edgekd.files import PART, held
from edgekd.frontend import log_mel
from edgekd.metrics.predictions import Predictions
from edgekd.modelfile.equaliser import BandMean
from edgekd.models.logmel import LogMel
from edgekd.train.loop.module import TrainingModule
from edgekd.train.loop.schedule import learning_rate_factor
from edgekd.train.loop.training import Options, train
from edgekd.train.loop.validation import run_metrics
from edgekd.train.prepare import prepared
from edgekd.train.recipe.recipe import decode, load_recipe
from edgekd.train.recipe.schema import Export, Train
from edgekd.train.run.folder import (
    CHECKPOINT_FILE,
    METRICS_FILE,
    MODEL_FILE,
    QAT_FILE,
    RECIPE_FILE,
    RUN_FILE,
    load_run,
    resolved,
)


def student(**changes):
    return decode(recipe_dict(**changes), "student")


@pytest.fixture(scope="module")
def teacher(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("teachers") / "t"
    train(decode(recipe_dict("teacher"), "teacher"), store, path)
    return path


@pytest.fixture(scope="module")
def straight(store, teacher, tmp_path_factory):
    """A student that was never interrupted."""
    path = tmp_path_factory.mktemp("students") / "s"
    train(student(train={"ema_decay": 0.9}), store, path, [teacher])
    return path


@pytest.mark.parametrize(("phase", "epoch"), [("float", 0), ("float", 2), ("qat", 0), ("qat", 1)])
def test_an_interrupted_run_resumes_to_the_same_bits(straight, store, teacher, tmp_path, monkeypatch, phase, epoch):
    recipe = student(train={"ema_decay": 0.9})
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, epoch, phase)
        with pytest.raises(PowerCutError):
            train(recipe, store, tmp_path / "s", [teacher])
    with pytest.raises(InputError, match="not finished; run its command again with --resume"):
        load_run(tmp_path / "s")
    run = train(recipe, store, tmp_path / "s", [teacher], Options(resume=True))
    assert run.info.metrics == load_run(straight).info.metrics
    assert (tmp_path / "s" / METRICS_FILE).read_bytes() == (straight / METRICS_FILE).read_bytes()
    for file in (MODEL_FILE, QAT_FILE):
        first, second = (torch.load(path / file, weights_only=True) for path in (straight, tmp_path / "s"))
        assert equal_states(first, second)


def test_an_interrupt_names_the_epoch_and_resume(store, tmp_path, monkeypatch):
    handler = signal.getsignal(signal.SIGINT)
    stop_in_epoch(monkeypatch, 1, "float", KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt, match="s: interrupted in epoch 2 of the float phase; go on with --resume"):
        train(student(), store, tmp_path / "s")
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_interrupt_between_phases_names_resume_too(store, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(quant, "calibrate", interrupted)
    with pytest.raises(KeyboardInterrupt, match="s: interrupted; go on with --resume"):
        train(student(train={"epochs": 1}), store, tmp_path / "s")


def test_a_run_goes_on_by_its_own_recipe(store, tmp_path, monkeypatch):
    recipe = student(student={"dropout": 0}, qat={"epochs": 0})  # the recipe folder says 0, read back it is 0.0
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, 1, "float")
        with pytest.raises(PowerCutError):
            train(recipe, store, tmp_path / "s")
    again = load_recipe(str(tmp_path / "s" / RECIPE_FILE))
    assert train(again, store, tmp_path / "s", options=Options(resume=True)).info.status == "finished"


def test_a_damaged_checkpoint_is_named(store, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, 1, "float")
        with pytest.raises(PowerCutError):
            train(student(), store, tmp_path / "s")
    (tmp_path / "s" / CHECKPOINT_FILE).write_bytes(b"junk")
    with pytest.raises(InputError, match=r"last\.ckpt: cannot be loaded .*--force"):
        train(student(), store, tmp_path / "s", options=Options(resume=True))


def test_a_finished_run_says_so_and_is_left_alone(straight, store, teacher, caplog):
    before = (straight / RUN_FILE).read_bytes()
    with caplog.at_level(logging.INFO, "edgekd"):
        train(student(train={"ema_decay": 0.9}), store, straight, [teacher], Options(resume=True))
    assert "finished already" in caplog.text
    assert (straight / RUN_FILE).read_bytes() == before


def test_the_folder_holds_metrics_of_every_epoch_and_both_networks(straight, store):
    rows = metrics_of(straight)
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        ("float", "1"),
        ("float", "2"),
        ("float", "3"),
        ("qat", "1"),
        ("qat", "2"),
    ]
    for row in rows:
        weighted = [float(row[name]) for name in ("label_weighted", "kd_weighted", "float_weighted") if row[name]]
        assert float(row["loss"]) == pytest.approx(sum(weighted), rel=1e-5)
    assert [bool(row["float"]) for row in rows] == [False, False, False, True, True]
    assert [bool(row["test_clip_accuracy"]) for row in rows] == [False, True, True, False, True]
    assert any((straight / "tensorboard").iterdir())
    run = load_run(straight)
    assert run.labels == store.labels
    assert run.info.data.synthetic
    waveform = torch.from_numpy(store.window(0, 0, run.info.window))[None]
    for model in (run.float_model(), run.qat_model()):
        assert model(LogMel(run.frontend)(waveform)).shape == (1, 3)
    assert rows[-1]["test_clip_accuracy"] == str(run.info.metrics["qat_clip_accuracy"])


@pytest.mark.slow
def test_the_float_network_keeps_the_quantised_one_near_itself(store, tmp_path):
    gaps = {}
    for weight in (0.0, 0.5, 1.0):
        changes = {"float_weight": weight, "lr": 0.01, "epochs": 6}
        run = train(student(qat=changes), store, tmp_path / str(weight))
        waveform = torch.from_numpy(
            np.stack([store.window(clip, 0, run.info.window) for clip in range(len(store.labels) * 7)])
        )
        with torch.no_grad():
            x = LogMel(run.frontend)(waveform)
            gaps[weight] = (run.float_model()(x) - run.qat_model()(x)).square().mean().sqrt().item()
    weights = [load_run(tmp_path / name).float_model().state_dict() for name in ("0.0", "1.0")]
    assert all(
        torch.equal(weights[0][name], weights[1][name]) for name in weights[0]
    )  # the float network does not train
    assert gaps[1.0] < gaps[0.5] < gaps[0.0]


def test_the_front_end_is_normalised_by_the_training_clips(straight, store):
    fe = load_run(straight).frontend
    features = LogMel(fe)(torch.stack([torch.from_numpy(store.window(clip, 0, 8000)) for clip in store.indices(["a"])]))
    assert abs(features.mean()) < 0.3
    assert 0.7 < features.std() < 1.3


def test_the_mean_spectrum_of_the_training_clips_is_kept(straight, store):
    run = load_run(straight)
    fe, spectrum = run.frontend, np.array(run.info.spectrum)
    bands = BandMean(fe)
    bands.add(log_mel(fe, np.stack([store.window(clip, 0, 8000) for clip in store.indices(["a"])])))
    assert np.abs(spectrum - bands.value()).max() < 0.5  # crops of clips, another part of each


def test_accuracies_of_teachers_are_logged_before_the_first_epoch(store, teacher, tmp_path, monkeypatch, caplog):
    stop_in_epoch(monkeypatch, 0, "float")
    with caplog.at_level(logging.INFO, "edgekd"), pytest.raises(PowerCutError):
        train(student(), store, tmp_path / "s", [teacher, teacher])
    lines = [record.message for record in caplog.records if "of training clips" in record.message]
    assert len(lines) == 3
    assert lines[-1].startswith("mean of 2 teachers")


def test_without_teachers_labels_alone_train_and_the_log_says_so(store, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "edgekd"):
        train(student(train={"epochs": 1}, qat={"epochs": 0}), store, tmp_path / "s")
    assert "no teacher" in caplog.text
    row = metrics_of(tmp_path / "s")[0]
    assert row["loss"] == row["label"]
    assert "kd" not in row
    with pytest.raises(InputError, match="no quantization-aware weights"):
        load_run(tmp_path / "s").qat_model()


def test_a_loss_that_is_not_a_number_is_an_error_of_one_line(store, tmp_path):
    with pytest.raises(InputError, match=r"loss became nan .*lower the phase's lr"):
        train(student(train={"lr": 1e30}), store, tmp_path / "s")


def test_a_folder_in_the_way_is_kept(straight, store, tmp_path):
    recipe = student()
    with pytest.raises(InputError, match="--resume, begin anew with --force"):
        train(recipe, store, straight)
    (tmp_path / "thesis.txt").write_text("three years")
    for options in (Options(), Options(force=True), Options(resume=True)):
        with pytest.raises(InputError, match="not an edgekd run folder"):
            train(recipe, store, tmp_path, options=options)
    with pytest.raises(InputError, match=r"thesis\.txt is a file"):
        train(recipe, store, tmp_path / "thesis.txt")
    with pytest.raises(InputError, match="give one of them"):
        train(recipe, store, tmp_path / "new", options=Options(force=True, resume=True))
    assert (tmp_path / "thesis.txt").read_text() == "three years"
    with pytest.raises(InputError, match="nothing to resume"):
        train(recipe, store, tmp_path / "new", options=Options(resume=True))


def test_a_run_killed_before_its_first_file_was_whole_can_be_begun_again(store, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "run.json.part").write_text('{"format": "edgekd')
    recipe = student(train={"epochs": 1}, qat={"epochs": 0})
    assert train(recipe, store, tmp_path / "s").info.status == "finished"
    assert not (tmp_path / "s" / "run.json.part").exists()


def test_force_begins_anew(straight, store, tmp_path):
    shutil.copytree(straight, tmp_path / "s")
    run = train(student(train={"epochs": 1}, qat={"epochs": 0}), store, tmp_path / "s", options=Options(force=True))
    assert run.recipe.train.epochs == 1
    assert not (tmp_path / "s" / QAT_FILE).exists()


def test_force_deletes_nothing_but_runs(store, teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "t")
    force = Options(force=True)
    with pytest.raises(InputError, match="t is one of the teachers"):
        train(student(), store, tmp_path / "t", [tmp_path / "s" / ".." / "t"], force)
    (tmp_path / "t" / "thesis.txt").write_text("three years")
    with pytest.raises(InputError, match=r"\(thesis\.txt\)"):
        train(student(), store, tmp_path / "t", options=force)
    assert load_run(tmp_path / "t").float_model()
    assert (tmp_path / "t" / "thesis.txt").exists()


def test_a_run_that_is_being_trained_is_left_alone(straight, store):
    with held(straight):
        for options in (Options(force=True), Options(resume=True)):
            with pytest.raises(InputError, match="being trained by another process"):
                train(student(), store, straight, options=options)
    assert load_run(straight).qat_model()


def test_a_run_that_another_process_begins_meanwhile_is_left_alone(store, tmp_path, monkeypatch):
    out = tmp_path / "s"
    with ExitStack() as other:

        def begun_elsewhere(recipe, *_):
            out.mkdir()
            other.enter_context(held(out))
            return recipe.frontend, ()

        monkeypatch.setattr(prepared, "measure_front_end", begun_elsewhere)
        with pytest.raises(InputError, match="being trained by another process"):
            train(student(), store, out)
    assert not any(out.iterdir())


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 TiB."),
    MemoryError(),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["gpu", "numpy", "cpu"])
@pytest.mark.parametrize(("phase", "advice"), [("float", "train.batch_size=2"), ("qat", "qat.batch_size=2")])
def test_an_error_of_memory_names_half_the_batch_size(store, tmp_path, monkeypatch, error, phase, advice):
    stop_in_epoch(monkeypatch, 0, phase, error)
    with pytest.raises(
        InputError, match=rf"ran out in the {phase} phase with batches of 4 .*--set {advice} --force"
    ) as caught:
        train(student(train={"epochs": 1}), store, tmp_path / "s")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", [CHECKPOINT_FILE, METRICS_FILE])
def test_a_full_disk_keeps_the_last_epoch(straight, store, teacher, tmp_path, monkeypatch, full_disk, file):
    recipe = student(train={"ema_decay": 0.9})
    begin, free = TrainingModule.on_train_epoch_start, []

    def fill(self):
        if self.current_epoch == 1:
            free.append(full_disk(file))
        begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "on_train_epoch_start", fill)
        with pytest.raises(
            InputError, match=rf"{file} cannot be written \(No space left on device\); free space .*--resume"
        ):
            train(recipe, store, tmp_path / "s", [teacher])
    free[0]()
    train(recipe, store, tmp_path / "s", [teacher], Options(resume=True))
    assert (tmp_path / "s" / METRICS_FILE).read_bytes() == (straight / METRICS_FILE).read_bytes()


def test_force_replaces_a_damaged_run(straight, store, tmp_path):
    shutil.copytree(straight, tmp_path / "s")
    info = tmp_path / "s" / RUN_FILE
    info.write_bytes(info.read_bytes()[:-20])
    (tmp_path / "s" / f"{CHECKPOINT_FILE}{PART}").write_bytes(b"half")
    once = student(train={"epochs": 1}, qat={"epochs": 0})
    with pytest.raises(InputError, match=r"run\.json: damaged .*--force"):
        train(once, store, tmp_path / "s", options=Options(resume=True))
    train(once, store, tmp_path / "s", options=Options(force=True))
    assert not (tmp_path / "s" / f"{CHECKPOINT_FILE}{PART}").exists()


def test_a_run_of_another_version_is_refused(teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "t")
    info = tmp_path / "t" / RUN_FILE
    info.write_bytes(msgspec.json.encode({**msgspec.json.decode(info.read_bytes()), "version": 99, "colour": "red"}))
    with pytest.raises(InputError, match="run version 99 is unknown"):
        load_run(tmp_path / "t")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"junk"),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
    ],
    ids=["missing", "empty", "junk", "cut"],
)
def test_damaged_weights_of_a_teacher_are_named(store, teacher, tmp_path, damage):
    shutil.copytree(teacher, tmp_path / "t")
    damage(tmp_path / "t" / MODEL_FILE)
    message = r"model\.pt: cannot be loaded"
    assert_refused(message, student(), store, tmp_path / "s", [tmp_path / "t"], path=tmp_path / "s")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"stem": 0}, "cannot be trained on a log-mel of 16 mels x 31 frames"),
        ({"groups": [3]}, "divisible"),
        ({"pools": [0, 1], "stem_stride": [8, 8], "stem_kernel": 1}, "too small"),
        ({"dropout": 2.0}, "dropout"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_anything_is_written(store, tmp_path, table, message):
    assert_refused(message, student(student=table), store, tmp_path / "s", path=tmp_path / "s")


def test_a_batch_too_small_for_batch_norm_is_refused(store, tmp_path):
    whole_map = {"stem_stride": [16, 31], "stem_kernel": 1, "pools": []}  # (4, 1, 1) after the stem
    recipe = student(student=whole_map, train={"batch_size": 2})  # 15 clips: the last batch has one
    message = r"more than 1 value per channel.* train\.batch_size"
    assert_refused(message, recipe, store, tmp_path / "s", path=tmp_path / "s")


def test_a_student_without_an_integer_form_is_refused_before_the_float_phase(store, tmp_path):
    recipe = recipe_dict()
    recipe["student"] = {"kind": "bc_resnet_asc", "width": 4, "norm": "residual"}
    message = "ResidualNorm has no integer form"
    assert_refused(message, decode(recipe, "student"), store, tmp_path / "s", path=tmp_path / "s")
    recipe["qat"]["epochs"] = 0
    train(decode(recipe, "student"), store, tmp_path / "s")


def test_resuming_with_something_else_is_refused(straight, store, teacher, tmp_path):
    same = student(train={"ema_decay": 0.9})
    other = write_store(tmp_path / "other", clips=(("a", 3), ("b", 1)))
    resume = Options(resume=True)
    with pytest.raises(InputError, match="another recipe"):
        train(student(train={"ema_decay": 0.8}), store, straight, [teacher], resume)
    with pytest.raises(InputError, match="another store"):
        train(same, other, straight, [teacher], resume)
    with pytest.raises(InputError, match="another list of teachers"):
        train(same, store, straight, [], resume)


def test_resuming_with_other_impulse_responses_is_refused(store, response_folder, tmp_path, monkeypatch):
    shutil.copytree(response_folder, tmp_path / "rooms")
    recipe = student(
        augment={"ir_p": 0.5, "ir_folder": str(tmp_path / "rooms")}, train={"epochs": 2}, qat={"epochs": 0}
    )
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, 1, "float")
        with pytest.raises(PowerCutError):
            train(recipe, store, tmp_path / "s")
    moved = (tmp_path / "rooms" / "low.wav").rename(tmp_path / "low.wav")
    with pytest.raises(InputError, match="begun with another set of impulse responses"):
        train(recipe, store, tmp_path / "s", options=Options(resume=True))
    moved.rename(tmp_path / "rooms" / "low.wav")
    assert len(train(recipe, store, tmp_path / "s", options=Options(resume=True)).info.impulse_responses) == 64


def test_resuming_with_other_thresholds_takes_them_over_and_trains_nothing(straight, store, teacher, tmp_path):
    shutil.copytree(straight, tmp_path / "s")
    file = tmp_path / "s" / RECIPE_FILE
    recipe = msgspec.json.decode(file.read_bytes())
    assert recipe.pop("export")  # as a run of before the table was there
    file.write_bytes(msgspec.json.encode(recipe))
    assert load_run(tmp_path / "s").recipe.export == Export()
    changed = student(train={"ema_decay": 0.9}, export={"max_accuracy_drop": 0.5})
    run = train(changed, store, tmp_path / "s", [teacher], Options(resume=True))
    assert run.recipe.export.max_accuracy_drop == 0.5
    assert run.info == load_run(straight).info


def test_an_unfinished_teacher_is_refused(store, teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "t")
    info = msgspec.json.decode((tmp_path / "t" / RUN_FILE).read_bytes())
    (tmp_path / "t" / RUN_FILE).write_bytes(msgspec.json.encode({**info, "status": "training"}))
    assert_refused("not finished", student(), store, tmp_path / "s", [tmp_path / "t"], path=tmp_path / "s")


def test_a_teacher_trained_on_the_test_clips_is_refused(store, teacher, tmp_path):
    with pytest.raises(InputError, match="trained on split 'a', which the student is tested on"):
        train(student(data={"train": ["b"], "test": ["a"]}), store, tmp_path / "s", [teacher])


@pytest.mark.parametrize(("accelerator", "message"), [("gpu", "accelerator 'gpu'"), ("cpuu", "did you mean 'cpu'")])
def test_a_missing_accelerator_is_refused(store, tmp_path, monkeypatch, accelerator, message):
    for backend in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: False)
    options = Options(accelerator=accelerator)
    assert_refused(message, student(), store, tmp_path / "s", (), options, path=tmp_path / "s")


def test_a_store_of_another_rate_is_refused(store, tmp_path):
    with pytest.raises(InputError, match=r"16000 Hz, .* holds 8000 Hz"):
        train(student(frontend={"sample_rate": 16000}), store, tmp_path / "s")


def test_the_folder_keeps_the_resolved_recipe(straight):
    run = load_run(straight)
    assert run.recipe == resolved(student(train={"ema_decay": 0.9}))
    assert run.info.recipe_hash == run.recipe.hash


@pytest.mark.parametrize(("schedule", "warmup"), [("cosine", 5), ("vivo", 30)])
def test_schedules_rise_to_the_peak_and_fall_to_the_least(schedule, warmup):
    steps = 4
    factor = learning_rate_factor(Train(epochs=80, schedule=schedule, warmup_epochs=warmup, min_lr_ratio=0.01), steps)
    values = np.array([factor(step) for step in range(80 * steps + 1)])
    assert values.max() == pytest.approx(1.0)
    assert values.argmax() in (warmup * steps - 1, warmup * steps)
    assert values[-1] == pytest.approx(0.01)
    assert (np.diff(values[: warmup * steps]) > 0).all()
    assert (np.diff(values[warmup * steps :]) < 0).all()


def test_steps_fall_after_their_epochs_and_rise_first_where_asked():
    factor = learning_rate_factor(
        Train(epochs=60, schedule="steps", warmup_epochs=2, milestones=(15, 30, 45), gamma=0.2), 10
    )
    assert [factor(step) for step in (20, 149, 150, 299, 300, 449, 450, 599)] == pytest.approx(
        [1, 1, 0.2, 0.2, 0.04, 0.04, 0.008, 0.008]
    )
    assert [factor(step) for step in (0, 9, 19)] == pytest.approx([0.05, 0.5, 1])
    assert learning_rate_factor(Train(epochs=60, schedule="steps", warmup_epochs=0), 10)(0) == 1


def test_silent_windows_and_clips_do_not_count():
    logits = np.array([[5.0, 0.0], [0.0, 9.0], [0.0, 5.0]], np.float32)

    def metrics(*silent):
        predictions = Predictions(logits, np.array(silent), np.array([0, 0, 1]), np.zeros(3, np.int64))
        return run_metrics(predictions, np.array([0, 1]), "float")

    found = metrics(False, True, False)
    assert (found["float_clip_accuracy"], found["float_window_accuracy"]) == (1.0, 1.0)
    of_the_other = metrics(True, True, False)  # the first clip would be wrong
    assert (of_the_other["float_clip_accuracy"], of_the_other["float_window_accuracy"]) == (1.0, 1.0)
    with pytest.raises(InputError, match="digital silence"):
        metrics(True, True, True)
