"""Outputs of a network's inner modules (taps), for losses between student and teacher, and logits of segments."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgekd.errors import InputError
from edgekd.models.base import AudioNetwork
from edgekd.text import counted

EMBEDDING = "embedding"
"""The tap that every network has: the output of its module `EMBEDDING`."""
_EXAMPLES = 5


class Taps:
    """Runs a network and keeps the outputs of some of its modules.

    `Taps(model, ("embedding", "features.3"))(x)` is (logits, {path: output}). "embedding" is (batch, width): a map is
    averaged over mel and frame. Other outputs are unchanged, mostly (batch, channel, mel, frame). Gradients flow unless
    they are disabled.

    Args:
        model: any of `edgekd.models`.
        paths: "embedding", or paths of modules as in `model.named_modules()`.

    Raises:
        InputError: there is no module of that path; the message names similar ones.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        self.model = model
        self.paths = tuple(dict.fromkeys(paths))
        self._taken: dict[str, Tensor] | None = None
        modules = {name: module for name, module in model.named_modules() if name}
        self._hooks = []
        for path in self.paths:
            name = cast(AudioNetwork, model).EMBEDDING if path == EMBEDDING else path
            if name not in modules:
                raise InputError(f"{type(model).__name__} has no module '{name}' to tap{_hint(name, list(modules))}")
            self._hooks.append(modules[name].register_forward_hook(self._hook(path)))

    def __call__(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (batch, labels) and the taps.

        Raises:
            InputError: a tapped module was not called or its output is no tensor.
        """
        self._taken = {}
        try:
            logits = self.model(x)
            taken = self._taken
        finally:
            self._taken = None
        for path in (path for path in self.paths if path not in taken):
            raise InputError(
                f"tap '{path}': {type(self.model).__name__} does not call this module; tap a module inside or around it"
            )
        return logits, taken

    def close(self) -> None:
        """Remove the hooks from the network."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, _: Any, output: Any) -> None:
            if self._taken is None:  # the network was not called through these taps
                return
            if not isinstance(output, Tensor):
                raise InputError(
                    f"tap '{path}': {type(module).__name__} returns no single tensor; tap a module inside or around it"
                )
            if path == EMBEDDING and output.dim() > 2:
                output = output.mean(dim=tuple(range(2, output.dim())))  # (B, D)
            self._taken[path] = output

        return keep


def _hint(path: str, modules: list[str]) -> str:
    """Similar names of modules, or a few examples, as the end of a message."""
    tops = [name for name in modules if name.count(".") < 2]
    near = difflib.get_close_matches(path, modules, n=_EXAMPLES)
    examples = [*tops[:: max(1, len(tops) // _EXAMPLES)][:_EXAMPLES], EMBEDDING]
    known = f"here are e.g. {', '.join(examples)}"
    return f"; did you mean {' or '.join(near)}? T{known}" if near else f"; t{known}"


def segment_logits(model: nn.Module, x: Tensor, segments: int) -> Tensor:
    """Logits of each of several equal parts of a network's input; the features are computed once, over the complete
    input.

    Args:
        model: any of `edgekd.models` in which the outermost module of the path `HEAD` takes a map (batch, channel, mel,
            frame).
        x: log_mel (batch, channels, mel, frame) or waveform (batch, channels, time).
        segments: number of parts; where it does not divide the map's frames, the first parts have one frame more.

    Returns:
        Logits (batch, segments, labels).

    Raises:
        InputError: the head takes no map, or the map has fewer frames than segments.
    """
    head, taken = model.get_submodule(cast(AudioNetwork, model).HEAD.partition(".")[0]), list[Tensor]()
    hook = head.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    try:
        logits: Tensor = model(x)
    finally:
        hook.remove()
    if segments == 1:
        return logits[:, None]
    features = taken[0] if taken else logits
    if features.dim() != 4:
        raise InputError(
            f"{type(model).__name__} has no map of frames before its classifier, so it cannot classify {segments}"
            " segments; set segments to 1"
        )
    if features.shape[-1] < segments:
        raise InputError(
            f"{type(model).__name__} has {counted(features.shape[-1], 'frame')} before its classifier, too few for"
            f" {segments} segments; set segments to {features.shape[-1]} or fewer, or use longer windows"
        )
    return torch.stack([head(part) for part in features.tensor_split(segments, dim=-1)], dim=1)
