"""Students and teachers: one file each, listed here. A new architecture is a new file and one line in a dict."""

from collections.abc import Callable

from torch import nn

from edgekd.models.bc_resnet import BcResNet, BcResNetAsc, BcResNetAscConfig, BcResNetConfig
from edgekd.models.cp_mobile import CpMobile, CpMobileConfig
from edgekd.models.cp_resnet import CpResNet, CpResNetConfig
from edgekd.models.mobilenet_v2 import MobileNetV2, MobileNetV2Config
from edgekd.models.serfr_cnn import SerfrCnn, SerfrCnnConfig

ModelConfig = SerfrCnnConfig | BcResNetAscConfig | BcResNetConfig | CpResNetConfig | CpMobileConfig | MobileNetV2Config
"""A frozen config; its `kind` in TOML is the key below."""

MODELS: dict[type[ModelConfig], Callable[..., nn.Module]] = {
    SerfrCnnConfig: SerfrCnn,
    BcResNetAscConfig: BcResNetAsc,
    BcResNetConfig: BcResNet,
    CpResNetConfig: CpResNet,
    CpMobileConfig: CpMobile,
    MobileNetV2Config: MobileNetV2,
}
"""Config -> module (config, labels): log_mel (batch, 1, mel, frame) float32 -> logits (batch, labels). Any can teach; those without dynamic
norms can be exported."""


def build(config: ModelConfig, labels: int) -> nn.Module:
    """The float network of a config for a number of labels, randomly initialised from torch's global generator."""
    return MODELS[type(config)](config, labels)
