"""Fits a logistic regression on the frozen embedding of a recipe's network, for each split of a store in turn.

    python tools/embedding_probe.py RECIPE --data STORE [--set KEY=VALUE]... [--splits fold1,fold2,fold3,fold4]

The network has its initial weights, for instance published ones; nothing of it is trained. The embedding of a clip is
the mean over its windows of the input of the network's classifier. Each split is tested by a regression on the others.
Prints a table, then one JSON line. It serves to judge weights before a training.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from toolbox import run_tool

from edgekd.data.store.store import ClipStore
from edgekd.evaluation.bench import machine
from edgekd.models import front, initial
from edgekd.models.taps import EMBEDDING, Taps
from edgekd.train.batches.crops import read_waveforms, scored_windows
from edgekd.train.recipe.recipe import check_sample_rate, load_recipe
from edgekd.train.run.folder import model_config

BATCH = 16
STRENGTH = 0.1
"""Inverse of the regression's regularisation."""


def embeddings(recipe: str, overrides: list[str], store: ClipStore) -> np.ndarray:
    """float32 (clips, width): the embedding of each clip of a store."""
    loaded = load_recipe(recipe, overrides)
    check_sample_rate(loaded, store)
    config = model_config(loaded)
    network = Taps(initial(config, len(store.labels)).eval(), (EMBEDDING,))
    features = front(config, loaded.frontend)
    windows = scored_windows(store, np.arange(len(store.clips)), loaded.view)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(windows), BATCH):
            waveforms = torch.from_numpy(read_waveforms(store, windows[start : start + BATCH]))
            _, taps = network(features(waveforms))
            parts.append(taps[EMBEDDING].flatten(1).numpy())
    each = np.concatenate(parts)
    total = np.zeros((len(store.clips), each.shape[1]), np.float64)
    np.add.at(total, windows.owner, each)
    mean: np.ndarray = (total / np.bincount(windows.owner, minlength=len(total))[:, None]).astype(np.float32)
    return mean


def main(
    recipe: Annotated[str, typer.Argument(help="Name or path of a recipe.")],
    data: Annotated[Path, typer.Option(help="A store.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value settings.")] = None,
    splits: Annotated[str, typer.Option(help="Splits that are tested in turn.")] = "fold1,fold2,fold3,fold4",
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 1,
) -> None:
    """Probe the embedding."""
    torch.set_num_threads(threads)
    store = ClipStore.open(data)
    x, y = embeddings(recipe, set_ or [], store), store.label_index
    names, accuracies = splits.split(","), {}
    for name in names:
        test = store.indices([name])
        train = store.indices([other for other in names if other != name])
        fitted = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=2000)).fit(x[train], y[train])
        accuracies[name] = float(fitted.score(x[test], y[test]))
        print(f"{name:<12} {100 * accuracies[name]:6.2f} %")
    mean = float(np.mean(list(accuracies.values())))
    print(f"{'mean':<12} {100 * mean:6.2f} %   {x.shape[1]} values of {len(x):,} clips")
    print(json.dumps({"recipe": recipe, "set": set_ or [], "accuracy": accuracies, "mean": mean, "machine": machine()}))


if __name__ == "__main__":
    run_tool(main)
