"""The exact hyper-decoder, against whole-number arithmetic in Python and against the float network."""

import numpy as np
import pytest
import torch
from torch import nn

from vcm.errors import ArgumentError
from vcm.nn.integer import ACTIVATION_LIMIT, IntegerConvTranspose2d, IntegerHyperSynthesis
from vcm.nn.slimmable.hyperprior import SCALE_TABLE


def python_integers(layer, x):
    """The layer on Python's unbounded integers: an array of objects in, one out."""
    weight, bias, shift = (b.numpy().astype(object) for b in (layer.weight, layer.bias, layer.shift))
    k, s = layer.kernel_size, layer.stride
    _, height, width = x.shape
    out = np.full((weight.shape[1], height * s, width * s), 0, dtype=object)
    for i, j in np.ndindex(height, width):
        for u, v in np.ndindex(k, k):
            row, column = i * s + u - k // 2, j * s + v - k // 2
            if 0 <= row < height * s and 0 <= column < width * s:
                out[:, row, column] += x[:, i, j] @ weight[:, :, u, v]
    for channel in range(len(out)):
        total = 2 * (out[channel] + bias[channel]) + (1 << int(shift[channel]))
        out[channel] = total // (1 << (int(shift[channel]) + 1))
    return np.clip(out, -int(ACTIVATION_LIMIT), int(ACTIVATION_LIMIT))


@pytest.mark.parametrize(("kernel", "stride"), [(5, 2), (3, 1)])
@pytest.mark.parametrize("scale", [1e-6, 0.1, 300.0])
def test_layer_equals_pythons_integers(kernel, stride, scale):
    torch.manual_seed(0)
    layer = IntegerConvTranspose2d(6, 4, kernel, stride)
    layer.copy_from(scale * torch.randn(6, 4, kernel, kernel), torch.randn(4))
    x = torch.randint(-(1 << 23), 1 << 23, (1, 6, 3, 5))
    got = layer(x.double())[0].numpy()
    expected = python_integers(layer, x[0].numpy().astype(object))
    assert (got == expected.astype(float)).all()
    assert np.abs(got).max() > 0


def test_layer_approximates_the_float_layer():
    torch.manual_seed(0)
    plain = nn.ConvTranspose2d(6, 4, 5, 2, 2, output_padding=1)
    layer = IntegerConvTranspose2d(6, 4, 5, 2)
    layer.copy_from(plain.weight, plain.bias)
    x = torch.randint(-50, 50, (1, 6, 3, 5)).double()
    got = layer(x * 4096) / 4096
    torch.testing.assert_close(got, plain.double()(x), atol=0.01, rtol=1e-3)


def test_the_largest_sums_stay_exact():
    """Every weight and activation at its limit, at the largest width that is allowed."""
    with pytest.raises(ArgumentError, match="in_channels must be at most"):
        IntegerConvTranspose2d(4000, 1, 5, 2)
    layer = IntegerConvTranspose2d(3000, 1, 5, 2)
    layer.weight.fill_((1 << 15) - 1)
    x = torch.full((1, 3000, 3, 3), ACTIVATION_LIMIT, dtype=torch.float64)
    x[0, 0, 0, 0] = 1
    layer.shift.fill_(40)  # beyond what copy_from gives, so that nothing is clipped
    got = layer(x)[0].numpy()
    assert (got == python_integers(layer, x[0].numpy().astype(int).astype(object)).astype(float)).all()


