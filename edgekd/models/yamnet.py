"""YAMNet (Plakal and Ellis 2020), a MobileNet (Howard et al. 2017) trained on AudioSet, as a teacher in which
every layer can be fine-tuned.

3,195,456 parameters without the dense layer. It reads waveforms at 16 kHz and has its own front end: 25 ms every 10 ms,
64 mels from 125 to 7,500 Hz, log(magnitude + 0.001). `weights` names a .tflite file of it. In that file
batch norms are folded into the convolutions, and weights are int8 with a scale for each channel or tensor; they are
dequantised here. The published network reads patches of 0.96 s, this one all frames of a waveform at once. As a frozen
file with a head, YAMNet is a `black_box`.
"""

from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.data.weights import find
from edgekd.errors import InputError
from edgekd.frontend import FrontEnd
from edgekd.modelfile.engine import litert_interpreter, silent_stderr
from edgekd.models.base import AudioNetwork, InputKind
from edgekd.models.blocks import Block, PooledClassifier, convolve

_LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Channels and stride of the separable convolutions after the stem of 32."""
_STEM = 32
SAMPLE_RATE, WINDOW, HOP, FFT, MELS, LOW_HZ, HIGH_HZ, LOG_OFFSET = 16000, 400, 160, 512, 64, 125.0, 7500.0, 0.001
"""Its front end: Hz, samples, samples, samples, bands, Hz, Hz, and the offset added to a magnitude before the
logarithm."""


class YamnetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="yamnet"):
    """Initial weights and head of YAMNet."""

    input_kind: ClassVar[InputKind] = "waveform"

    weights: str = ""
    """The .tflite file that training begins with: "yamnet", or the path of a copy; "" begins at random."""
    dropout: float = 0.0
    """Probability, before the dense layer."""


class YamnetFeatures(Block):
    """waveform (B, 1, T) -> log-mel (B, 1, mel, frame), always computed in float32. No integer form."""

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("filters", torch.from_numpy(_mel_filters()), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        if waveform.shape[1] != 1:
            raise InputError(f"yamnet: reads one channel, got {waveform.shape[1]}; set view.channels = 'mean'")
        with torch.autocast(waveform.device.type, enabled=False):
            x = waveform.float()
            x = F.pad(x, (0, max(WINDOW - x.shape[-1], 0)))
            spectrum = torch.fft.rfft(x.unfold(-1, WINDOW, HOP) * self.window, FFT)  # (B, 1, frame, bin)
            magnitude = (spectrum.real.square() + spectrum.imag.square()).sqrt()  # a third of the time of abs()
            return torch.log(magnitude @ self.filters + LOG_OFFSET).transpose(2, 3)  # (B, 1, mel, frame)


class PaddedConv(Block):
    """Convolution with a bias and ReLU, padded as TensorFlow's "SAME": an odd row or column of zeros comes last. No
    integer form."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.conv.kernel_size, self.conv.stride
        missing = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:]]
        if any(missing):
            mel, frame = missing
            x = F.pad(x, (frame // 2, frame - frame // 2, mel // 2, mel - mel // 2))
        return F.relu(convolve(self.conv, x))


class Yamnet(AudioNetwork):
    """waveform (batch, 1, time) -> logits (batch, labels)."""

    HEAD = "classifier.dense"
    EMBEDDING = "classifier.pool"

    def __init__(self, config: YamnetConfig, labels: int) -> None:
        super().__init__()
        self.log_mel = YamnetFeatures()
        layers: list[nn.Module] = [PaddedConv(1, _STEM, 3, 2)]
        channels = _STEM
        for width, stride in _LAYERS:
            layers += [PaddedConv(channels, channels, 3, stride, groups=channels), PaddedConv(channels, width)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = PooledClassifier(channels, labels, config.dropout)

    def forward(self, waveform: Tensor) -> Tensor:
        return self.classifier(self.features(self.log_mel(waveform)))  # features: (B, 1024, 2, 4) of a second


def check_rate(fe: FrontEnd) -> None:
    """Refuse a front end that YAMNet cannot be used with.

    Raises:
        InputError: another sample rate, or a pre-emphasis.
    """
    if fe.sample_rate != SAMPLE_RATE or fe.pre_emphasis:
        raise InputError(
            f"yamnet: reads plain waveforms at {SAMPLE_RATE} Hz, but the recipe's front end has {fe.sample_rate} Hz and"
            f" a pre-emphasis of {fe.pre_emphasis:g}; prepare a store at {SAMPLE_RATE} Hz and set frontend.sample_rate"
            f" = {SAMPLE_RATE} and frontend.pre_emphasis = 0"
        )


def load_yamnet(model: Yamnet, path: Path | str) -> None:
    """Load the published weights into a network, in place; the dense layer is for other labels and stays as it is.

    Args:
        model: the network.
        path: of YAMNet's .tflite file, or its name; see `edgekd.data.weights.find`.

    Raises:
        InputError: the file is missing or not YAMNet.
        MissingExtraError: LiteRT is not installed.
    """
    with torch.no_grad():
        for layer, (weight, bias) in zip(model.features, published_layers(path, len(model.features)), strict=True):
            assert isinstance(layer, PaddedConv)
            assert layer.conv.bias is not None
            layer.conv.weight.copy_(weight)
            layer.conv.bias.copy_(bias)


def published_layers(path: Path | str, count: int) -> list[tuple[Tensor, Tensor]]:
    """Weights (out, in / groups, mel, frame) and biases (out,), float32, of the first convolutions of YAMNet's .tflite
    file (a path or a name): the stem, then of each separable convolution the depthwise and the pointwise one.

    Raises:
        InputError: the file is missing or not YAMNet.
        MissingExtraError: LiteRT is not installed.
    """
    path = find(path)
    tensors, layers, inputs = _tensors(path), [], 1
    for number, (outputs, kernel, depthwise) in enumerate(_convolutions()[:count]):
        name = f"layer{(number + 3) // 2}/{'depthwise' if depthwise else 'pointwise'}_conv" if number else "layer1/conv"
        shape = (1, kernel, kernel, outputs) if depthwise else (outputs, kernel, kernel, inputs)
        weight = torch.from_numpy(_one(tensors, path, name, shape))  # (out, frame, mel, in), or (1, frame, mel, out)
        bias = torch.from_numpy(_one(tensors, path, name, (outputs,)))
        layers.append((weight.permute(3, 0, 2, 1) if depthwise else weight.permute(0, 3, 2, 1), bias))
        inputs = outputs
    return layers


def _convolutions() -> list[tuple[int, int, bool]]:
    """(outputs, kernel size, whether it is depthwise) of each convolution."""
    found, inputs = [(_STEM, 3, False)], _STEM
    for width, _ in _LAYERS:
        found += [(inputs, 3, True), (width, 1, False)]
        inputs = width
    return found


Tensors = list[tuple[str, NDArray[np.float32]]]


def _tensors(path: Path) -> Tensors:
    """Names and values, as float32, of the constants of a .tflite file."""
    interpreter_type = litert_interpreter()
    try:
        with silent_stderr():
            interpreter: Any = interpreter_type(model_content=path.read_bytes())
            interpreter.allocate_tensors()
            details = interpreter.get_tensor_details()
            constants = [(each, interpreter.get_tensor(each["index"])) for each in details if _is_weight(each)]
    except OSError as error:
        raise InputError(
            f"yamnet: weights '{path}' cannot be read ({error.strerror}); give the path of yamnet.tflite"
        ) from None
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"yamnet: weights '{path}' is not a LiteRT model ({' '.join(str(error).split())}); give yamnet.tflite"
        ) from None
    return [(_name(each), _dequantised(each, value)) for each, value in constants]


def _name(detail: dict[str, Any]) -> str:
    """The first of the tensor's names, which the converter joined."""
    return str(detail["name"]).split(";")[0]


def _is_weight(detail: dict[str, Any]) -> bool:
    return "/layer" in _name(detail) and "/relu/" not in _name(detail)


def _dequantised(detail: dict[str, Any], value: NDArray[Any]) -> NDArray[np.float32]:
    """The real values of a constant."""
    scales, axis = detail["quantization_parameters"]["scales"], detail["quantization_parameters"]["quantized_dimension"]
    if value.dtype != np.int8:
        return value.astype(np.float32)
    shape = [1] * value.ndim
    if len(scales) > 1:
        shape[axis] = len(scales)
    return value.astype(np.float32) * np.reshape(scales, shape).astype(np.float32)


def _one(tensors: Tensors, path: Path | str, layer: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    for name, value in tensors:
        if f"/{layer}/" in name and value.shape == shape:
            return value
    raise InputError(f"yamnet: weights '{path}' has no tensor {shape} of {layer}; give the published yamnet.tflite")


def _mel_filters() -> NDArray[np.float32]:
    """Triangular filters (257, 64), linear in mel (HTK); the bin of 0 Hz is left out."""

    def mel(hz: Any) -> Any:
        return 1127.0 * np.log1p(np.asarray(hz, np.float64) / 700.0)

    corners = np.linspace(mel(LOW_HZ), mel(HIGH_HZ), MELS + 2)
    bins = mel(np.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1))[:, None]
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    filters: NDArray[np.float32] = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    filters[0] = 0.0
    return filters
