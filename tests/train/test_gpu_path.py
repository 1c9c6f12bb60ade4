"""One step of every shipped recipe on a stand-in for a GPU, so that the first hour on a rented one is spent training.

The stand-in is torch's meta device (`helpers.meta_device` says why). A step is what Lightning's trainer does with a
batch: the audio cache reads it, then augmentation, log-mel, teachers, the network under autocast, terms, gradients and
the optimiser. A tensor that was left on the CPU is an error, and so is reading a value, for which a GPU's host would
wait. `READS` names the networks that must. Calibrating and settling the scales of a quantised network read values too;
they run on the CPU, as trainings do. What needs a real GPU: values, memory, speed, kernels that one lacks, and several
processes.
"""

import copy

import msgspec
import numpy as np
import pytest
import torch
from helpers.meta_device import META, MetaDevice, MixedDevicesError, meta_device
from helpers.shipped_recipes import is_here, missing
from helpers.training_runs import teacher_recipe
from helpers.trainings import recipe_dict
from lightning.pytorch import Trainer
from torch import Tensor, nn

from edgekd import quant
from edgekd.data.store.store import ClipStore
from edgekd.experiments.smoke import few_steps
from edgekd.models.base import trainable
from edgekd.quant.activation import ActQuant
from edgekd.resources import names
from edgekd.train.batches.audio_cache import AudioCache
from edgekd.train.batches.epochs import TrainingView
from edgekd.train.batches.random_streams import RandomStream
from edgekd.train.loop.device import channels_last
from edgekd.train.loop.module import TrainingModule
from edgekd.train.loop.training import Options, train
from edgekd.train.loop.validation import predict_clips
from edgekd.train.loss.objective import OPTIONS, Objective
from edgekd.train.prepare.prepared import LabelTable, Prepared, Teaching, label_table, prepare, prepare_objective
from edgekd.train.recipe.recipe import Recipe, decode, load_recipe
from edgekd.train.run.folder import resolved
from edgekd.train.stages.stages import stage_recipe
from edgekd.train.teachers.live import LiveTeacher

READS = {"black_box": "the engine of a .tflite or .onnx file computes on the CPU"}
"""Kind of network -> why each of its forward passes reads values."""
RECIPES = names("recipes")
QUANTISED = {recipe.model["kind"]: recipe.name for recipe in map(load_recipe, RECIPES) if recipe.has_qat}
"""One recipe for each architecture. Of these the quantization-aware step is taken too."""


def shortened(recipe: Recipe) -> Recipe:
    """The recipe as a GPU trains it, in bf16 where it leaves that open, but without the weights of other runs, and of
    files that are missing here."""
    recipe = resolved(recipe)
    precision = "bf16" if recipe.train.precision == "auto" else recipe.train.precision
    table = recipe.model
    if table.get("weights") and not is_here(table["weights"]):
        table = {key: value for key, value in table.items() if key not in {"weights", "frozen"}}
    return msgspec.structs.replace(
        recipe,
        **{recipe.role: table},
        init=msgspec.structs.replace(recipe.init, run=""),
        train=msgspec.structs.replace(recipe.train, precision=precision),
    )


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """`untrained(recipe, store)`: the folder of a finished run of a teacher that no step has changed."""
    made = {}

    def untrained(recipe, store):
        key = recipe.hash, store.path
        if key not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Trainer, "fit", lambda *_, **__: None)
                folder = tmp_path_factory.mktemp("teachers") / recipe.name
                made[key] = train(recipe, store, folder, options=Options(threads=1, accelerator="cpu")).path
        return made[key]

    return untrained


def float_module(prepared: Prepared) -> TrainingModule:
    """The module of the float phase, as the training loop makes it."""
    network, recipe = channels_last(prepared.network.train()), prepared.recipe
    teaching = Teaching(prepared.objective, prepared.live, labels_of(prepared))
    return TrainingModule(network, prepared.front, prepared.view, teaching, recipe, recipe.train)


def labels_of(prepared: Prepared) -> LabelTable:
    """The labels and soft labels of a training."""
    logits = [logits for _, logits in prepared.soft_labels]
    return label_table(prepared.recipe, prepared.store, prepared.partition, prepared.teachers, logits)


