"""Residual blocks at the end of a hyperprior's encoder."""

import pytest
import torch

from vcm.codecs import SlimmableFeatureCodec
from vcm.errors import ArgumentError
from vcm.nn.slimmable import FeatureMap, SlimmableHyperprior, build_network, load_network, save_network


def make(blocks=None, qualities=3):
    torch.manual_seed(0)
    return SlimmableHyperprior(
        {"detection": 4, "reconstruction": 6},
        features={"detection": FeatureMap(2, 8)},
        latents={"detection": 6, "reconstruction": 8},
        qualities=qualities,
        means=True,
        blocks=blocks,
    ).eval()


def trained(blocks=None, **settings):
    """With blocks that do something."""
    network = make(blocks, **settings)
    torch.manual_seed(1)
    for task in network.blocks:
        for parameter in network.refinements[task].parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def test_they_start_as_the_identity():
    x = torch.rand(1, 3, 64, 48)
    plain, more = make(), make({"detection": 2})
    state = {**more.state_dict(), **plain.state_dict()}
    more.load_state_dict(state)
    for task in plain.tasks:
        assert torch.equal(plain(x, task, 2).x_hat, more(x, task, 2).x_hat)


@pytest.mark.parametrize("quality", [1, 2.5, 3])
def test_the_deployed_encoder_gives_what_training_sees(quality):
    network, x = trained({"detection": 2}), torch.rand(1, 3, 64, 48)
    y, z = network.at_width("detection", quality)(x)
    expected = network.refinements["detection"](network.g_a(x, 0))
    gained = network.gained(expected, "detection", quality)
    torch.testing.assert_close(y, gained)
    torch.testing.assert_close(z, network.h_a(gained, 0))
    assert (expected - network.g_a(x, 0)).abs().max() > 0.01


@pytest.mark.parametrize("qualities", [1, 3])
def test_streams_and_files_hold_them(tmp_path, qualities):
    network = trained({"detection": 1}, qualities=qualities)
    save_network(network, tmp_path / "model.safetensors")
    again = load_network(tmp_path / "model.safetensors")
    assert again.architecture() == network.architecture()
    x = torch.rand(1, 3, 64, 48)
    data = SlimmableFeatureCodec(model=network).encode(x, (60, 40))
    assert SlimmableFeatureCodec(model=again).encode(x, (60, 40)) == data
    features, size = SlimmableFeatureCodec(model=again).decode(data)
    assert size == (60, 40)
    assert features.shape == (1, 2, 8, 6)


def test_decoders_do_not_depend_on_them():
    """A stream of the network with blocks is decoded by the one without: only the encoder differs."""
    with_blocks, without = trained({"detection": 2}), make()
    without.load_state_dict(
        {name: value for name, value in with_blocks.state_dict().items() if name in without.state_dict()}
    )
    assert with_blocks.fingerprint("detection") == without.fingerprint("detection")
    x = torch.rand(1, 3, 64, 48)
    coded = SlimmableFeatureCodec(model=with_blocks).encode(x, (64, 48))
    assert coded != SlimmableFeatureCodec(model=without).encode(x, (64, 48))
    ours, theirs = (
        SlimmableFeatureCodec(model=network).decode(coded)[0] for network in (with_blocks, without)
    )
    assert torch.equal(ours, theirs)


def test_architectures_without_blocks_say_nothing_of_them():
    assert "blocks" not in make().architecture()
    assert "blocks" not in make({"detection": 0}).architecture()
    described = make({"detection": 2}).architecture()
    assert described["blocks"] == {"detection": 2}
    assert build_network(described).blocks == {"detection": 2}


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        ({"viewing": 1}, "blocks must be a mapping from any of detection, reconstruction"),
        ([2], "blocks must be a mapping"),
        ({"detection": -1}, r"blocks.detection must be a whole number from 0 to 16"),
        ({"detection": 1.5}, r"blocks.detection must be a whole number"),
        ({"detection": 17}, r"blocks.detection must be"),
    ],
)
def test_bad_counts(blocks, said):
    with pytest.raises(ArgumentError, match=said):
        make(blocks)


def test_training_starts_from_a_model_with_as_many_blocks_or_fewer(tmp_path):
    from vcm.errors import WeightsError
    from vcm.modules import SlimmableModule

    save_network(trained({"detection": 2}), tmp_path / "two.safetensors")
    save_network(make(), tmp_path / "none.safetensors")

    class Bare(SlimmableModule):
        def __init__(self, network):
            torch.nn.Module.__init__(self)
            self.network = network

    x = torch.rand(1, 3, 64, 48)
    for file, count in (("two", 3), ("two", 2), ("none", 2)):
        module = Bare(make({"detection": count}))
        module.start_from(tmp_path / f"{file}.safetensors")
        expected = load_network(tmp_path / f"{file}.safetensors")(x, "detection", 2).x_hat
        torch.testing.assert_close(module.network(x, "detection", 2).x_hat, expected)
    for blocks in (None, {"detection": 1}, {"reconstruction": 2}):
        with pytest.raises(WeightsError, match=r"another architecture: blocks is \{'detection': 2\}, not"):
            Bare(make(blocks)).start_from(tmp_path / "two.safetensors")
    with pytest.raises(WeightsError, match="another architecture: qualities is 3, not 1"):
        Bare(make(qualities=1)).start_from(tmp_path / "none.safetensors")
