"""Entropy tables and fingerprints, whichever way the weights get changed."""

import copy
import io

import pytest
import torch

from vcm.errors import WeightsError
from vcm.nn.slimmable import (
    FeatureMap,
    LatentScalable,
    SlimmableFactorized,
    SlimmableHyperprior,
    load_network,
    save_network,
)

KINDS = (SlimmableFactorized, SlimmableHyperprior, LatentScalable)


def make(kind, seed=0, stride=8):
    torch.manual_seed(seed)
    return kind(
        {"detection": 3, "reconstruction": 5}, features={"detection": FeatureMap(2, stride)}, channels=3
    ).eval()


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def network(request):
    return make(request.param)


def step(network, **settings):
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, **settings)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def edit_data(network):
    for parameter in network.parameters():
        parameter.data.mul_(1.01)


def swap_data(network):
    for parameter in network.parameters():
        parameter.data = parameter.data * 1.01


def load_parameters_alone(network):
    other = make(type(network), seed=9)
    network.load_state_dict(dict(other.named_parameters()), strict=False)


def assign_parameters_alone(network):
    other = make(type(network), seed=9)
    network.load_state_dict(dict(other.named_parameters()), strict=False, assign=True)


def load_averaged_weights(network):
    """Two models' mean, with the first one's whole numbers."""
    other = make(type(network), seed=9).state_dict()
    mean = {
        name: (tensor + other[name]) / 2 if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    network.load_state_dict(mean)


def train_in_inference_mode(network):
    with torch.inference_mode():
        for parameter in network.parameters():
            parameter.mul_(1.01)


@pytest.mark.parametrize(
    "change",
    [
        step,
        lambda network: step(network, foreach=True),
        lambda network: step(network, fused=True),
        edit_data,
        swap_data,
        load_parameters_alone,
        assign_parameters_alone,
        load_averaged_weights,
        train_in_inference_mode,
    ],
)
def test_every_change_of_weights_is_noticed(network, change):
    before = network.fingerprint("detection")
    change(network)
    assert network.fingerprint("detection") != before
    fresh = copy.deepcopy(network)
    fresh.update(force=True)
    for task in network.tasks:
        assert fresh.fingerprint(task) == network.fingerprint(task)
        for ours, theirs in zip(network.table_state(task), fresh.table_state(task), strict=True):
            assert torch.equal(ours, theirs)


def pickled(network):
    buffer = io.BytesIO()
    torch.save(network, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def loaded(network):
    other = make(type(network), seed=9)
    other.load_state_dict(network.state_dict())
    return other


def assigned(network):
    other = make(type(network), seed=9)
    other.load_state_dict(network.state_dict(), assign=True)
    return other


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        pickled,
        loaded,
        assigned,
        lambda network: copy.deepcopy(network).half().float(),
        lambda network: copy.deepcopy(network).double(),
        lambda network: pickled(network.bfloat16()),
    ],
)
def test_copies_and_casts_keep_the_tables(network, copied, monkeypatch):
    before = {task: network.fingerprint(task) for task in network.tasks}
    monkeypatch.setattr(type(network), "update_tables", lambda self: pytest.fail("worked out again"))
    other = copied(network)
    assert {task: other.fingerprint(task) for task in other.tasks} == before


def test_a_cast_before_the_first_use_hides_nothing(network):
    network.update()
    edit_data(network)
    cast = network.bfloat16()
    assert cast.update()


@pytest.mark.parametrize("kind", [SlimmableFactorized, LatentScalable])
def test_medians_are_part_of_the_fingerprint(kind):
    """Symbols are decoded to symbol + median; tables need not show a small difference."""
    network = make(kind)
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.entropy_bottlenecks[0].quantiles[:, 0, 1] += 1e-7
    assert any(
        not torch.equal(a, b)
        for a, b in zip(network.decoding_state("detection"), other.decoding_state("detection"), strict=True)
    )
    assert other.fingerprint("detection") != network.fingerprint("detection")


def test_strides_are_part_of_the_fingerprint():
    """Decoders to stride 16 and to stride 32 have weights of the same shapes."""
    one, other = make(SlimmableFactorized, stride=16), make(SlimmableFactorized, stride=32)
    other.load_state_dict(one.state_dict())
    assert one.fingerprint("detection") != other.fingerprint("detection")
    assert one.fingerprint("reconstruction") == other.fingerprint("reconstruction")


def test_a_flipped_bit_in_a_model_file_is_told(network, tmp_path):
    path = tmp_path / "model.safetensors"
    save_network(network, path)
    data = bytearray(path.read_bytes())
    for place in range(len(data) - 1, len(data) // 2, -(len(data) // 20)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match="is damaged"):
            load_network(path)