def quantised_module(prepared: Prepared) -> TrainingModule:
    """The module of the quantization-aware phase, as the training loop makes it, with scales that are not calibrated.
    Its live teachers teach, and the scales no longer learn, as in the last epochs."""
    recipe, store, size = prepared.recipe, prepared.store, prepared.size
    phase = msgspec.structs.replace(recipe.qat, float_weight=0.5)
    clips = prepared.partition.train
    view = TrainingView(store, clips, recipe, phase.batch_size, size.mels, size.frames, RandomStream.QAT)
    network = channels_last(copy.deepcopy(prepared.network).eval())
    qat = channels_last(quant.to_qat(network).train())
    objective, live = prepare_objective(
        recipe, store, prepared.partition, prepared.teachers, qat, size, phase.float_weight
    )
    teaching = Teaching(objective, live, labels_of(prepared))
    return TrainingModule(qat, prepared.front, view, teaching, recipe, phase, network)


def first_step(module: TrainingModule, accelerator: MetaDevice) -> Tensor:
    """What Lightning's trainer does up to the end of the first step, with the store in the accelerator's memory."""
    module.to(accelerator.device)
    optimizer = module.configure_optimizers()["optimizer"]
    module.on_fit_start()
    module.on_train_start()
    module.audio_cache = AudioCache(module.view.store, accelerator.device, resident=True)
    loss = step(module, accelerator)
    loss.backward()
    module.on_before_optimizer_step()
    optimizer.step()
    module.on_train_batch_end()
    return loss


def step(module: TrainingModule, accelerator: MetaDevice) -> Tensor:
    """The loss of the first batch of the module's epoch."""
    batches = module.train_dataloader()
    module.on_train_epoch_start()
    return module.training_step(module.transfer_batch_to_device(next(iter(batches)), accelerator.device, 0), 0)


def check_placement(module: TrainingModule, loss: Tensor) -> None:
    """Everything that a step uses is on the accelerator, and maps are convolved in channels-last order."""
    networks = [module, *(teacher.network for teacher in module.live)]
    tensors = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    assert {tensor.device for tensor in (loss, *tensors, *module.sums.values())} == {META}
    gradients = {name: parameter.grad for name, parameter in trainable(module.model)}
    assert gradients
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.is_meta] == []
    kernels = [each.weight for network in networks for each in network.modules() if isinstance(each, nn.Conv2d)]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


def products(network: nn.Module) -> list[torch.dtype]:
    """The types of what the layers with products, or with quantised outputs, of a network compute from now on."""
    seen = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv1d | nn.Linear | ActQuant):
            layer.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    return seen


@pytest.mark.parametrize("name", [*RECIPES, *names("teachers")])
def test_a_shipped_recipe_takes_a_step_on_the_accelerator(name, store_of, untrained):
    if wanted := missing(name, weights=False):
        pytest.skip(f"{wanted} is missing; see teachers/README.md")
    store, quantised = ClipStore.open(store_of(load_recipe(name))), name in QUANTISED.values()
    recipe = shortened(load_recipe(name, few_steps(load_recipe(name), qat=quantised)))
    taught = [shortened(stage_recipe(each, recipe)) for each in recipe.teachers if each.teaches]
    prepared = prepare(recipe, store, [untrained(each, store) for each in taught])
    modules = [float_module(prepared), *([quantised_module(prepared)] if quantised else [])]
    reads = any(each.model["kind"] in READS for each in (recipe, *taught))
    for module in modules:
        seen, dtype = products(module.model), torch.bfloat16 if module.precision == "bf16" else torch.float32
        with meta_device() as accelerator:
            accelerator.reads = reads
            check_placement(module, first_step(module, accelerator))
            assert set(seen) == {dtype}


EVERY_TERM = [{"loss": loss} for loss in OPTIONS if loss not in {"structural", "statistical"}]
TEXTURES = [{"loss": loss, "student": "features.1", "teacher": "features.0"} for loss in ("structural", "statistical")]
MIXED = {"mixup_p": 1.0, "mixstyle_p": 1.0, "filter_p": 1.0, "gain_db": 3.0}
CHANGES = {
    "same": {
        "distill": {"teaching": "same", "terms": [*EVERY_TERM, *TEXTURES], "weights": "learned", "blend": "confidence"},
        "augment": {**MIXED, "speed": 1.2},
    },
    "live": {
        "distill": {"teaching": "live", "terms": EVERY_TERM, "blend": "sum_kl"},
        "augment": {**MIXED, "mixup_domain": "log_mel", "time_stretch": 1.2},
        "train": {"optimizer": "adam"},
    },
    "views": {"distill": {"teaching": "views", "views": 2}, "augment": {**MIXED, "mixup_domain": "loudness"}},
    "segments": {"distill": {"blend": "mean_logit"}, "view": {"span": "crop", "seconds": 0.5}},
}
"""Settings that together use every term, every augmentation and every way of teaching."""


