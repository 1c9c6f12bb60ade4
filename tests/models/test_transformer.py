"""The spectrogram transformer: from sizes, from a folder, on other grids than it was trained on."""

import pytest
import torch

from edgekd.errors import InputError, MissingExtraError
from edgekd.models import Taps, build
from edgekd.models.transformer import AstConfig

TINY = {"hidden": 16, "layers": 2, "heads": 2, "patch": 4, "strides": (4, 2), "mels": 16, "frames": 20}


@pytest.fixture
def tiny():
    pytest.importorskip("transformers", reason="needs transformers, the extra 'hub'")
    torch.manual_seed(0)
    return build(AstConfig(**TINY), 5).eval()


@pytest.fixture
def folder(tiny, tmp_path):
    torch.nn.init.normal_(tiny.transformer.embeddings.position_embeddings)
    tiny.transformer.save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


def test_logits_and_embedding(tiny):
    x = torch.randn(3, 1, 16, 20)
    logits, taps = Taps(tiny, ("embedding",))(x)
    assert (logits.shape, taps["embedding"].shape) == ((3, 5), (3, 16))
    assert (tiny.get_submodule(tiny.HEAD)(taps["embedding"]) == logits).all()


def test_saved_weights_come_back_with_their_sizes(tiny, folder, capfd):
    other = build(AstConfig(weights=folder), 7).eval()
    assert other.grid == (4, 9)
    x = torch.randn(2, 1, 16, 20)
    assert torch.equal(
        other.transformer(x[:, 0].transpose(1, 2)).pooler_output,
        tiny.transformer(x[:, 0].transpose(1, 2)).pooler_output,
    )
    assert other(x).shape == (2, 7)
    assert "oading" not in capfd.readouterr().err


def test_positions_of_another_grid_are_interpolated(folder):
    """Embeddings that rise linearly from mel to mel and frame to frame do so on a finer grid too, and they are learned
    there."""
    model = build(AstConfig(weights=folder), 5).train()
    positions = model.transformer.embeddings.position_embeddings
    rise = torch.arange(4.0)[:, None] + 10 * torch.arange(9.0)  # (mel, frame)
    with torch.no_grad():
        positions[0, 2:] = rise.flatten()[:, None]
    finer = model.interpolated_positions((8, 18))
    assert (finer[0, :2] == positions[0, :2]).all()
    inside = finer[0, 2:, 0].unflatten(0, (8, 18))[1:-1, 1:-1].diff(dim=1)
    torch.testing.assert_close(inside, torch.full_like(inside, 5.0))
    assert model.interpolated_positions((4, 9)).allclose(positions)
    x = torch.randn(2, 1, 24, 41)
    model(x).sum().backward()
    assert positions.grad.abs().sum() > 0
    with torch.no_grad():
        before = model.eval()(x)
        positions[0, 2:] += torch.randn(36, 16)
        assert not torch.allclose(model(x), before)


@pytest.mark.usefixtures("tiny")
def test_weights_that_are_missing_or_of_another_kind(tmp_path, folder):
    with pytest.raises(InputError, match=r"no folder .*/none; .*save_pretrained"):
        build(AstConfig(weights=str(tmp_path / "none")), 5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty cannot be loaded"):
        build(AstConfig(weights=str(tmp_path / "empty")), 5)
    config = tmp_path / "tiny/config.json"
    config.write_text(config.read_text().replace("audio-spectrogram-transformer", "vit"))
    with pytest.raises(InputError, match="tiny"):
        build(AstConfig(weights=folder), 5)


def test_a_name_that_the_hub_does_not_have(monkeypatch):
    transformers = pytest.importorskip("transformers", reason="needs transformers, the extra 'hub'")

    def unreachable(*_, **__):
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(transformers.ASTConfig, "get_config_dict", unreachable)
    with pytest.raises(InputError, match=r"some/name .*We couldn't connect"):
        build(AstConfig(weights="some/name"), 5)


def test_without_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"edgekd\[hub\]"):
        build(AstConfig(), 5)


@pytest.mark.parametrize(
    ("changes", "message"), [({"heads": 3}, "3 heads do not divide"), ({"patch": 17}, "patch of 17 is larger")]
)
def test_sizes_that_do_not_fit(changes, message):
    with pytest.raises(InputError, match=message):
        AstConfig(**{**TINY, **changes})


def test_an_input_that_is_too_short(tiny):
    with pytest.raises(InputError, match=r"16 mels x 3 frames .*patch of 4"):
        tiny(torch.randn(1, 1, 16, 3))
