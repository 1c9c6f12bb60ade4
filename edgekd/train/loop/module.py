"""The Lightning module of both phases: a batch of waveforms becomes mixed log-mel, the network's logits and the
objective's loss."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from edgekd import quant
from edgekd.data.audio.augment import colour, convolve, gain, mask, mix, mix_loudness, mix_style, played
from edgekd.models.logmel import LogMel
from edgekd.models.taps import Taps
from edgekd.models.waveform import RawWaveform
from edgekd.train.batches.audio_cache import ClipBank
from edgekd.train.batches.epochs import Batch, TrainingView
from edgekd.train.batches.windows import segment_of
from edgekd.train.loop.precision import computing
from edgekd.train.loop.pretrained import freeze_backbone, trainable
from edgekd.train.loss.objective import Objective
from edgekd.train.loss.term import Said
from edgekd.train.parallel import processes
from edgekd.train.recipe.recipe import Recipe
from edgekd.train.recipe.schema import Qat, Train
from edgekd.train.teachers.live import LiveTeacher

EMA_WARMUP = 10
"""The average's decay is at most (1 + steps) / (EMA_WARMUP + steps), so that it forgets the initial weights soon."""
MEL_AXIS, FRAME_AXIS = 2, 3
NEPERS_PER_DB = math.log(10) / 10
"""Of power, whose natural logarithm a log-mel is."""
LEAST_RISE = 1e-4
"""Where an exponential rise starts when the schedule ends at zero."""


class EpochBatches:
    """One epoch of a training view, sized for the trainer."""

    def __init__(self, view: TrainingView, epoch: int) -> None:
        self._view, self._epoch = view, epoch

    def __len__(self) -> int:
        return self._view.steps

    def __iter__(self) -> Iterator[Batch]:
        return self._view.batches(self._epoch)


@dataclass(frozen=True)
class Truth:
    """What is known of all clips of the store. label: int64 (clips,). teachers: float32 (teachers, views, clips,
    segments, labels) logits, or None where there are none or they listen live. heard: samples of a clip that each of
    them has judged in segments, None for all."""

    label: Tensor
    teachers: Tensor | None
    heard: tuple[int | None, ...] = ()


