"""The Lightning module of both phases: waveforms -> augmented log-mel -> logits -> loss."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from edgekd import quant
from edgekd.data.audio.augment import change_speed, convolve, filter_bands, gain, mask, mix, mix_loudness, mix_style
from edgekd.models.base import freeze_backbone, trainable
from edgekd.models.logmel import LogMel
from edgekd.models.taps import Taps
from edgekd.models.waveform import RawWaveform
from edgekd.train.batches.audio_cache import AudioCache
from edgekd.train.batches.crops import segment_of
from edgekd.train.batches.epochs import Batch, TrainingView
from edgekd.train.loop.device import autocast
from edgekd.train.loop.schedule import learning_rate_factor
from edgekd.train.loss.term import StudentOutputs
from edgekd.train.parallel import processes
from edgekd.train.prepare.prepared import Teaching
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.recipe.schema import Qat, Train
from edgekd.train.teachers.live import LiveTeacher

EMA_WARMUP = 10
"""The decay of the average is at most (1 + steps) / (EMA_WARMUP + steps), so that the initial weights soon fade."""
MEL_AXIS, FRAME_AXIS = 2, 3
NEPERS_PER_DB = math.log(10) / 10
"""Decibels -> natural logarithm of power, the unit of a log-mel."""
CACHED_LOGITS = "said"
"""Key in a checkpoint of the teachers' logits that later epochs take again."""
TEACHER_LOGITS = "teacher_logits"
"""Key of such logits in a batch on the device."""


class EpochBatches:
    """The batches of one epoch of a training view, with the length that Lightning's trainer asks for."""

    def __init__(self, view: TrainingView, epoch: int) -> None:
        self._view, self._epoch = view, epoch

    def __len__(self) -> int:
        return self._view.steps

    def __iter__(self) -> Iterator[Batch]:
        return self._view.batches(self._epoch)


