"""Students and teachers: one file each, listed here. A new architecture is a new file and one line in a dict.

Each network has two class attributes: `HEAD`, the path of the module that belongs to the labels (all else is the
backbone), and `EMBEDDING`, the path of the module whose output is the embedding.
"""

from collections.abc import Callable
from typing import Literal

from edgekd.frontend import FrontEnd
from edgekd.models.base import AudioNetwork
from edgekd.models.bc_resnet import BcResNet, BcResNetAsc, BcResNetAscConfig, BcResNetConfig
from edgekd.models.black_box import BlackBoxConfig, BlackBoxNetwork, check_front_end
from edgekd.models.cnn14 import Cnn14, Cnn14Config, load_published
from edgekd.models.cnn_gru import CnnGru, CnnGruConfig
from edgekd.models.cp_mobile import CpMobile, CpMobileConfig
from edgekd.models.cp_resnet import CpResNet, CpResNetConfig
from edgekd.models.hltdnn import HLTdnn, HLTdnnConfig
from edgekd.models.logmel import LogMel
from edgekd.models.mobilenet_v1 import MobileNetV1, MobileNetV1Config, load_first_layers
from edgekd.models.mobilenet_v2 import MobileNetV2, MobileNetV2Config
from edgekd.models.raw_cnn import RawCnn, RawCnnConfig
from edgekd.models.serfr_cnn import SerfrCnn, SerfrCnnConfig
from edgekd.models.taps import Taps, segment_logits
from edgekd.models.transformer import AstConfig, AstNetwork
from edgekd.models.waveform import RawWaveform
from edgekd.models.yamnet import Yamnet, YamnetConfig, check_rate, load_yamnet

ModelConfig = (
    SerfrCnnConfig
    | BcResNetAscConfig
    | BcResNetConfig
    | CpResNetConfig
    | CpMobileConfig
    | MobileNetV2Config
    | RawCnnConfig
    | CnnGruConfig
    | HLTdnnConfig
    | Cnn14Config
    | BlackBoxConfig
    | AstConfig
    | YamnetConfig
    | MobileNetV1Config
)
"""A frozen config; its `kind` in TOML is the key below. A class attribute `hears` says what the network is given."""

MODELS: dict[type[ModelConfig], Callable[..., AudioNetwork]] = {
    SerfrCnnConfig: SerfrCnn,
    BcResNetAscConfig: BcResNetAsc,
    BcResNetConfig: BcResNet,
    CpResNetConfig: CpResNet,
    CpMobileConfig: CpMobile,
    MobileNetV1Config: MobileNetV1,
    MobileNetV2Config: MobileNetV2,
    RawCnnConfig: RawCnn,
    CnnGruConfig: CnnGru,
    HLTdnnConfig: HLTdnn,
    Cnn14Config: Cnn14,
    BlackBoxConfig: BlackBoxNetwork,
    AstConfig: AstNetwork,
    YamnetConfig: Yamnet,
}
"""Config -> module (config, labels): log_mel (batch, channels, mel, frame) or waveform (batch, channels, time), float32
-> logits (batch, labels). Any can teach; those of blocks with an integer form alone (`edgekd.quant`) can be
exported."""

__all__ = ["MODELS", "ModelConfig", "Taps", "build", "front", "hears", "initial", "segment_logits"]


def build(config: ModelConfig, labels: int) -> AudioNetwork:
    """The float network of a config for a number of labels, randomly initialised from torch's global generator."""
    return MODELS[type(config)](config, labels)


def initial(config: ModelConfig, labels: int) -> AudioNetwork:
    """`build`, and then the weights that the config names, if any: a network as its training begins.

    Raises:
        InputError: no such file of weights, or one of another network.
    """
    model = build(config, labels)
    if isinstance(config, Cnn14Config) and isinstance(model, Cnn14) and config.weights:
        load_published(model, config.weights)
    if isinstance(config, YamnetConfig) and isinstance(model, Yamnet) and config.weights:
        load_yamnet(model, config.weights)
    if isinstance(config, MobileNetV1Config) and isinstance(model, MobileNetV1) and config.weights:
        load_first_layers(model, config.weights)
    return model


def hears(config: ModelConfig) -> Literal["log_mel", "waveform"]:
    """What the network of a config is given."""
    return getattr(config, "hears", "log_mel")


def front(config: ModelConfig, fe: FrontEnd, exact: bool = True) -> LogMel | RawWaveform:
    """What makes the input of a config's network from waveforms; `exact` is of log-mel.

    Raises:
        InputError: a front end that a black box or YAMNet cannot hear through.
    """
    if isinstance(config, BlackBoxConfig):
        check_front_end(config, fe)
    if isinstance(config, YamnetConfig):
        check_rate(fe)
    return RawWaveform(fe) if hears(config) == "waveform" else LogMel(fe, exact)
