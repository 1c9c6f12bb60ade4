"""EfficientAT's MobileNet: its published sizes, its weights against a forward pass of its own, narrowing, freezing."""

import pickle
from pathlib import Path

import msgspec
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from models.test_models import counts  # noqa: E402
from torch import Tensor  # noqa: E402

from edgekd.errors import InputError  # noqa: E402
from edgekd.models import front, initial, input_kind  # noqa: E402
from edgekd.models.mn import PUBLISHED, Mn, MnConfig  # noqa: E402

WIDTH = 0.1
EPS = 1e-3


def published(width: float = WIDTH) -> dict[str, Tensor]:
    """A state dict with the names of the published ones, for a network of this width with random weights."""
    torch.manual_seed(1)
    model = Mn(MnConfig(width=width), 1)
    tensors: dict[str, Tensor] = {}

    def convolution(name: str, block: torch.nn.Module) -> None:
        tensors[f"{name}.0.weight"] = torch.randn_like(block.conv.weight) / block.conv.weight[0].numel() ** 0.5
        for key, like in block.norm.state_dict().items():
            tensors[f"{name}.1.{key}"] = torch.rand_like(like) + 0.5 if key != "num_batches_tracked" else like

    for number, part in enumerate(model.features):
        body = getattr(part, "body", part)
        if not isinstance(body, torch.nn.Sequential):
            convolution(f"features.{number}", body)
            continue
        for place, (kind, block) in enumerate(body.named_children()):
            prefix = f"features.{number}.block.{place}"
            if kind != "excite":
                convolution(prefix, block)
                continue
            for name, dense in (("fc1", block.squeeze), ("fc2", block.excite)):
                tensors[f"{prefix}.conc_se_layers.0.{name}.weight"] = torch.randn_like(dense.conv.weight)[:, :, 0, 0]
                tensors[f"{prefix}.conc_se_layers.0.{name}.bias"] = torch.randn_like(dense.conv.bias)
    return tensors


