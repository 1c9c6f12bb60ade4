"""Predictions of a network on clips of a store while it is trained, and their scores. `edgekd evaluate` scores the
exported file instead, by the same definitions."""

import numpy as np
import torch
from torch import Tensor, nn

from edgekd.data.audio.augment import gain
from edgekd.data.store.store import ClipStore
from edgekd.metrics.predictions import Predictions
from edgekd.metrics.scores import score
from edgekd.models import segment_logits
from edgekd.train.batches.crops import Crops, Floats, Index, read_waveforms, scored_windows
from edgekd.train.recipe.schema import View

SCORE_BATCH = 64
"""Crops in one forward pass."""


def predict_clips(model: nn.Module, log_mel: nn.Module, store: ClipStore, clips: Index, view: View) -> Predictions:
    """Predictions of a network on clips, in the windows of a view. Of a "parent" view, each segment of a recording has
    the logits of the recording."""
    windows = scored_windows(store, clips, view)
    logits, silent = (each.numpy() for each in window_logits(model, log_mel, store, windows))
    if view.span == "parent":
        _, row = np.unique(store.recordings.recording[clips], return_inverse=True)
        return Predictions(logits[row], silent[row], clips, np.zeros(len(clips), np.int64))
    return Predictions(logits, silent, windows.owner, windows.start[:: windows.pieces])


def window_logits(
    model: nn.Module,
    log_mel: nn.Module,
    store: ClipStore,
    windows: Crops,
    gain_db: Floats | None = None,
    segments: int = 1,
) -> tuple[Tensor, Tensor]:
    """Logits of windows. The model runs in eval mode; its mode is restored.

    Args:
        model: features -> logits.
        log_mel: its front end.
        store: where the audio is.
        windows: the inputs.
        gain_db: (windows,) decibels that are added to each window.
        segments: of each window; with more than one, each segment has logits of its own.

    Returns:
        logits float32 (windows, labels), or (windows, segments, labels) with several segments, and silent bool
        (windows,), both on the CPU; silent windows have only samples of zero.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    logits, silent = [], []
    with torch.inference_mode():
        for part in np.array_split(np.arange(len(windows)), -(-len(windows) // SCORE_BATCH)):
            waveform = torch.from_numpy(read_waveforms(store, windows[part[0] : part[-1] + 1]))
            silent.append(~waveform.flatten(1).any(dim=1))
            waveform = waveform.to(device)
            if gain_db is not None:
                waveform = gain(waveform, torch.from_numpy(gain_db[part]).to(device))
            x = log_mel(waveform)
            logits.append((model(x) if segments == 1 else segment_logits(model, x, segments)).float().cpu())
    model.train(training)
    return torch.cat(logits), torch.cat(silent)


def run_metrics(predictions: Predictions, label_index: Index, prefix: str) -> dict[str, float]:
    """Scores as run.json and metrics.csv name them: "PREFIX_clip_accuracy", "PREFIX_window_accuracy" (0..1) and
    "PREFIX_clip_log_loss" (nats).

    Args:
        predictions: of the test side.
        label_index: (clips of the store,) index of each clip's label.
        prefix: "float", "qat" or "test".

    Raises:
        InputError: see `edgekd.metrics.scores.score`.
    """
    tested, clip_of = np.unique(predictions.clip, return_inverse=True)
    windows, clips = score(predictions.logits, predictions.silent, clip_of, label_index[tested])
    return {
        f"{prefix}_clip_accuracy": clips.accuracy,
        f"{prefix}_window_accuracy": windows.accuracy,
        f"{prefix}_clip_log_loss": clips.log_loss,
    }