class TrainingModule(pl.LightningModule):
    """Trains one network on one phase of a recipe.

    Args:
        model: log_mel (batch, channels, mel, frame) or waveform (batch, channels, time) -> logits (batch, labels).
        front: what makes the model's input of waveforms, with its final mean and standard deviation.
        view: the training set.
        truth: labels and soft labels.
        objective: the loss.
        recipe: the run's.
        phase: `recipe.train` or `recipe.qat`; the type tells which phase this is.
        float_model: the float network that `model` quantises, where the objective wants it.
        live: teachers that listen in each step.
    """

    def __init__(
        self,
        model: nn.Module,
        front: LogMel | RawWaveform,
        view: TrainingView,
        truth: Truth,
        objective: Objective,
        recipe: Recipe,
        phase: Train | Qat,
        float_model: nn.Module | None = None,
        live: Sequence[LiveTeacher] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.average = _copy_of(model) if isinstance(phase, Train) and phase.ema_decay > 0 else None
        self.float_model = _copy_of(float_model) if float_model is not None and objective.wants_float else None
        self.front = front
        self.view, self.objective, self.recipe, self.phase = view, objective, recipe, phase
        self.heard = truth.heard
        self.live = tuple(live)
        self.bank: ClipBank | None = None
        self.said: Tensor | None = None
        """Logits of live teachers in the epochs that repeat, (teachers, epochs, clips of the store, labels); NaN is yet
        to be heard."""
        self.hearing = (
            LogMel(front.fe, exact=False) if isinstance(phase, Train) and isinstance(front, LogMel) else front
        )
        """The front end of this phase's batches; tests are exact."""
        if recipe.init.adapt == "head":
            # before several processes agree on which gradients there are, and the optimiser on what it changes
            freeze_backbone(model)
        self._taps = Taps(model, objective.student_taps)
        self.register_buffer(
            "responses", None if view.responses is None else torch.from_numpy(view.responses), persistent=False
        )
        self.register_buffer("label", truth.label, persistent=False)
        self.register_buffer("teachers", truth.teachers, persistent=False)
        self.sums: dict[str, Tensor] = {}
        """Sums over the epoch's steps of what the objective logs."""

    @property
    def phase_name(self) -> str:
        """ "float" or "qat"."""
        return "float" if isinstance(self.phase, Train) else "qat"

    @property
    def precision(self) -> str:
        """ "float32" or "bf16": in which the network computes in this phase."""
        return self.phase.precision if isinstance(self.phase, Train) else "float32"

    @property
    def tested(self) -> nn.Module:
        """The network that is tested and kept: the average where there is one."""
        return self.model if self.average is None else self.average

    def train_dataloader(self) -> EpochBatches:
        if self.bank is None:
            self.bank = ClipBank(self.view.store, self.device)
        return EpochBatches(self.view, self.current_epoch)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> dict[str, Tensor]:  # noqa: ARG002
        """A batch's arrays as tensors, its audio gathered: waveform float32 (rows, samples) in the place of
        `places`."""
        assert self.bank is not None  # train_dataloader comes first
        arrays = cast(dict[str, np.ndarray], {name: value for name, value in batch.items() if name != "places"})
        tensors = {name: torch.from_numpy(value).to(device, non_blocking=True) for name, value in arrays.items()}
        if self.teachers is not None and self.teachers.shape[3] > 1:
            places, segments = batch["places"], self.teachers.shape[3]
            # (teachers, rows)
            of_each = np.stack([segment_of(places, self.view.store, segments, heard) for heard in self.heard])
            tensors["segment"] = torch.from_numpy(of_each).to(device, non_blocking=True)
        if self.recipe.distill.teaching == "live":
            for number, teacher in enumerate(self.live):
                tensors[_heard_by(number)] = teacher.waveform(self.current_epoch, batch["clip"], self.bank)
        return {"waveform": self.bank.gather(batch["places"]), **tensors}

    def on_fit_start(self) -> None:
        for teacher in self.live:
            teacher.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what teachers have said: heard again in another batch, its last bits might be others."""
        if self.said is not None:
            checkpoint["said"] = self.said

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        self.said = checkpoint.get("said")

    def on_train_start(self) -> None:
        """Move it to the training device, where the other tensors are by then."""
        if self.said is not None:
            self.said = self.said.to(self.device)

    def on_fit_end(self) -> None:
        """Give an accelerator's memory back to the phases to come, and leave the network without hooks."""
        self.bank = self.said = None
        self._taps.close()
        for teacher in self.live:
            teacher.to(torch.device("cpu"))

    def on_train_epoch_start(self) -> None:
        """Seed what networks draw themselves (dropout), so that an epoch does not depend on the ones before; freeze
        scales at the end."""
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
            freeze_backbone(self.model.train())  # a test has left all of it in eval mode
        if self._freezes and processes.world() == 1:
            quant.freeze(self.model)

    def training_step(self, batch: dict[str, Tensor], step: int) -> Tensor:
        clip, partner, share = batch["clip"], batch["partner"], batch["share"]
        waveform, x = self.hear(batch)
        teachers, teacher_taps = self._taught(batch, waveform, x)
        float_logits = None
        if self.float_model is not None:
            with torch.no_grad():
                float_logits = self.float_model(x)
        with computing(self.precision, x.device):
            logits, taps = self._taps(x)
        said = Said(logits.float(), {path: tap.float() for path, tap in taps.items()})
        targets = self.objective.targets(self.label[clip], teachers, partner, share, float_logits, teacher_taps)
        loss, logged = self.objective(said, targets)
        weight = self._weight(len(partner), step)
        for name, value in logged.items():
            value = value if weight == 1 else weight * value  # noqa: PLW2901
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        return cast(Tensor, loss if weight == 1 else weight * loss)

    def _taught(
        self, batch: dict[str, Tensor], waveform: Tensor, x: Tensor
    ) -> tuple[Tensor | None, Sequence[dict[str, Tensor]]]:
        """What the teachers say of a batch: logits (teachers, rows, labels), and the taps of those that listen live.

        Args:
            batch: as `transfer_batch_to_device` gives it.
            waveform, x: what `hear` gave.
        """
        if self.live:
            if not self.view.repeat:
                return self._listened(batch, waveform, x)
            return self._remembered(batch, waveform, x), ()
        if self.teachers is None:
            return None, ()
        soft = self.teachers[:, self.current_epoch % self.teachers.shape[1]]  # (teachers, clips, segments, labels)
        if "segment" not in batch:
            return soft[:, batch["clip"], 0], ()
        each = torch.arange(len(soft), device=soft.device)[:, None]
        return soft[each, batch["clip"], batch["segment"]], ()

    def _listened(
        self, batch: dict[str, Tensor], waveform: Tensor, x: Tensor
    ) -> tuple[Tensor, Sequence[dict[str, Tensor]]]:
        said = [self._listening(number, teacher, batch, waveform, x) for number, teacher in enumerate(self.live)]
        return torch.stack([logits for logits, _ in said]), [taps for _, taps in said]

    def _remembered(self, batch: dict[str, Tensor], waveform: Tensor, x: Tensor) -> Tensor:
        """Logits (teachers, items, labels), listened to where they are not known yet."""
        items, epoch = batch["clip"][: len(batch["partner"])], self.current_epoch % self.view.repeat
        if self.said is not None and not (known := self.said[:, epoch, items]).isnan().any():
            return known
        logits, _ = self._listened(batch, waveform, x)
        if self.said is None:
            self.said = logits.new_full((len(logits), self.view.repeat, len(self.label), logits.shape[2]), torch.nan)
        self.said[:, epoch, items] = logits
        return logits

    def _listening(
        self, number: int, teacher: LiveTeacher, batch: dict[str, Tensor], waveform: Tensor, x: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.recipe.distill.teaching == "live":
            return teacher(teacher.front(batch[_heard_by(number)]))
        return teacher(
            teacher.renormalised(x, self.front.fe) if teacher.shares(self.front) else teacher.front(waveform)
        )

    def _weight(self, items: int, step: int) -> float:
        """Of this process's share in a batch: the mean over processes of weighted means over items is the mean over all
        items."""
        return items * processes.world() / self.view.sizes[step]

    def hear(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """A batch as `transfer_batch_to_device` gives it, augmented and mixed.

        Returns:
            the items' waveforms float32 (items, samples) or (items, channels, samples), unmixed where mixing is on
            log-mel; and what the network gets: (items, channels, mel, frame), or (items, channels, time).
        """
        augment = self.recipe.augment
        mixed_first = augment.mixup_domain != "log_mel"
        with torch.no_grad():
            waveform = batch["waveform"]
            if augment.speed > 1:
                waveform = played(waveform, batch["speed"], self.view.played)
            if self.responses is not None:
                waveform = convolve(waveform, batch["response_rows"], self.responses, batch["response"])
            if augment.gain_db > 0:
                waveform = gain(waveform, batch["gain_db"])
            if mixed_first:
                waveform = self._items(waveform, batch, mix if augment.mixup_domain == "waveform" else mix_loudness)
            if augment.time_stretch > 1:
                hop = (
                    torch.cat([batch["hop"][: len(batch["partner"])], batch["hop"][batch["style_rows"]]])
                    if mixed_first
                    else batch["hop"]
                )
                x = self.hearing(waveform, hop, self.view.samples)
            else:
                x = self.hearing(waveform)
            if not mixed_first:
                x = self._items(x, batch, mix)
            if augment.mixstyle_p > 0:
                x = mix_style(x, batch["style"], batch["style_share"])
            if augment.filter_p > 0:
                fe = self.front.fe
                x = colour(
                    x, batch["filter_db"] * (NEPERS_PER_DB / fe.std), (math.log(fe.log_floor) - fe.mean) / fe.std
                )
            if augment.mel_masks:
                x = mask(x, MEL_AXIS, batch["mel_start"], batch["mel_width"])
            if augment.time_masks:
                x = mask(x, FRAME_AXIS, batch["frame_start"], batch["frame_width"])
        return waveform[: len(batch["partner"])], cast(Tensor, x)

    def _items(self, x: Tensor, batch: dict[str, Tensor], mixing: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Of rows (rows, ...) the items, mixed, and after them the rows whose statistics are wanted, as they are."""
        augment, partner = self.recipe.augment, batch["partner"]
        items = mixing(x, partner, batch["share"]) if augment.mixup_p > 0 else x[: len(partner)]
        return torch.cat([items, x[batch["style_rows"]]]) if augment.mixstyle_p > 0 else items

    @property
    def _freezes(self) -> bool:
        """Whether scales no longer learn in this epoch."""
        return isinstance(self.phase, Qat) and self.current_epoch >= self.phase.epochs - self.phase.freeze_epochs

    def on_before_optimizer_step(self, *_: Any) -> None:
        """Of several processes, each must have all gradients that it had in the first step: scales drop theirs here
        instead."""
        if self._freezes and processes.world() > 1:
            for quantiser in self.model.quantisers():
                for threshold in quantiser.parameters():
                    threshold.grad = None

    def on_train_batch_end(self, *_: Any) -> None:
        """Move the average."""
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
        decayed, plain = [], []
        for name, parameter in (*trainable(self.model), *self.objective.named_parameters()):
            (decayed if name.endswith("weight") and parameter.dim() > 1 else plain).append(parameter)
        groups = [{"params": decayed, "weight_decay": phase.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        adam = torch.optim.Adam if isinstance(phase, Train) and phase.optimizer == "adam" else torch.optim.AdamW
        optimizer = adam([group for group in groups if group["params"]], lr=phase.lr, fused=True)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(phase, self.view.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def learning_rate_factor(phase: Train | Qat, steps: int) -> Callable[[int], float]:
    """Step -> factor of the learning rate. steps: optimizer steps of an epoch. The quantization-aware phase falls as a
    cosine to zero."""
    if isinstance(phase, Qat):
        return lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / (phase.epochs * steps))))
    rise = min(phase.warmup_epochs * steps, phase.epochs * steps)
    fall = max(1.0, phase.epochs * steps - rise)
    least = phase.min_lr_ratio

    def factor(step: int) -> float:
        if phase.schedule == "steps":
            share = min(1.0, (step + 1) / rise) if rise else 1.0
            return float(share * phase.gamma ** sum(step >= milestone * steps for milestone in phase.milestones))
        if step < rise:
            share = (step + 1) / rise
            return max(least, LEAST_RISE) ** (1 - share) if phase.schedule == "vivo" else share
        done = min(1.0, (step - rise) / fall)
        shape = 1 - done if phase.schedule == "vivo" else 0.5 * (1 + math.cos(math.pi * done))
        return least + (1 - least) * shape

    return factor


def _copy_of(model: nn.Module) -> nn.Module:
    """A copy that is never trained."""
    return copy.deepcopy(model).requires_grad_(False)


def _heard_by(number: int) -> str:
    """Key of the waveforms of a live teacher in a batch on the device."""
    return f"teacher{number}"
