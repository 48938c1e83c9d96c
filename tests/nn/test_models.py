"""load_model reads a model file of any of vcm's networks as that network's own loader does."""

import pytest
import torch

from vcm.errors import ArgumentError, WeightsError
from vcm.nn.models import load_model
from vcm.nn.preprocessor import NPP, QuantizationAdaptiveNPP, save_preprocessor
from vcm.nn.proxy import LearnedProxy, save_proxy
from vcm.nn.slimmable import SlimmableHyperprior, save_network


@pytest.mark.parametrize(
    ("make", "save"),
    [
        (lambda: SlimmableHyperprior({"reconstruction": 4}), save_network),
        (NPP, save_preprocessor),
        (QuantizationAdaptiveNPP, save_preprocessor),
        (lambda: LearnedProxy("bpg", (22, 44), channels=4), save_proxy),
    ],
)
def test_every_family_comes_back(make, save, tmp_path):
    torch.manual_seed(0)
    network = make()
    save(network, tmp_path / "model.safetensors", made_by="a test")
    found = load_model(tmp_path / "model.safetensors")
    assert type(found) is type(network)
    assert not found.training
    state = found.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    if isinstance(network, SlimmableHyperprior):
        assert found.notes["made_by"] == "a test"


def test_something_else_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"not a model")
    with pytest.raises(WeightsError):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("path", [None, 3, b"model.safetensors"])
def test_something_else_than_a_path(path):
    with pytest.raises(ArgumentError, match="path must be a string or a path object; got"):
        load_model(path)
