"""The inference interface of a submission to DCASE 2025 task 1: load_model, load_inputs, get_model_for_device, predict.

`edgekd submission --year 2025` copies this module, the front end and `onnx_module` into an installable package that
needs no edgekd. The models are in a folder `ckpts/MODULE` with an index, models.json. A recording device may have a
model of its own; all others use "general".
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor, nn

from edgekd.dcase.onnx_module import OnnxFile, Quant
from edgekd.frontend import FrontEnd, log_mel

INDEX = "models.json"
CKPTS = "ckpts"
GENERAL = "general"
"""Key of the model for devices without one of their own. `edgekd.dcase.forms` repeats it, since this module must not
import it."""
PCM_SCALE = 32768.0
FLOATS = ("FLOAT", "DOUBLE")
"""libsndfile's names for samples that may be above full scale; they are scaled down to it, as edgekd does."""
BATCH = 64


class DeviceModel(OnnxFile):
    """The network of one device, with its front end, its window in samples and the temperature that divides its
    logits."""

    def __init__(self, folder: Path, entry: dict[str, Any]) -> None:
        super().__init__((folder / entry["file"]).read_bytes(), *(Quant(**entry[name]) for name in ("input", "output")))
        self.frontend = msgspec.convert(entry["frontend"], FrontEnd)
        self.window, self.temperature = int(entry["window"]), float(entry["temperature"])

    def forward(self, features: Tensor) -> Tensor:
        """Calibrated logits (batch, labels): those of `OnnxFile.forward` divided by the temperature."""
        logits: Tensor = super().forward(features)
        return logits / self.temperature


class Models(nn.Module):
    """The networks of all devices. class_order: scenes in the order of the logits."""

    def __init__(self, index: Path) -> None:
        super().__init__()
        document = json.loads(index.read_text(encoding="utf-8"))
        self.class_order: list[str] = document["class_order"]
        self.devices = nn.ModuleDict(
            {name: DeviceModel(index.parent, entry) for name, entry in document["models"].items()}
        )

    def forward(self, features: Tensor) -> Tensor:
        """Logits of the general model."""
        logits: Tensor = self.devices[GENERAL](features)
        return logits


def load_model(model_file_path: str | None = None) -> Models:
    """The models of the package, or those of another index (models.json)."""
    here = Path(__file__)
    return Models(here.parent / CKPTS / here.stem / INDEX if model_file_path is None else Path(model_file_path)).eval()


def load_inputs(file_paths: list[str], device_ids: list[str], model: Models) -> list[Tensor]:
    """Log-mel features, float32 (1, 1, mel, frame), of the first window of each file, for its device's model. A shorter
    file is filled up with zeros."""
    if len(file_paths) != len(device_ids):
        raise ValueError(f"{len(file_paths)} files and {len(device_ids)} device ids; give one for each file")
    return [
        _features(path, get_model_for_device(model, device))
        for path, device in zip(file_paths, device_ids, strict=True)
    ]


def get_model_for_device(model: Models, device_id: str) -> DeviceModel:
    """The network of a recording device."""
    network = model.devices[device_id if device_id in model.devices else GENERAL]
    assert isinstance(network, DeviceModel)
    return network


def predict(
    file_paths: list[str], device_ids: list[str], model_file_path: str | None = None, use_cuda: bool = False
) -> tuple[list[Tensor], list[str]]:
    """Logits (labels,) of each file, in the order given, and the scenes of the labels."""
    model = load_model(model_file_path).to("cuda" if use_cuda and torch.cuda.is_available() else "cpu")
    logits: list[Tensor] = [torch.empty(0)] * len(file_paths)
    networks: dict[int, tuple[DeviceModel, list[int]]] = {}
    for index, device_id in enumerate(device_ids):
        network = get_model_for_device(model, device_id)
        networks.setdefault(id(network), (network, []))[1].append(index)
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):  # integers need all bits of float32
        for network, indices in networks.values():
            device = next(network.parameters()).device
            for start in range(0, len(indices), BATCH):
                some = indices[start : start + BATCH]
                features = torch.cat(load_inputs([file_paths[i] for i in some], [device_ids[i] for i in some], model))
                for index, row in zip(some, network(features.to(device)).cpu(), strict=True):
                    logits[index] = row
    return logits, list(model.class_order)


def _features(path: str, network: DeviceModel) -> Tensor:
    fe, window = network.frontend, network.window
    with soundfile.SoundFile(path) as file:
        waveform, rate, has_floats = file.read(dtype="float32", always_2d=True), file.samplerate, file.subtype in FLOATS
    mono = waveform.mean(axis=1, dtype=np.float32)
    peak = float(np.abs(waveform).max(initial=0.0)) if has_floats else 0.0
    if peak > 1.0:
        mono *= np.float32(1.0 / peak)
    if rate != fe.sample_rate:
        mono = soxr.resample(mono, rate, fe.sample_rate)
    mono = np.clip(np.rint(mono * np.float32(PCM_SCALE)), -PCM_SCALE, PCM_SCALE - 1) / np.float32(PCM_SCALE)
    mono = np.pad(mono[:window], (0, max(0, window - len(mono)))).astype(np.float32)
    return torch.from_numpy(log_mel(fe, mono[None]))[None]  # (1, mel, frame) -> (1, 1, mel, frame)
