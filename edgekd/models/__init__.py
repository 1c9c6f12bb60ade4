"""Students and teachers as float torch networks: one file for each architecture, listed in `MODELS`.

A new architecture is a new file and one line in that dict. A file holds a frozen config and its modules. Students are
composed of `blocks` alone, so that `edgekd.quant` can quantise them. Here too: the torch front ends and the taps. Not
here: quantisation, training, data.
"""

from collections.abc import Callable

from edgekd.data.weights import find
from edgekd.frontend import FrontEnd
from edgekd.models.base import AudioNetwork, InputKind
from edgekd.models.bc_resnet import BcResNet, BcResNetAsc, BcResNetAscConfig, BcResNetConfig
from edgekd.models.black_box import BlackBoxConfig, BlackBoxNetwork, check_front_end
from edgekd.models.cnn14 import Cnn14, Cnn14Config, load_published
from edgekd.models.cnn_gru import CnnGru, CnnGruConfig
from edgekd.models.cp_mobile import CpMobile, CpMobileConfig
from edgekd.models.cp_resnet import CpResNet, CpResNetConfig
from edgekd.models.hltdnn import HLTdnn, HLTdnnConfig
from edgekd.models.logmel import LogMel
from edgekd.models.mn import Mn, MnConfig, load_mn
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
    | MnConfig
)
"""A frozen config; its tag is the `kind` in TOML."""

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
    MnConfig: Mn,
}
"""Config -> network, called with (config, labels). Any network can teach. One that consists of blocks with an integer
form (`edgekd.quant`) can also be exported."""

__all__ = [
    "MODELS",
    "ModelConfig",
    "Taps",
    "build",
    "check_weights",
    "front",
    "initial",
    "input_kind",
    "segment_logits",
]


def build(config: ModelConfig, labels: int) -> AudioNetwork:
    """The float network of a config, initialised from torch's global random generator."""
    return MODELS[type(config)](config, labels)


def initial(config: ModelConfig, labels: int) -> AudioNetwork:
    """A network as its training begins: `build`, then the weights that the config names, if any.

    Raises:
        InputError: the file of weights is missing or belongs to another network.
    """
    model = build(config, labels)
    if isinstance(config, Cnn14Config) and isinstance(model, Cnn14) and config.weights:
        load_published(model, config.weights)
    if isinstance(config, YamnetConfig) and isinstance(model, Yamnet) and config.weights:
        load_yamnet(model, config.weights)
    if isinstance(config, MobileNetV1Config) and isinstance(model, MobileNetV1) and config.weights:
        load_first_layers(model, config.weights)
    if isinstance(config, MnConfig) and isinstance(model, Mn) and config.weights:
        load_mn(model, config.weights)
    return model


def check_weights(config: ModelConfig) -> None:
    """Find the file of weights that a config names. Those of the hub are not looked for.

    Raises:
        InputError: it is missing or damaged.
    """
    if isinstance(config, Cnn14Config | YamnetConfig | MobileNetV1Config | MnConfig) and config.weights:
        find(config.weights)
    if isinstance(config, BlackBoxConfig):
        find(config.file)


def input_kind(config: ModelConfig) -> InputKind:
    """What the network of a config reads: "log_mel" or "waveform"."""
    kind: InputKind = getattr(config, "input_kind", "log_mel")
    return kind


def front(config: ModelConfig, fe: FrontEnd, exact: bool = True) -> LogMel | RawWaveform:
    """The module that turns waveforms into the input of a config's network. exact: see `LogMel`.

    Raises:
        InputError: a black box or YAMNet cannot be used with this front end.
    """
    if isinstance(config, BlackBoxConfig):
        check_front_end(config, fe)
    if isinstance(config, YamnetConfig):
        check_rate(fe)
    return RawWaveform(fe) if input_kind(config) == "waveform" else LogMel(fe, exact)
