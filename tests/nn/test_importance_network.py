"""The network that predicts importance maps: shapes, offsets, files, bad input."""

import pytest
import torch
import torch.nn.functional as F

from vcm.codecs import qp_offsets
from vcm.errors import ArgumentError, WeightsError
from vcm.nn.importance import ImportanceNetwork, block_octaves, load_importance, save_importance
from vcm.nn.models import load_model


def network(seed=0, **options):
    torch.manual_seed(seed)
    made = ImportanceNetwork(**options)
    with torch.no_grad():
        made.head.weight.mul_(2000)
    return made.eval()


def test_the_default_has_fewer_than_100_000_parameters():
    assert 50_000 < sum(p.numel() for p in ImportanceNetwork().parameters()) < 100_000


@pytest.mark.parametrize("size", [(32, 32), (33, 64), (1, 1), (417, 95), (64, 100)])
def test_one_value_for_each_block_of_any_size(size):
    octaves = network()(torch.rand(2, 3, *size))
    assert octaves.shape == (2, -(-size[0] // 32), -(-size[1] // 32))
    torch.testing.assert_close(octaves.mean(dim=(1, 2)), torch.zeros(2), atol=1e-4, rtol=0)


def test_offsets_follow_the_prediction():
    net, image = network(), torch.rand(3, 96, 130)
    octaves = net(image[None])[0]
    importance = net.importance(image)
    assert importance.shape == (96, 130)
    torch.testing.assert_close(block_octaves(importance), octaves, atol=1e-4, rtol=0)
    offsets = qp_offsets(importance)
    assert offsets.shape == octaves.shape
    assert offsets.flatten()[octaves.argmax()] < 0 < offsets.flatten()[octaves.argmin()]


def test_larger_images_are_seen_at_the_trained_size():
    net = network(input_size=64)
    small = torch.rand(3, 48, 64)
    large = F.interpolate(small[None], size=(96, 128), mode="bilinear", align_corners=True)[0]
    seen = F.interpolate(large[None], size=(48, 64), mode="bilinear", align_corners=True)[0]
    expected = net.importance(seen).repeat_interleave(2, 0).repeat_interleave(2, 1)
    torch.testing.assert_close(net.importance(large), expected)
    assert net.importance(small).shape == (48, 64)


def test_block_octaves_are_of_block_means():
    importance = torch.rand(70, 40) ** 4
    octaves = block_octaves(importance)
    means = torch.tensor([[importance[r : r + 32, c : c + 32].mean() for c in (0, 32)] for r in (0, 32, 64)])
    expected = means.log2()
    torch.testing.assert_close(octaves, expected - expected.mean())
    assert block_octaves(torch.zeros(40, 40)).abs().max() == 0
    one = torch.zeros(64, 64)
    one[0, 0] = 1
    assert block_octaves(one).abs().max() == 8


def test_model_files(tmp_path):
    net = network(channels=(2, 3, 4, 5, 6), input_size=320)
    save_importance(net, tmp_path / "m.safetensors", made="here")
    x = torch.rand(1, 3, 64, 64)
    for loaded in (load_importance(tmp_path / "m.safetensors"), load_model(tmp_path / "m.safetensors")):
        assert loaded.input_size == 320
        torch.testing.assert_close(loaded(x), net(x))
    other = network(channels=(2, 3, 4, 5, 6))
    assert other.architecture() != net.architecture()


def test_another_kind_of_model_is_told(tmp_path):
    from vcm.nn.preprocessor import NPP, save_preprocessor

    save_preprocessor(NPP((2, 2, 2, 2)), tmp_path / "npp.safetensors")
    with pytest.raises(WeightsError, match="does not hold an importance network"):
        load_importance(tmp_path / "npp.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (1, 2, 3, 4)}, "channels must be 5 whole numbers"),
        ({"channels": (1, 2, 3, 4, 0)}, "channels must be 5 whole numbers"),
        ({"channels": 5}, "channels must be 5 whole numbers"),
        ({"input_size": 31}, "input_size must be"),
    ],
)
def test_settings_that_cannot_be_are_told(options, message):
    with pytest.raises(ArgumentError, match=message):
        ImportanceNetwork(**options)


def test_bad_images_and_weights_are_told():
    net = network()
    for bad in (torch.zeros(3, 8, 8, dtype=torch.uint8), torch.rand(1, 8, 8), torch.rand(3, 0, 8), None):
        with pytest.raises(ArgumentError, match="image must be a float"):
            net.importance(bad)
    assert net.importance(torch.rand(3, 1, 1)).shape == (1, 1)
    with pytest.raises(ArgumentError, match="network must be in evaluation mode"):
        ImportanceNetwork().importance(torch.rand(3, 40, 40))
    with torch.no_grad():
        net.head.bias.fill_(float("nan"))
    with pytest.raises(WeightsError, match="damaged"):
        net.importance(torch.rand(3, 40, 40))
