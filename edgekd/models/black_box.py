"""Any .tflite or .onnx file as a teacher: frozen, run by its engine, with a trained head on what it says of a sound.

YAMNet (Plakal and Ellis 2020), for instance, is `file = "yamnet.tflite"`, `output =
"yamnet_frames/global_average_pooling2d/Mean"`: 1,024 features of patches of 0.975 s at 16 kHz, of which a linear head
for 50 labels has 51,250 parameters.
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

from edgekd.errors import InputError
from edgekd.frontend import FrontEnd
from edgekd.modelfile.black_box import BlackBox, open_features
from edgekd.models.base import AudioNetwork, TensorModule

REMEMBERED = 1 << 16
"""Sounds whose features are kept, so that those heard again without augmentation cost nothing: 256 MB at 1,024
features."""
OPEN_FILES = 8
"""Files that stay open in a process."""


class BlackBoxConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="black_box"
):
    """The file, what is taken of it, how it goes over a sound, and the head."""

    hears: ClassVar[Literal["log_mel", "waveform"]] = "waveform"
    file: str
    """Path, absolute or from where the command is run."""
    output: str = ""
    """"" is the file's first output; else the name or the number of an output or of an inner tensor, see
    `edgekd.modelfile.black_box`."""
    sample_rate: Annotated[int, Meta(gt=0)] = 16000
    """Hz that the file was trained at."""
    hop: Annotated[float, Meta(gt=0)] | None = None
    """Seconds from patch to patch; None is the length of a patch."""
    seconds: Annotated[float, Meta(gt=0)] | None = None
    """Length of a patch where the file takes any; None is the whole sound."""
    pool: Literal["mean", "mean_max"] = "mean"
    """What the head gets of the patches: their mean, or their mean and their largest values."""
    head: bool = True
    """Whether there is one; without, the file's output are the logits, and its labels must be those of the store."""
    hidden: Annotated[int, Meta(ge=0)] = 0
    """Units of a hidden layer of the head; 0 is a linear head."""
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Probability, before each dense layer of the head."""


def check_front_end(config: BlackBoxConfig, fe: FrontEnd) -> None:
    """Whether a file may hear what a recipe's front end hears.

    Raises:
        InputError: another sample rate, or a pre-emphasis.
    """
    if fe.sample_rate != config.sample_rate:
        raise InputError(
            f"{config.file}: hears {config.sample_rate} Hz (sample_rate of the black box), but the recipe's front end"
            f" has {fe.sample_rate} Hz; prepare a store at {config.sample_rate} Hz and set frontend.sample_rate"
        )
    if fe.pre_emphasis:
        raise InputError(
            f"{config.file}: hears plain waveforms, but frontend.pre_emphasis is {fe.pre_emphasis:g}; set it to 0"
        )


class BlackBoxNetwork(AudioNetwork):
    """waveform (batch, 1, time) -> logits (batch, labels).

    Raises:
        InputError: see `edgekd.modelfile.black_box.open_features`; another sample rate than the file's; without a head
            another number of labels.
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
                    f"{config.file}: gives {width} values, but there are {labels} labels; train a head on it (head ="
                    " true)"
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

    Its state is the hash of the file, so that weights of a head are known to belong to it, and a parameter without
    elements, which tells where the network is.
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
                f"{config.file}: its manifest says {manifest.frontend.sample_rate} Hz, but sample_rate of the black box"
                f" is {config.sample_rate}; set it to {manifest.frontend.sample_rate}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Copies and other processes open the file themselves: engines cannot be copied."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {name: value for name, value in state.items() if name not in ("_box", "_kept")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._open()

    def get_extra_state(self) -> Tensor:
        """uint8 (32,), the SHA-256 of the file."""
        return torch.tensor(list(bytes.fromhex(self._box.sha256)), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Compare with that of the weights.

        Raises:
            InputError: they belong to another file.
        """
        trained = bytes(state.tolist()).hex()
        if trained != self._box.sha256:
            raise InputError(
                f"{self.config.file}: is another file than the head was trained on (SHA-256 {self._box.sha256[:8]},"
                f" then {trained[:8]}); put that one there, or train the run again"
            )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, waveform: Tensor) -> Tensor:
        if waveform.shape[1] != 1:
            raise InputError(
                f"{self.config.file}: hears one channel, got {waveform.shape[1]}; set view.channels = 'mean'"
            )
        rows = waveform.detach()[:, 0].float().cpu().numpy()  # (B, time)
        return torch.from_numpy(np.stack([self._features(np.ascontiguousarray(row)) for row in rows])).to(
            waveform.device
        )

    def _features(self, sound: NDArray[np.float32]) -> NDArray[np.float32]:
        """(width,) of (time,), from memory where it was heard before."""
        key = hashlib.blake2b(sound.tobytes(), digest_size=16).digest()
        features = self._kept.get(key)
        if features is None:
            features = self._kept[key] = self._heard(sound)
            if len(self._kept) > REMEMBERED:
                self._kept.popitem(last=False)
        return features

    def _heard(self, sound: NDArray[np.float32]) -> NDArray[np.float32]:
        """(width,) of (time,): patches that begin at multiples of the hop and lie inside; zeros fill up a sound shorter
        than one."""
        config = self.config
        length = self._box.samples or (round(config.seconds * config.sample_rate) if config.seconds else len(sound))
        hop = length if config.hop is None else max(1, round(config.hop * config.sample_rate))
        sound = np.pad(sound, (0, max(length - len(sound), 0)))
        patches = np.stack(
            [self._box.vector(sound[start : start + length]) for start in range(0, len(sound) - length + 1, hop)]
        )
        mean = patches.mean(axis=0)
        return mean if config.pool == "mean" else np.concatenate([mean, patches.max(axis=0)])


def _opened(file: str, output: str) -> BlackBox:
    """One engine a process for each file, as it is now."""
    try:
        changed = Path(file).stat().st_mtime_ns
    except OSError:
        changed = 0  # opening it says what is wrong
    return _opened_once(file, output, changed)


@functools.lru_cache(maxsize=OPEN_FILES)
def _opened_once(file: str, output: str, _: int) -> BlackBox:
    return open_features(file, output)