class TrainingModule(pl.LightningModule):
    """Trains one network on one phase of a recipe.

    Args:
        model: log_mel (batch, channels, mel, frame) or waveform (batch, channels, time) -> logits (batch, labels).
        front: waveforms -> the model's input, with its final mean and standard deviation.
        view: the training set.
        teaching: loss, live teachers, labels and soft labels.
        recipe: of the run.
        phase: `recipe.train` or `recipe.qat`; its type says which phase this is.
        float_model: the float network that `model` quantises, where the objective needs its logits.
    """

    label: Tensor
    soft_labels: Tensor | None
    responses: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        front: LogMel | RawWaveform,
        view: TrainingView,
        teaching: Teaching,
        recipe: Recipe,
        phase: Train | Qat,
        float_model: nn.Module | None = None,
    ) -> None:
        super().__init__()
        objective, labels = teaching.objective, teaching.labels
        self.model = model
        self.average = _frozen_copy(model) if isinstance(phase, Train) and phase.ema_decay > 0 else None
        self.float_model = (
            _frozen_copy(float_model) if float_model is not None and objective.needs_float_logits else None
        )
        self.front = front
        self.view, self.objective, self.recipe, self.phase = view, objective, recipe, phase
        self.teacher_samples = labels.teacher_samples
        self.live = teaching.live
        self.audio_cache: AudioCache | None = None
        self.cached_logits: Tensor | None = None
        """Logits of live teachers in the epochs that repeat, (teachers, epochs, clips of the store, labels); NaN where
        not computed yet."""
        self._computed = np.zeros((view.repeat, len(labels.label)), bool)
        """(epochs, clips of the store) which of them are computed: asking an accelerator would make the host wait."""
        self.train_front = (
            LogMel(front.fe, exact=False) if isinstance(phase, Train) and isinstance(front, LogMel) else front
        )
        """The front end of this phase's batches. Tests always use the exact one."""
        if recipe.init.adapt == "head":
            # before several processes agree on which gradients exist, and the optimiser on what it changes
            freeze_backbone(model)
        self._taps = Taps(model, objective.student_taps)
        self.register_buffer(
            "responses", None if view.responses is None else torch.from_numpy(view.responses), persistent=False
        )
        self.register_buffer("label", labels.label, persistent=False)
        self.register_buffer("soft_labels", labels.soft_labels, persistent=False)
        self.sums: dict[str, Tensor] = {}
        """Sums over the epoch's steps of what the objective logs."""

    @property
    def phase_name(self) -> str:
        """ "float" or "qat"."""
        return "float" if isinstance(self.phase, Train) else "qat"

    @property
    def precision(self) -> str:
        """ "float32" or "bf16": the precision of the network in this phase."""
        return self.phase.precision if isinstance(self.phase, Train) else "float32"

    @property
    def final_model(self) -> nn.Module:
        """The network that is tested and saved: the average where there is one."""
        return self.model if self.average is None else self.average

    def train_dataloader(self) -> EpochBatches:
        if self.audio_cache is None:
            self.audio_cache = AudioCache(self.view.store, self.device)
        return EpochBatches(self.view, self.current_epoch)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> dict[str, Tensor]:  # noqa: ARG002
        """A batch's arrays as tensors, with the waveforms of its crops: "waveform" float32 (rows, samples) or (rows,
        channels, samples). Where live teachers have computed the items in an earlier epoch, "teacher_logits" (teachers,
        items, labels) are these logits; else the step of this batch computes them."""
        assert self.audio_cache is not None  # train_dataloader comes first
        arrays = cast(dict[str, np.ndarray], {name: value for name, value in batch.items() if name != "crops"})
        tensors = {name: torch.from_numpy(value).to(device, non_blocking=True) for name, value in arrays.items()}
        if self.soft_labels is not None and self.soft_labels.shape[3] > 1:
            crops, store, segments = batch["crops"], self.view.store, self.soft_labels.shape[3]
            # (teachers, rows)
            segment = np.stack([segment_of(crops, store, segments, samples) for samples in self.teacher_samples])
            tensors["segment"] = torch.from_numpy(segment).to(device, non_blocking=True)
        if self.recipe.distill.teaching == "live":
            for number, teacher in enumerate(self.live):
                tensors[_teacher_waveform(number)] = teacher.waveform(
                    self.current_epoch, batch["clip"], self.audio_cache
                )
        if self.live and self.view.repeat:
            items, epoch = len(batch["partner"]), self.current_epoch % self.view.repeat
            if self.cached_logits is not None and self._computed[epoch, batch["clip"][:items]].all():
                tensors[TEACHER_LOGITS] = self.cached_logits[:, epoch, tensors["clip"][:items]]
            self._computed[epoch, batch["clip"][:items]] = True
        return {"waveform": self.audio_cache.waveforms(batch["crops"]), **tensors}

    def on_fit_start(self) -> None:
        for teacher in self.live:
            teacher.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the teachers' logits: computed again in another batch, their last bits might differ."""
        if self.cached_logits is not None:
            checkpoint[CACHED_LOGITS] = self.cached_logits

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the teachers' logits."""
        self.cached_logits = checkpoint.get(CACHED_LOGITS)
        if self.cached_logits is not None:
            self._computed = ~self.cached_logits.isnan().any(dim=3).any(dim=0).cpu().numpy()

    def on_train_start(self) -> None:
        """Move restored logits to the training device, where all other tensors are by then."""
        if self.cached_logits is not None:
            self.cached_logits = self.cached_logits.to(self.device)

    def on_fit_end(self) -> None:
        """Free the accelerator's memory for the next phase, and remove the hooks from the network."""
        self.audio_cache = self.cached_logits = None
        self._taps.close()
        for teacher in self.live:
            teacher.to(torch.device("cpu"))

    def on_train_epoch_start(self) -> None:
        """Seed the random numbers of the networks themselves (dropout), so that an epoch does not depend on earlier
        ones; freeze the quantisation scales in the last epochs."""
        entropy = [
            self.recipe.seed,
            self.phase_name == "qat",
            self.current_epoch,
            *([processes.rank()] if processes.rank() else []),
        ]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        self.sums = {}
        if self.float_model is not None:
            self.float_model.eval()
        if self.recipe.init.adapt == "head":
            freeze_backbone(self.model.train())  # a test has left the whole network in eval mode
        if self._scales_frozen and processes.world() == 1:
            quant.freeze(self._quantised_model)

    def training_step(self, batch: dict[str, Tensor], step: int) -> Tensor:
        clip, partner, share = batch["clip"], batch["partner"], batch["share"]
        waveform, x = self.augmented(batch)
        teacher_logits, teacher_taps = self._teacher_outputs(batch, waveform, x)
        float_logits = None
        if self.float_model is not None:
            with torch.no_grad():
                float_logits = self.float_model(x)
        with autocast(self.precision, x.device):
            logits, taps = self._taps(x)
        student = StudentOutputs(logits.float(), {path: tap.float() for path, tap in taps.items()})
        targets = self.objective.targets(self.label[clip], teacher_logits, partner, share, float_logits, teacher_taps)
        loss, logged = self.objective(student, targets)
        weight = process_weight(len(partner), self.view.sizes[step])
        for name, value in logged.items():
            value = value if weight == 1 else weight * value  # noqa: PLW2901
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        return cast(Tensor, loss if weight == 1 else weight * loss)

    def augmented(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """A batch from `transfer_batch_to_device`, augmented and mixed.

        Returns:
            the items' waveforms float32 (items, samples) or (items, channels, samples), unmixed where mixing is on
            log-mel; and the network's input: (items, channels, mel, frame), or (items, channels, time).
        """
        augment = self.recipe.augment
        mixed_first = augment.mixup_domain != "log_mel"
        with torch.no_grad():
            waveform = batch["waveform"]
            if augment.speed > 1:
                waveform = change_speed(waveform, batch["speed"], self.view.stretched_samples)
            if self.responses is not None:
                waveform = convolve(waveform, batch["response_rows"], self.responses, batch["response"])
            if augment.gain_db > 0:
                waveform = gain(waveform, batch["gain_db"])
            if mixed_first:
                waveform = self._mixed(waveform, batch, mix if augment.mixup_domain == "waveform" else mix_loudness)
            if augment.time_stretch > 1:
                hop = (
                    torch.cat([batch["hop"][: len(batch["partner"])], batch["hop"][batch["style_rows"]]])
                    if mixed_first
                    else batch["hop"]
                )
                x = self.train_front(waveform, hop, self.view.samples)
            else:
                x = self.train_front(waveform)
            if not mixed_first:
                x = self._mixed(x, batch, mix)
            if augment.mixstyle_p > 0:
                x = mix_style(x, batch["style"], batch["style_share"])
            if augment.filter_p > 0:
                fe = self.front.fe
                x = filter_bands(x, batch["filter_db"] * (NEPERS_PER_DB / fe.std), (fe.log_least - fe.mean) / fe.std)
            if augment.mel_masks:
                x = mask(x, MEL_AXIS, batch["mel_start"], batch["mel_width"])
            if augment.time_masks:
                x = mask(x, FRAME_AXIS, batch["frame_start"], batch["frame_width"])
        return waveform[: len(batch["partner"])], cast(Tensor, x)

    def _mixed(self, x: Tensor, batch: dict[str, Tensor], mixing: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """The items of (rows, ...), mixed, followed by the rows whose statistics Freq-MixStyle needs, unmixed."""
        augment, partner = self.recipe.augment, batch["partner"]
        items = mixing(x, partner, batch["share"]) if augment.mixup_p > 0 else x[: len(partner)]
        return torch.cat([items, x[batch["style_rows"]]]) if augment.mixstyle_p > 0 else items

    def _teacher_outputs(
        self, batch: dict[str, Tensor], waveform: Tensor, x: Tensor
    ) -> tuple[Tensor | None, Sequence[dict[str, Tensor]]]:
        """The teachers' logits (teachers, rows, labels) for a batch, and the taps of live teachers.

        Args:
            batch: from `transfer_batch_to_device`.
            waveform, x: from `augmented`.
        """
        if self.live:
            if not self.view.repeat:
                return self._live_outputs(batch, waveform, x)
            return self._repeated_logits(batch, waveform, x), ()
        if self.soft_labels is None:
            return None, ()
        # (teachers, clips, segments, labels)
        soft = self.soft_labels[:, self.current_epoch % self.soft_labels.shape[1]]
        if "segment" not in batch:
            return soft[:, batch["clip"], 0], ()
        teacher = torch.arange(len(soft), device=soft.device)[:, None]
        return soft[teacher, batch["clip"], batch["segment"]], ()

    def _live_outputs(
        self, batch: dict[str, Tensor], waveform: Tensor, x: Tensor
    ) -> tuple[Tensor, Sequence[dict[str, Tensor]]]:
        """Logits (teachers, rows, labels) and taps of the live teachers."""
        outputs = [self._live_output(number, teacher, batch, waveform, x) for number, teacher in enumerate(self.live)]
        return torch.stack([logits for logits, _ in outputs]), [taps for _, taps in outputs]

    def _live_output(
        self, number: int, teacher: LiveTeacher, batch: dict[str, Tensor], waveform: Tensor, x: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.recipe.distill.teaching == "live":
            return teacher(teacher.front(batch[_teacher_waveform(number)]))
        return teacher(
            teacher.renormalised(x, self.front.fe) if teacher.shares(self.front) else teacher.front(waveform)
        )

    def _repeated_logits(self, batch: dict[str, Tensor], waveform: Tensor, x: Tensor) -> Tensor:
        """Logits (teachers, items, labels), computed in the first of the epochs that repeat and then taken again."""
        if TEACHER_LOGITS in batch:
            return batch[TEACHER_LOGITS]
        items, epoch = batch["clip"][: len(batch["partner"])], self.current_epoch % self.view.repeat
        logits, _ = self._live_outputs(batch, waveform, x)
        if self.cached_logits is None:
            shape = (len(logits), self.view.repeat, len(self.label), logits.shape[2])
            self.cached_logits = logits.new_full(shape, torch.nan)
        self.cached_logits[:, epoch, items] = logits
        return logits

    @property
    def _scales_frozen(self) -> bool:
        """Whether quantisation scales no longer learn in this epoch."""
        return isinstance(self.phase, Qat) and self.current_epoch >= self.phase.epochs - self.phase.freeze_epochs

    @property
    def _quantised_model(self) -> quant.QuantNetwork:
        assert isinstance(self.model, quant.QuantNetwork)  # in the quantization-aware phase
        return self.model

    def on_before_optimizer_step(self, *_: Any) -> None:
        """Drop the gradients of frozen scales. Of several processes each must compute all gradients that it had in the
        first step, so that scales are not frozen as in a lone process."""
        if self._scales_frozen and processes.world() > 1:
            for quantiser in self._quantised_model.quantisers():
                for threshold in quantiser.parameters():
                    threshold.grad = None

    def on_train_batch_end(self, *_: Any) -> None:
        """Update the moving average of the weights."""
        if self.average is None or not isinstance(self.phase, Train):
            return
        steps = self.global_step
        decay = min(self.phase.ema_decay, (1 + steps) / (EMA_WARMUP + steps))
        with torch.no_grad():
            for mean, value in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(value, 1 - decay)
                else:
                    mean.copy_(value)

    def configure_optimizers(self) -> Any:
        phase = self.phase
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for name, parameter in (*trainable(self.model), *self.objective.named_parameters()):
            (decayed if name.endswith("weight") and parameter.dim() > 1 else plain).append(parameter)
        groups = [{"params": decayed, "weight_decay": phase.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        adam = torch.optim.Adam if isinstance(phase, Train) and phase.optimizer == "adam" else torch.optim.AdamW
        optimizer = adam([group for group in groups if group["params"]], lr=phase.lr, fused=True)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(phase, self.view.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def process_weight(items: int, batch_items: int) -> float:
    """Weight of one process's mean over its items, so that the mean over processes is the mean over the batch.

    Args:
        items: of this process.
        batch_items: of all processes together.
    """
    return items * processes.world() / batch_items


def _frozen_copy(model: nn.Module) -> nn.Module:
    """A copy without gradients."""
    return copy.deepcopy(model).requires_grad_(False)


def _teacher_waveform(number: int) -> str:
    """Key of a live teacher's waveforms in a batch on the device."""
    return f"teacher{number}"
