"""Taps, embeddings, heads and logits of segments of every network, and the front end of each."""

import copy

import pytest
import torch
from torch import Tensor, nn

from edgekd.errors import InputError
from edgekd.frontend import FrontEnd
from edgekd.models import ModelConfig, Taps, build, front, input_kind, segment_logits
from edgekd.models.bc_resnet import BcResNetAscConfig, BcResNetConfig
from edgekd.models.cnn14 import Cnn14Config
from edgekd.models.cnn_gru import CnnGruConfig
from edgekd.models.cp_mobile import CpMobileConfig
from edgekd.models.cp_resnet import CpResNetConfig
from edgekd.models.hltdnn import HLTdnnConfig
from edgekd.models.logmel import LogMel
from edgekd.models.mobilenet_v2 import MobileNetV2Config
from edgekd.models.raw_cnn import RawCnnConfig
from edgekd.models.serfr_cnn import SerfrCnnConfig
from edgekd.models.waveform import RawWaveform

LABELS = 5
EMBEDDINGS: list[tuple[ModelConfig, int]] = [
    (SerfrCnnConfig(width=8, last_width=16, stem_pool=(1, 1)), 16),
    (BcResNetAscConfig(width=8), 20),
    (BcResNetConfig(width=8, bands=1), 32),
    (
        CpResNetConfig(
            stem=8, widths=(8, 16), kernels=((3, 3), (3, 1)), groups=(1, 2), pools=(0,), pooling="attention", heads=4
        ),
        16,
    ),
    (CpMobileConfig(width=8, depths=(2, 1), strides=((1, 1), (2, 1), (1, 1))), 16),
    (MobileNetV2Config(width=0.25, stages=2, last_width=32), 32),
    (RawCnnConfig(channels=1, stem=8, widths=(8, 8), embedding=12), 12),
    (CnnGruConfig(channels=1, stem=4, widths=(4, 6), pools=(2, 2), embedding=12), 12),
    (CnnGruConfig(gru=False, channels=1, stem=4, widths=(4, 6), pools=(2, 2), embedding=12), 12),
    (HLTdnnConfig(widths=(4, 4), kernels=(3, 3), temporal=16, bins=4), 16 + 4 * 4),
    (Cnn14Config(widths=(8, 8, 16), hidden=24), 24),
]
CONFIGS = [config for config, _ in EMBEDDINGS]
each_network = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)


def network_inputs(config: ModelConfig, batch: int = 3, frames: int = 64) -> Tensor:
    return torch.randn(batch, 1, 4000) if input_kind(config) == "waveform" else torch.randn(batch, 1, 64, frames)


@pytest.mark.parametrize(("config", "width"), EMBEDDINGS, ids=lambda value: type(value).__name__)
def test_the_head_needs_nothing_but_the_embedding(config: ModelConfig, width: int) -> None:
    torch.manual_seed(0)
    model = build(config, LABELS).eval()
    logits, taps = Taps(model, ("embedding",))(network_inputs(config))
    assert taps["embedding"].shape == (3, width)
    dense = model.get_submodule("classifier.dense")
    with torch.no_grad():
        assert torch.allclose(dense(taps["embedding"][..., None, None]).flatten(1), logits, atol=1e-5)
    assert any(name == model.HEAD for name, _ in model.named_modules())
    assert dense.conv.weight is next(
        p for n, p in model.named_parameters() if n.startswith(model.HEAD) and "dense.conv.weight" in n
    )


@each_network
@pytest.mark.parametrize("computing", [torch.float32, torch.bfloat16])
def test_every_parameter_learns(config: ModelConfig, computing: torch.dtype) -> None:
    torch.manual_seed(0)
    model = build(config, LABELS).train()
    with torch.autocast("cpu", computing, enabled=computing != torch.float32):
        logits = model(network_inputs(config))
    assert logits.shape == (3, LABELS)
    nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1, 2])).backward()
    # DDP waits for every one
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@each_network
def test_dropout_is_torchs_to_seed(config: ModelConfig) -> None:
    model, x = build(config, LABELS).train(), network_inputs(config)
    torch.manual_seed(1)
    first = model(x)
    torch.manual_seed(1)
    assert torch.equal(model(x), first)


def test_taps_are_outputs_of_modules_and_do_not_change_the_network() -> None:
    model = build(CpResNetConfig(), LABELS).eval()
    x = torch.randn(2, 1, 64, 32)
    taps = Taps(model, ("features.0", "features.2.body.0", "embedding"))
    with torch.no_grad():
        logits, taken = taps(x.contiguous(memory_format=torch.channels_last))
        assert torch.equal(taken["features.0"], model.features[0](x))
        assert taken["features.2.body.0"].shape == (2, 32, 16, 8)
        assert torch.allclose(logits, model(x), atol=1e-6)
    taps.close()
    with pytest.raises(InputError, match=r"features\.0"):
        taps(x)  # nothing is kept any more


