"""Training in bfloat16 on a CPU: gradients are those of float32, as near as bfloat16 comes, at any size."""

import pytest
import torch

from vcm.nn.slimmable import LatentScalable, SlimmableFactorized, SlimmableHyperprior


def gradients(network, x, *, half):
    network.zero_grad()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = network(x, "reconstruction")
    bits = sum(-likelihoods.log2().sum() for likelihoods in out.likelihoods.values())
    (bits / x[0, 0].numel() + 650 * (out.x_hat.float() - x).square().mean()).backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", [SlimmableFactorized, SlimmableHyperprior, LatentScalable])
@pytest.mark.parametrize("side", [32, 64])
def test_gradients_of_small_crops_are_sound(kind, side):
    torch.manual_seed(1)
    network = kind({"reconstruction": 4}).train().to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, side, side)
    exact = gradients(network, x, half=False)
    for _ in range(8):
        junk = [
            torch.full((4, 4, 5, 5), float("nan"), dtype=kind) for kind in 8 * (torch.float, torch.bfloat16)
        ]
        del junk  # what was never written is now likely to be this
        for name, found in gradients(network, x, half=True).items():
            assert found.isfinite().all(), name
            assert (found - exact[name]).norm() <= 0.5 * exact[name].norm() + 0.05, name