def make_pair(width, seed):
    """A float h_s with scales over the whole table, and the exact one."""
    torch.manual_seed(seed)
    deconvs = [
        nn.ConvTranspose2d(width, width, k, s, k // 2, output_padding=s - 1)
        for k, s in ((5, 2), (5, 2), (3, 1))
    ]
    with torch.no_grad():
        for deconv in deconvs:
            deconv.weight *= 3
            deconv.bias.uniform_(0, 2)
    medians = 0.3 * torch.randn(width)
    exact = IntegerHyperSynthesis(width, width, len(SCALE_TABLE))
    assert exact(torch.zeros(width, 1, 1))[1] is None
    exact.copy_from([(d.weight, d.bias) for d in deconvs], medians, torch.tensor(SCALE_TABLE))

    def plain(symbols):
        x = symbols[None].double() + medians[:, None, None]
        for number, deconv in enumerate(deconvs):
            x = deconv.double()(x if number == 0 else nn.functional.leaky_relu(x))
        return x[0].detach()

    return exact, plain


def test_indexes_equal_the_float_networks_but_for_rounding():
    exact, plain = make_pair(16, 0)
    symbols = torch.randint(-8, 9, (16, 6, 9))
    indexes, scales = exact(symbols)[0], plain(symbols)
    expected = torch.bucketize(scales, torch.tensor(SCALE_TABLE[:-1], dtype=torch.float64))
    assert indexes.unique().numel() > 30
    assert (indexes == expected).double().mean() > 0.99
    assert (indexes - expected).abs().max() <= 1


def test_order_of_sums_threads_and_batches_do_not_matter():
    exact, _ = make_pair(24, 1)
    symbols = torch.randint(-300, 300, (24, 7, 5))
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(exact(symbols)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
    # The same network with its inner channels in another order sums in another order.
    order = torch.randperm(24)
    first, second, _ = exact.deconvs
    for buffer in (first.weight.data[:, order], first.bias[order], first.shift[order]):
        target = {4: first.weight, 1: first.bias if buffer.dtype == torch.int64 else first.shift}[buffer.ndim]
        target.copy_(buffer.clone())
    second.weight.copy_(second.weight[order].clone())
    assert torch.equal(exact(symbols)[0], results[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_told(value):
    layer = IntegerConvTranspose2d(1, 1, 3, 1)
    with pytest.raises(ArgumentError, match="weight must be finite"):
        layer.copy_from(torch.full((1, 1, 3, 3), value), torch.zeros(1))


def test_extreme_symbols_are_clipped_not_wrapped():
    exact, _ = make_pair(4, 2)
    far = exact(torch.full((4, 2, 2), 1 << 20))[0]
    assert torch.equal(far, exact(torch.full((4, 2, 2), 1 << 18))[0])


def test_means_take_turns_with_scales_and_are_those_of_the_float_network():
    """The same network read once as scales alone and once as scales and means."""
    alone, plain = make_pair(8, 4)
    both = IntegerHyperSynthesis(8, 4, len(SCALE_TABLE), means=True)
    both.load_state_dict(alone.state_dict())
    symbols = torch.randint(-8, 9, (8, 5, 3))
    indexes, means = both(symbols)
    assert torch.equal(indexes, alone(symbols)[0][0::2])
    expected = plain(symbols)[1::2]
    assert means.dtype == torch.float32
    assert expected.abs().max() > 5
    torch.testing.assert_close(means.double(), expected, atol=5e-3, rtol=0)
    assert torch.equal(means * 2**12, (means * 2**12).round())


@pytest.mark.gpu
def test_cuda_gives_the_same_indexes():
    exact, _ = make_pair(32, 3)
    symbols = torch.randint(-30, 30, (32, 12, 9))
    expected = exact(symbols)[0]
    assert torch.equal(exact.cuda()(symbols.cuda())[0].cpu(), expected)


@pytest.mark.parametrize("means", [False, True])
def test_tiles_change_nothing(means, monkeypatch):
    torch.manual_seed(0)
    exact = IntegerHyperSynthesis(3, 5, 8, means=means)
    for deconv in exact.deconvs:
        deconv.weight.random_(-2000, 2000)
        deconv.bias.random_(-(1 << 20), 1 << 20)
        deconv.shift.fill_(11)
    exact.thresholds.copy_(torch.arange(7) * 3000)
    symbols = torch.randint(-9, 10, (3, 21, 13)).float()
    monkeypatch.setattr("vcm.nn.integer.TILE", 64)
    whole = exact(symbols)
    assert len(whole[0].unique()) > 4
    for tile in (1, 2, 5, 16):
        monkeypatch.setattr("vcm.nn.integer.TILE", tile)
        for ours, theirs in zip(exact(symbols), whole, strict=True):
            assert (ours is None and theirs is None) or torch.equal(ours, theirs)
