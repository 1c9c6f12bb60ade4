"""A conventional training pipeline that `bench_training.py` compares with: the method and the parts of most DCASE
baselines.

A `Dataset` decodes one wav file for each item, in worker processes. The training step resamples, computes log-mel by an
STFT of the batch and a dense filterbank, and trains in torch's default memory layout, under the default allocator. The
network, the batch, the sizes of the front end and the optimiser are those of the recipe that edgekd trains. Prints the
clips per second of each step after the first, as JSON.

    python tools/conventional_training.py WAVS RECIPE STEPS --workers 2 --threads 2
"""

import json
import math
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from edgekd.frontend import FrontEnd, filterbank
from edgekd.models import build
from edgekd.train.recipe.recipe import load_recipe
from edgekd.train.run.folder import model_config

ZERO_CROSSINGS = 6
"""Of the resampling filter on each side; torchaudio's default."""
ROLLOFF = 0.99


class Wavs(Dataset[tuple[Tensor, int]]):
    """LABEL/*.wav in a folder; each item is decoded when it is read, and rolled by a random shift."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*/*.wav"))
        self.labels = sorted({file.parent.name for file in self.files})

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        waveform, _ = soundfile.read(self.files[index], dtype="float32")
        waveform = np.roll(waveform, np.random.randint(-4000, 4001))
        return torch.from_numpy(waveform), self.labels.index(self.files[index].parent.name)


class Resample(nn.Module):
    """Windowed-sinc resampling as one strided convolution with a kernel for each output phase (Smith, "Digital Audio
    Resampling")."""

    def __init__(self, old: int, new: int) -> None:
        super().__init__()
        common = math.gcd(old, new)
        self.old, self.new = old // common, new // common
        base = min(self.old, self.new) * ROLLOFF
        self.width = math.ceil(ZERO_CROSSINGS * self.old / base)
        position = torch.arange(-self.width, self.width + self.old, dtype=torch.float64) / self.old
        phase = -torch.arange(self.new, dtype=torch.float64)[:, None] / self.new
        t = ((phase + position) * base).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
        kernel = torch.special.sinc(t) * torch.cos(t * math.pi / ZERO_CROSSINGS / 2) ** 2 * base / self.old
        self.register_buffer("kernel", kernel[:, None].float())

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, time) -> (batch, time * new / old)."""
        padded = F.pad(waveform, (self.width, self.width + self.old))
        phases = F.conv1d(padded[:, None], self.kernel, stride=self.old)  # (batch, new, time / old)
        length = math.ceil(self.new * waveform.shape[1] / self.old)
        return phases.transpose(1, 2).flatten(1)[:, :length]


class Mel(nn.Module):
    """Log-mel (batch, 1, mel, frame) by a centred STFT and a dense filterbank."""

    def __init__(self, fe: FrontEnd) -> None:
        super().__init__()
        self.fe = fe
        self.register_buffer("window", torch.hann_window(fe.win_length))
        self.register_buffer("bank", torch.from_numpy(filterbank(fe)).float())  # (mel, bin)

    def forward(self, waveform: Tensor) -> Tensor:
        fe = self.fe
        spectrum = torch.stft(
            waveform, fe.n_fft, fe.hop_length, fe.win_length, self.window, center=True, return_complex=True
        )
        return (self.bank @ spectrum.abs().square() + 1e-5).log()[:, None]


def main(
    wavs: Annotated[Path, typer.Argument(help="Folder of LABEL/*.wav.")],
    recipe: Annotated[str, typer.Argument(help="Of a student.")],
    steps: Annotated[int, typer.Argument(help="Optimiser steps that are timed.")],
    workers: Annotated[int, typer.Option(help="Of the loader.")] = 2,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
) -> None:
    """Train for a few steps and print clips per second of each."""
    torch.set_num_threads(threads)
    loaded = load_recipe(recipe)
    data = Wavs(wavs)
    rate = soundfile.info(data.files[0]).samplerate
    front = nn.Sequential(Resample(rate, loaded.frontend.sample_rate), Mel(loaded.frontend))
    network = build(model_config(loaded), len(data.labels)).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loader = DataLoader(data, loaded.train.batch_size, shuffle=True, num_workers=workers, drop_last=True)
    speeds: list[float] = []
    began = time.perf_counter()
    while len(speeds) <= steps:
        for waveform, label in loader:
            with torch.no_grad():
                features = front(waveform)
            loss = F.cross_entropy(network(features), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            now = time.perf_counter()
            speeds.append(len(label) / (now - began))
            began = now
            if len(speeds) > steps:
                break
    print(json.dumps({"clips_per_s": speeds[1:], "frames": features.shape[-1]}))


if __name__ == "__main__":
    typer.run(main)
