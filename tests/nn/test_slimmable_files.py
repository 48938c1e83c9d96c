"""Entropy tables that follow the weights, and networks as files."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vcm.errors import WeightsError
from vcm.nn.serialization import read_notes
from vcm.nn.slimmable import (
    FeatureMap,
    LatentScalable,
    SlimmableFactorized,
    SlimmableHyperprior,
    build_network,
    load_network,
    save_network,
)

KINDS = (SlimmableFactorized, SlimmableHyperprior, LatentScalable)


def make(kind, seed=0):
    torch.manual_seed(seed)
    return kind({"detection": 6, "reconstruction": 10}, features={"detection": FeatureMap(5, 8)}).eval()


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def network(request):
    return make(request.param)


def train_a_step(network):
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    output = network(torch.rand(1, 3, 64, 64), "detection")
    (
        output.x_hat.square().mean() - output.likelihoods[network.sections("detection")[0]].log().mean()
    ).backward()
    optimizer.step()
    network.eval()


def test_tables_follow_the_weights(network):
    assert network.update()
    assert not network.update()
    before = network.fingerprint("detection")
    train_a_step(network)
    assert network.fingerprint("detection") != before
    with torch.no_grad():
        network.entropy_bottlenecks[0].biases[0].add_(1)
    state = network.state_dict()  # brings them in step by itself
    fresh = copy.deepcopy(network)
    fresh.update(force=True)
    assert all(torch.equal(state[name], tensor) for name, tensor in fresh.state_dict().items())


def test_loaded_tables_are_taken_as_they_are(network, tmp_path, monkeypatch):
    """A machine with other floating-point rounding must not work them out again."""
    path = tmp_path / "model.safetensors"
    save_network(network, path)
    monkeypatch.setattr(type(network), "update_tables", lambda self: pytest.fail("worked out again"))
    loaded = load_network(path)
    copied = copy.deepcopy(loaded)
    cast = copy.deepcopy(loaded).to(torch.bfloat16)
    for other in (loaded, copied, cast):
        for task in network.tasks:
            assert other.fingerprint(task) == network.fingerprint(task)
            for ours, theirs in zip(other.table_state(task), network.table_state(task), strict=True):
                assert torch.equal(ours, theirs)


def test_a_file_builds_the_same_network(network, tmp_path):
    path = tmp_path / "model.safetensors"
    save_network(network, path)
    loaded = load_network(path)
    assert json.loads(json.dumps(loaded.architecture())) == network.architecture()
    assert loaded.weights_sha256() == network.weights_sha256()
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(loaded(x, "detection").x_hat, network(x, "detection").x_hat)
    assert build_network(network.architecture()).tasks == network.tasks


def test_a_network_inside_a_module_loads_its_tables_too(network):
    outer, other = nn.ModuleDict({"net": network}), nn.ModuleDict({"net": make(type(network), seed=5)})
    other.load_state_dict(outer.state_dict())
    assert other["net"].fingerprint("detection") == network.fingerprint("detection")
    assert not other["net"].update()


def test_files_that_are_no_models_are_told(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read as a model"):
        load_network(tmp_path / "missing.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 10)
    with pytest.raises(WeightsError, match="cannot be read as a model"):
        load_network(tmp_path / "junk.safetensors")
    with pytest.raises(WeightsError, match="it is a folder"):
        load_network(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="not a model that vcm wrote"):
        load_network(tmp_path / "other.safetensors")
    architecture = json.dumps(make(SlimmableFactorized).architecture())
    save_file({"a": torch.zeros(1)}, tmp_path / "wrong.safetensors", {"vcm": architecture})
    with pytest.raises(WeightsError, match="does not hold a multi-task network"):
        load_network(tmp_path / "wrong.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", {"vcm": "{}"})
    with pytest.raises(WeightsError, match="does not hold a multi-task network"):
        load_network(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("kind", [SlimmableFactorized, SlimmableHyperprior, LatentScalable])
def test_a_file_of_half_the_size_holds_the_rounded_network(kind, tmp_path):
    network = make(kind)
    save_network(network, tmp_path / "whole.safetensors")
    save_network(network, tmp_path / "half.safetensors", half=True, made="here")
    half, whole = (load_file(tmp_path / f"{name}.safetensors") for name in ("half", "whole"))
    parameters = dict(network.named_parameters())
    for name, tensor in half.items():
        assert tensor.dtype == (torch.float16 if name in parameters else whole[name].dtype), name
    loaded = load_network(tmp_path / "half.safetensors")
    assert read_notes(tmp_path / "half.safetensors") == {"made": "here"}
    x = torch.rand(1, 3, 64, 64)
    for task in network.tasks:
        assert loaded.fingerprint(task) == network.fingerprint(task)
        assert loaded.decoders[task].state_dict().keys() == network.decoders[task].state_dict().keys()
        assert torch.equal(loaded(x, task).x_hat, network(x, task).x_hat)
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())


def test_files_have_the_permissions_of_others_beside_them(tmp_path):
    save_network(make(SlimmableFactorized), tmp_path / "model.safetensors")
    (tmp_path / "other").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
