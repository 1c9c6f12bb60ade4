"""How well a network does on clips of a store while it is trained. `edgekd evaluate` judges the exported file, not
this."""

import io
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.data.audio.augment import gain
from edgekd.data.store.store import ClipStore
from edgekd.models import segment_logits
from edgekd.train.batches.crops import Crops, Floats, Index, read_waveforms, scored_windows
from edgekd.train.recipe.schema import View

SCORE_BATCH = 64
"""Windows in one forward pass."""


@dataclass(frozen=True)
class Score:
    """Accuracies in 0..1 and the log loss of clips in nats. A clip's probabilities are the mean over its windows that
    are not silent."""

    clip_accuracy: float
    window_accuracy: float
    clip_log_loss: float

    def named(self, prefix: str) -> dict[str, float]:
        """As metrics: {"PREFIX_clip_accuracy": ..., ...}."""
        return {
            f"{prefix}_clip_accuracy": self.clip_accuracy,
            f"{prefix}_window_accuracy": self.window_accuracy,
            f"{prefix}_clip_log_loss": self.clip_log_loss,
        }


@dataclass(frozen=True)
class Heard:
    """What a network said of windows: logits float32 (windows, labels), silent bool (windows,), clip and start int64
    (windows,)."""

    logits: NDArray[np.float32]
    silent: NDArray[np.bool_]
    clip: Index
    start: Index

    def to_npz(self) -> bytes:
        """A .npz file with these four arrays by name."""
        buffer = io.BytesIO()
        np.savez(buffer, logits=self.logits, silent=self.silent, clip=self.clip, start=self.start)
        return buffer.getvalue()


def hear(model: nn.Module, log_mel: nn.Module, store: ClipStore, clips: Index, view: View) -> Heard:
    """Run a network over clips as its view hears them. What is said of a recording is said of each of its segments."""
    places = scored_windows(store, clips, view)
    logits, silent = (each.numpy() for each in window_logits(model, log_mel, store, places))
    if view.span == "parent":
        _, row = np.unique(store.parents.parent[clips], return_inverse=True)
        return Heard(logits[row], silent[row], clips, np.zeros(len(clips), np.int64))
    return Heard(logits, silent, places.owner, places.start[:: places.pieces])


def window_logits(
    model: nn.Module,
    log_mel: nn.Module,
    store: ClipStore,
    places: Crops,
    gain_db: Floats | None = None,
    segments: int = 1,
) -> tuple[Tensor, Tensor]:
    """Logits of windows, the model in eval mode (its mode is put back).

    Args:
        model: features -> logits.
        log_mel: its front end.
        store, places: what it hears.
        gain_db: (windows,) decibels by which each is louder.
        segments: of each window, judged each for itself where there is more than one.

    Returns:
        logits float32 (windows, labels), or (windows, segments, labels) of several segments, and silent bool
        (windows,), both on the CPU; silent windows have only samples of zero.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    logits, silent = [], []
    with torch.inference_mode():
        for part in np.array_split(np.arange(len(places)), -(-len(places) // SCORE_BATCH)):
            waveform = torch.from_numpy(read_waveforms(store, places[part[0] : part[-1] + 1]))
            silent.append(~waveform.flatten(1).any(dim=1))
            waveform = waveform.to(device)
            if gain_db is not None:
                waveform = gain(waveform, torch.from_numpy(gain_db[part]).to(device))
            x = log_mel(waveform)
            logits.append((model(x) if segments == 1 else segment_logits(model, x, segments)).float().cpu())
    model.train(training)
    return torch.cat(logits), torch.cat(silent)


def score(model: nn.Module, log_mel: nn.Module, store: ClipStore, clips: Index, view: View) -> Score:
    """Test a network on clips as its view hears them."""
    heard = hear(model, log_mel, store, clips, view)
    return judge(heard.logits, heard.silent, heard.clip, store.label_index)


def judge(logits: NDArray[np.float32], silent: NDArray[np.bool_], owner: Index, label_index: Index) -> Score:
    """Score windows.

    Args:
        logits: (windows, labels).
        silent: (windows,), left out of all figures, except for clips that are silent as a whole.
        owner: (windows,) clip of each window, windows of a clip being neighbours.
        label_index: label of each clip of the store.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    clips, place = np.unique(owner, return_inverse=True)
    heard = ~silent
    sounding = np.bincount(place, weights=heard, minlength=len(clips)) > 0
    weight = np.where(sounding[place], heard, True).astype(np.float64)
    summed = np.zeros((len(clips), logits.shape[1]))
    np.add.at(summed, place, probabilities * weight[:, None])
    mean = summed / np.bincount(place, weights=weight, minlength=len(clips))[:, None]
    truth = label_index[clips]
    right = probabilities.argmax(axis=1) == label_index[owner]
    return Score(
        clip_accuracy=float((mean.argmax(axis=1) == truth).mean()),
        window_accuracy=float(np.average(right, weights=weight)),
        clip_log_loss=float(-np.log(np.maximum(mean[np.arange(len(clips)), truth], np.finfo(np.float64).tiny)).mean()),
    )