def test_a_copy_and_a_call_without_the_taps_keep_nothing() -> None:
    model = build(CpResNetConfig(), LABELS).eval()
    taps = Taps(model, ("features.0",))
    x = torch.randn(2, 1, 64, 32)
    _, taken = taps(x)
    kept = taken["features.0"]
    copy.deepcopy(model)(x + 1)
    model(x + 1)
    assert taken == {"features.0": kept}
    _, again = taps(x + 1)
    assert not torch.equal(again["features.0"], kept)


def test_taps_carry_gradient() -> None:
    model = build(CpResNetConfig(), LABELS)
    _, taken = Taps(model, ("features.0",))(torch.randn(2, 1, 64, 32))
    taken["features.0"].square().sum().backward()
    assert model.features[0].conv.weight.grad.abs().sum() > 0
    assert model.classifier.dense.conv.weight.grad is None


def test_what_cannot_be_tapped_is_refused() -> None:
    model = build(CpResNetConfig(), LABELS)
    with pytest.raises(
        InputError,
        match=r"'features\.99' .*features.*, embedding",
    ):
        Taps(model, ("features.99",))
    with pytest.raises(InputError, match=r"CpResNet .*'xyz' .*features,"):
        Taps(model, ("xyz",))
    model.unused = nn.Identity()
    with pytest.raises(InputError, match="tap 'unused': CpResNet"):
        Taps(model, ("unused",))(torch.randn(2, 1, 64, 32))
    recurrent = build(CnnGruConfig(), LABELS)
    with pytest.raises(InputError, match="GRU returns no single tensor"):
        Taps(recurrent, ("classifier.pool.gru",))(torch.randn(1, 2, 16, 16))


@each_network
def test_logits_of_a_segment_depend_on_its_own_frames(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model, x = build(config, LABELS).eval(), network_inputs(config, frames=128)
    with torch.no_grad():
        assert torch.equal(segment_logits(model, x, 1)[:, 0], model(x))
        seen = []
        hook = model.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        three = segment_logits(model, x, 3)
        hook.remove()
        assert three.shape == (3, 3, LABELS)
        full, *parts = seen
        assert torch.equal(torch.cat(parts, dim=-1), full)
        assert torch.equal(three[:, 1], model.classifier(parts[1]))
        frames = full.shape[-1]
        with pytest.raises(InputError, match=f"{frames} frames .*{frames + 1} segments"):
            segment_logits(model, x, frames + 1)


def test_a_mean_over_segments_is_that_of_all_frames_for_linear_heads() -> None:
    model = build(CpMobileConfig(), LABELS).eval()
    x = torch.randn(2, 1, 64, 128)
    with torch.no_grad():
        assert torch.allclose(segment_logits(model, x, 4).mean(dim=1), model(x), atol=1e-5)


def test_a_network_without_frames_has_no_segments() -> None:
    class Dense(nn.Module):
        HEAD, EMBEDDING = "dense", "dense"

        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(4, LABELS)

        def forward(self, log_mel: Tensor) -> Tensor:
            return self.dense(log_mel.mean(dim=(1, 3)))

    with pytest.raises(InputError, match=r"Dense .*2 segments"):
        segment_logits(Dense(), torch.randn(2, 1, 4, 8), 2)


@pytest.mark.parametrize(
    "config", [BcResNetAscConfig(width=8), BcResNetAscConfig(width=8, norm="residual"), CpMobileConfig(width=8)]
)
def test_weights_from_before_heads_had_a_name_still_load(config: ModelConfig) -> None:
    model, again = build(config, LABELS), build(config, LABELS)
    last = len(model.features)
    old = {name.replace("classifier.dense", f"features.{last}"): value for name, value in model.state_dict().items()}
    assert old.keys() != model.state_dict().keys()
    again.load_state_dict(old)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_front_end_gives_the_input_that_a_network_reads() -> None:
    fe = FrontEnd(pre_emphasis=0.5)
    assert isinstance(front(SerfrCnnConfig(), fe), LogMel)
    assert front(SerfrCnnConfig(), fe, exact=False).window.dtype == torch.float32
    raw = front(RawCnnConfig(), fe)
    assert isinstance(raw, RawWaveform)
    ramp = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    assert raw(ramp).tolist() == [[[1.0, 1.5, 3.0, 6.0]]]
    assert raw(torch.stack([ramp, 2 * ramp], dim=1), samples=2).tolist() == [[[1.0, 1.5], [2.0, 3.0]]]
    assert RawWaveform(FrontEnd())(ramp).tolist() == [ramp.tolist()]
    with pytest.raises(InputError, match=r"set augment\.time_stretch to 1"):
        raw(ramp, torch.tensor([512]))