@pytest.fixture
def teacher(store, untrained):
    return untrained(teacher_recipe(), store)


def small(store, teachers, **changes) -> TrainingModule:
    """The module of a small recipe in bf16."""
    train_table = {"ema_decay": 0.5, "precision": "bf16", **changes.pop("train", {})}
    recipe = decode(recipe_dict(train=train_table, **changes), "small")
    return float_module(prepare(resolved(recipe), store, teachers))


@pytest.mark.parametrize("way", CHANGES)
def test_every_term_augmentation_and_way_of_teaching_stays_on_the_accelerator(
    store, teacher, untrained, response_folder, way
):
    changes = CHANGES[way]
    augment = {"ir_p": 1.0, "ir_folder": str(response_folder), **changes.get("augment", {})}
    teachers = [untrained(teacher_recipe(view={"segments": 2}), store)] if way == "segments" else [teacher, teacher]
    module = small(store, teachers, **{**changes, "augment": {**recipe_dict()["augment"], **augment}})
    with meta_device() as accelerator:
        check_placement(module, first_step(module, accelerator))
        module.audio_cache = AudioCache(store, accelerator.device, resident=False)
        assert step(module, accelerator).device == META


def test_a_test_after_an_epoch_and_the_end_of_a_phase_bring_results_and_teachers_to_the_cpu(store, teacher):
    """They read values, as they must."""
    module = small(store, [teacher], distill={"teaching": "live"})
    with meta_device() as accelerator:
        first_step(module, accelerator)
        accelerator.reads = True
        predictions = predict_clips(module.final_model, module.front, store, np.arange(3), module.recipe.view)
        module.on_fit_end()
    assert isinstance(predictions.logits, np.ndarray)
    assert {parameter.device.type for parameter in module.live[0].network.parameters()} == {"cpu"}


def test_kept_logits_of_teachers_are_taken_again_without_waiting_for_the_accelerator(store, teacher, monkeypatch):
    module = small(store, [teacher], distill={"teaching": "same", "repeat": 1})
    calls = []
    call = LiveTeacher.__call__
    monkeypatch.setattr(LiveTeacher, "__call__", lambda self, x: calls.append(len(x)) or call(self, x))
    with meta_device() as accelerator:
        first_step(module, accelerator)
        assert len(calls) == 1
        step(module, accelerator)
    assert len(calls) == 1


@pytest.mark.parametrize("left", ["label", "soft_labels", "responses"])
def test_a_table_left_on_the_cpu_is_an_error(store, teacher, response_folder, monkeypatch, left):
    register = TrainingModule.register_buffer

    def forgetful(self, name, tensor, persistent=True):
        if name == left:
            setattr(self, name, tensor)  # `to` does not move it
        else:
            register(self, name, tensor, persistent)

    monkeypatch.setattr(TrainingModule, "register_buffer", forgetful)
    module = small(store, [teacher], augment={"ir_p": 1.0, "ir_folder": str(response_folder)})
    with meta_device() as accelerator, pytest.raises(MixedDevicesError, match="cpu"):
        first_step(module, accelerator)


def test_a_live_teacher_left_on_the_cpu_is_an_error(store, teacher, monkeypatch):
    monkeypatch.setattr(LiveTeacher, "to", lambda *_: None)
    module = small(store, [teacher], distill={"teaching": "same"})
    with meta_device() as accelerator, pytest.raises(MixedDevicesError, match="cpu"):
        first_step(module, accelerator)


@pytest.mark.parametrize(
    "read", [Tensor.item, Tensor.cpu, bool, lambda loss: loss[loss > 0]], ids=["item", "cpu", "if", "mask"]
)
def test_a_step_that_reads_a_value_is_an_error(store, monkeypatch, read):
    weigh = Objective.forward

    def read_loss(*args):
        loss, logged = weigh(*args)
        read(loss[None])
        return loss, logged

    monkeypatch.setattr(Objective, "forward", read_loss)
    with meta_device() as accelerator, pytest.raises(RuntimeError, match=r"meta tensor|nonzero"):
        first_step(small(store, []), accelerator)