def embedding(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """The pooled output of the published network, from its state dict alone; all else as in the paper."""

    def convolution(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = tensors[f"{name}.0.weight"]
        groups = len(weight) if weight.shape[1] == 1 and x.shape[1] == len(weight) else 1
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=groups)
        norm = [tensors[f"{name}.1.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *norm, eps=EPS)

    x = F.hardswish(convolution("features.0", x, 2))
    for number in range(1, 16):
        places = sorted({name.split(".")[3] for name in tensors if name.startswith(f"features.{number}.block.")})
        activate, shortcut = F.relu if number < 7 else F.hardswish, x
        for place in places:
            name = f"features.{number}.block.{place}"
            dense = f"{name}.conc_se_layers.0"
            if f"{dense}.fc1.weight" in tensors:
                hidden = F.linear(x.mean((2, 3)), tensors[f"{dense}.fc1.weight"], tensors[f"{dense}.fc1.bias"])
                gate = F.linear(F.relu(hidden), tensors[f"{dense}.fc2.weight"], tensors[f"{dense}.fc2.bias"])
                x = x * torch.sigmoid(gate)[:, :, None, None]
                continue
            is_depthwise = tensors[f"{name}.0.weight"].shape[-1] > 1
            x = convolution(name, x, 2 if is_depthwise and number in (2, 4, 7, 13) else 1)
            x = x if place == places[-1] else activate(x)
        x = x + shortcut if number in (1, 3, 5, 6, 8, 9, 10, 12, 14, 15) else x
    return F.hardswish(convolution("features.16", x)).mean((2, 3))


def saved(tensors: dict[str, Tensor], folder: Path) -> str:
    torch.save(tensors, folder / "mn.pt")
    return str(folder / "mn.pt")


def test_sizes_are_the_published_ones() -> None:
    def features(blocks: int, last: int | None) -> tuple[int, float]:
        parameters, mmac = counts(MnConfig(blocks=blocks, last=last), 1, (128, 100))
        pooled = {0: 48, None: 384}[last]
        return parameters - pooled - 1, mmac

    assert features(15, None) == (516_128, pytest.approx(12.3, abs=0.1))
    assert features(11, 0) == (74_288, pytest.approx(7.1, abs=0.1))


def test_published_weights_compute_the_published_network(tmp_path: Path) -> None:
    tensors = published()
    model = initial(MnConfig(width=WIDTH, weights=saved(tensors, tmp_path)), 3).eval()
    x = torch.randn(2, 1, 128, 50)
    taken: list[Tensor] = []
    model.classifier.pool.register_forward_hook(lambda _, __, output: taken.append(output.flatten(1)))
    with torch.no_grad():
        model(x)
        torch.testing.assert_close(taken[0], embedding(tensors, x), rtol=1e-4, atol=1e-5)


def test_narrower_layers_take_the_strongest_channels(tmp_path: Path) -> None:
    tensors = published()
    inside = tensors["features.7.block.0.0.weight"].shape[0]
    weak = torch.arange(0, inside, 3)
    tensors["features.7.block.2.0.weight"][:, weak] = 0.0
    weights = saved(tensors, tmp_path)
    x = torch.randn(2, 1, 64, 40)
    outputs = []
    for expanded in ((), (8,) * 2 + (8, 8, 16, 16, inside - len(weak))):
        model = initial(MnConfig(width=WIDTH, blocks=7, last=0, expanded=expanded, weights=weights), 3).eval()
        with torch.no_grad():
            outputs.append(model.features(x))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)


def test_frozen_parts_stay_as_they_are(tmp_path: Path) -> None:
    config = MnConfig(width=WIDTH, blocks=5, last=16, weights=saved(published(), tmp_path), frozen=3)
    model = initial(config, 3).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 0.1)
    model(torch.randn(4, 1, 64, 40)).square().sum().backward()
    optimizer.step()
    changed = {name.split(".")[1] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"0", "1", "2"} & changed == set()
    assert {"3", "4", "5", "6"} <= changed


@pytest.mark.parametrize("rate", [16000, 32000])
def test_the_published_front_end_is_inside_and_takes_waveforms(rate: int) -> None:
    config = MnConfig(width=WIDTH, blocks=2, last=0, front="published", rate=rate)
    assert input_kind(config) == "waveform"
    assert input_kind(MnConfig()) == "log_mel"
    time = torch.arange(rate) / rate
    tone = 0.1 * torch.sin(2 * torch.pi * 1000 * time)[None, None]
    features = Mn(config, 3).log_mel(tone)
    assert features.shape == (1, 1, 128, 100)
    middle = features[0, 0, :, 20:80].mean(dim=1)
    assert int(middle.argmax()) == pytest.approx(129 * 1127 * torch.log1p(torch.tensor(1000 / 700)) / 3509.6 - 1, abs=1)
    front(config, msgspec.structs.replace(PUBLISHED, sample_rate=32000))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frozen": 2}, "frozen = 2"),
        ({"frozen": 9, "blocks": 3, "weights": "x"}, "frozen = 9"),
        ({"outputs": (8,) * 4, "blocks": 3}, "outputs has 4"),
        ({"rate": 22050}, "22050"),
        ({"rate": 0}, "rate = 0"),
        ({"rate": -16000}, "-16000"),
    ],
)
def test_configs_that_contradict_each_other_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MnConfig(**fields)


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    good = published()
    cases = {
        "another width": (good, MnConfig(width=0.4, weights="w")),
        "other tensors": ({"a": torch.zeros(1)}, MnConfig(width=WIDTH, weights="w")),
    }
    for tensors, config in cases.values():
        with pytest.raises(InputError, match=r"mn: .*mn\.pt"):
            initial(msgspec.structs.replace(config, weights=saved(tensors, tmp_path)), 3)
    path = Path(saved(good, tmp_path))
    for content in (path.read_bytes()[:5000], pickle.dumps(print, protocol=2), b"", b"\x80\x020.", b"\x80\x02J\0"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="damaged"):
            initial(MnConfig(width=WIDTH, weights=str(path)), 3)
    with pytest.raises(InputError, match=r"absent\.pt"):
        initial(MnConfig(width=WIDTH, weights=str(tmp_path / "absent.pt")), 3)
