"""Any .tflite or .onnx file as a teacher: frozen, run by its engine, with a trained head on its output.

YAMNet (Plakal and Ellis 2020), for instance, is `file = "yamnet"`, `output =
"yamnet_frames/global_average_pooling2d/Mean"`: 1,024 features for each patch of 0.975 s at 16 kHz. A linear head for 50
labels has 51,250 parameters.
"""

import functools
import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.data.weights import find
from edgekd.errors import InputError
from edgekd.frontend import FrontEnd
from edgekd.modelfile.black_box import BlackBox, open_features
from edgekd.models.base import AudioNetwork, InputKind, TensorModule

CACHED_WAVEFORMS = 1 << 16
"""Waveforms whose features are kept, so that clips that repeat without augmentation cost nothing: 256 MB at 1,024
features."""
OPEN_FILES = 8
"""Files that a process keeps open."""


class BlackBoxConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="black_box"
):
    """The file, which output is taken, how patches cover a waveform, and the head."""

    input_kind: ClassVar[InputKind] = "waveform"
    file: str
    """Path, absolute or relative to the folder in which the command runs, or a name of `edgekd weights list`."""
    output: str = ""
    """Name or number of an output or of an inner tensor (see `edgekd.modelfile.black_box`); "" is the first output."""
    sample_rate: Annotated[int, Meta(gt=0)] = 16000
    """Sample rate of the file's training data, Hz."""
    hop: Annotated[float, Meta(gt=0)] | None = None
    """Seconds from the start of one patch to the next; None is the length of a patch."""
    seconds: Annotated[float, Meta(gt=0)] | None = None
    """Length of a patch in seconds, for a file that takes any length; None is the complete waveform."""
    pool: Literal["mean", "mean_max"] = "mean"
    """Pooling of the patches' features before the head: their mean, or their mean and their maximum."""
    head: bool = True
    """Whether a head is trained. Without one the file's outputs are the logits, and its labels must be those of the
    store."""
    hidden: Annotated[int, Meta(ge=0)] = 0
    """Units of the head's hidden layer; 0 is a linear head."""
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Probability, before each dense layer of the head."""


def check_front_end(config: BlackBoxConfig, fe: FrontEnd) -> None:
    """Refuse a front end that a file cannot be used with.

    Raises:
        InputError: another sample rate, or a pre-emphasis.
    """
    if fe.sample_rate != config.sample_rate:
        raise InputError(
            f"{config.file}: reads waveforms at {config.sample_rate} Hz (sample_rate of the black box), but the"
            f" recipe's front end has {fe.sample_rate} Hz; prepare a store at {config.sample_rate} Hz and set"
            " frontend.sample_rate"
        )
    if fe.pre_emphasis:
        raise InputError(
            f"{config.file}: reads plain waveforms, but frontend.pre_emphasis is {fe.pre_emphasis:g}; set it to 0"
        )


class BlackBoxNetwork(AudioNetwork):
    """waveform (batch, 1, time) -> logits (batch, labels).

    Raises:
        InputError: see `edgekd.modelfile.black_box.open_features`; the file has another sample rate, or, without a
            head, another number of labels.
    """

    HEAD = "head"
    EMBEDDING = "frozen"

    def __init__(self, config: BlackBoxConfig, labels: int) -> None:
        super().__init__()
        self.frozen = _Frozen(config)
        width = self.frozen.width
        if not config.head:
            if width != labels:
                raise InputError(
                    f"{config.file}: its output has {width} values, but there are {labels} labels; train a head on it"
                    " (head = true)"
                )
            self.head: nn.Module = nn.Identity()
        elif config.hidden:
            self.head = nn.Sequential(
                nn.Dropout(config.dropout),
                nn.Linear(width, config.hidden),
                nn.ReLU(),
                nn.Dropout(config.dropout),
                nn.Linear(config.hidden, labels),
            )
        else:
            self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, labels))

    def forward(self, waveform: Tensor) -> Tensor:
        logits: Tensor = self.head(self.frozen(waveform))
        return logits


class _Frozen(TensorModule):
    """waveform (batch, 1, time) -> features (batch, width), without gradient.

    Its state is the hash of the file, so that weights of a head can be matched with their file. The parameter `place`
    has no elements and shows on which device the network is.
    """

    def __init__(self, config: BlackBoxConfig) -> None:
        super().__init__()
        self.config = config
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)
        self._open()
        if config.pool == "mean_max" and not config.head:
            raise InputError(f"{config.file}: pool = 'mean_max' is for a head; set pool = 'mean' or head = true")
        self.width = self._box.width * (2 if config.pool == "mean_max" else 1)

    def _open(self) -> None:
        config = self.config
        self._box = _opened(config.file, config.output)
        self._kept: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        manifest = self._box.manifest
        if manifest is not None and manifest.frontend.sample_rate != config.sample_rate:
            raise InputError(
                f"{config.file}: its manifest has {manifest.frontend.sample_rate} Hz, but sample_rate of the black box"
                f" is {config.sample_rate}; set it to {manifest.frontend.sample_rate}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """State without the engine, which cannot be copied: a copy or another process opens the file itself."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {name: value for name, value in state.items() if name not in ("_box", "_kept")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._open()

    def get_extra_state(self) -> Tensor:
        """uint8 (32,), the SHA-256 of the file."""
        return torch.tensor(list(bytes.fromhex(self._box.sha256)), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Compare the hash of the file with that in the weights.

        Raises:
            InputError: the weights belong to another file.
        """
        trained = bytes(state.tolist()).hex()
        if trained != self._box.sha256:
            raise InputError(
                f"{self.config.file}: is not the file that the head was trained on (SHA-256 {self._box.sha256[:8]},"
                f" expected {trained[:8]}); restore that file, or train the run again"
            )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, waveform: Tensor) -> Tensor:
        if waveform.shape[1] != 1:
            raise InputError(
                f"{self.config.file}: reads one channel, got {waveform.shape[1]}; set view.channels = 'mean'"
            )
        rows = waveform.detach()[:, 0].float().cpu().numpy()  # (B, time)
        return torch.from_numpy(np.stack([self._features(np.ascontiguousarray(row)) for row in rows])).to(
            waveform.device
        )

    def _features(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features (width,) of a waveform (time,), from the cache where it is in it."""
        key = hashlib.blake2b(waveform.tobytes(), digest_size=16).digest()
        features = self._kept.get(key)
        if features is None:
            features = self._kept[key] = self._computed(waveform)
            if len(self._kept) > CACHED_WAVEFORMS:
                self._kept.popitem(last=False)
        return features

    def _computed(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features (width,) of a waveform (time,), pooled over the patches that begin at multiples of the hop and lie
        inside. A waveform shorter than a patch is filled up with zeros."""
        config = self.config
        length = self._box.samples or (round(config.seconds * config.sample_rate) if config.seconds else len(waveform))
        hop = length if config.hop is None else max(1, round(config.hop * config.sample_rate))
        waveform = np.pad(waveform, (0, max(length - len(waveform), 0)))
        patches = np.stack(
            [self._box.vector(waveform[start : start + length]) for start in range(0, len(waveform) - length + 1, hop)]
        )
        mean = patches.mean(axis=0)
        return mean if config.pool == "mean" else np.concatenate([mean, patches.max(axis=0)])


def _opened(file: str, output: str) -> BlackBox:
    """The engine of a file as it is now; a process has one for each file."""
    path = find(file)
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        changed = 0  # opening it raises the error
    return _opened_once(path, output, changed)


@functools.lru_cache(maxsize=OPEN_FILES)
def _opened_once(path: Path, output: str, _: int) -> BlackBox:
    return open_features(path, output)
