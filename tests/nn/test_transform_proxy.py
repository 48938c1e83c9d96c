"""The proxy of BPG without training, and its rate estimate, which searches use, too."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.fft import dctn

from vcm.codecs import BPGCodec
from vcm.errors import ArgumentError
from vcm.nn.proxy import TransformProxy, load_proxy, save_proxy
from vcm.nn.proxy.transform import quantization_steps, transform_bits


@pytest.mark.parametrize(("rows", "columns"), [(2, 4), (3, 5), (1, 1)])
def test_equals_the_formula_by_scipys_dct(rows, columns):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 8 * rows, 8 * columns, generator=generator)
    steps = 4 + 40 * torch.rand(rows, columns, generator=generator)
    red, green, blue = (255 * image).double().numpy()
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = (0.564 * (blue - luma), 0.713 * (red - luma))
    halved = [plane.reshape(4 * rows, 2, 4 * columns, 2).mean(axis=(1, 3)) for plane in chroma]
    planes = [luma, *(np.pad(plane, [(0, -side % 8) for side in plane.shape], "edge") for plane in halved)]
    expected = 0.0
    for plane in planes:
        for top in range(0, plane.shape[0], 8):
            for left in range(0, plane.shape[1], 8):
                # A chroma block covers 2 x 2 blocks of luma; the first one's step stands for them.
                scale = 1 if plane is luma else 2
                step = float(steps[scale * top // 8, scale * left // 8])
                bits = 0.5 * np.log2(
                    1 + (dctn(plane[top : top + 8, left : left + 8], norm="ortho") / step) ** 2
                )
                bits[0, 0] *= 0.3
                expected += bits.sum()
    assert float(transform_bits(image, steps)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (9, 8), (17, 31)])
def test_any_size_with_a_gradient(size):
    image = torch.rand(3, *size, requires_grad=True)
    steps = torch.full((math.ceil(size[0] / 8), math.ceil(size[1] / 8)), 10.0)
    bits = transform_bits(image, steps)
    bits.backward()
    assert bits > 0
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0


def test_a_flat_image_has_bits_for_means_alone_and_larger_steps_take_fewer():
    flat = torch.full((3, 64, 64), 0.5)
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    steps = torch.full((8, 8), 20.0)
    assert transform_bits(flat, steps) < 0.05 * transform_bits(noise, steps)
    assert transform_bits(noise, 2 * steps) < 0.9 * transform_bits(noise, steps)


def test_ranks_images_as_bpg_does():
    generator = torch.Generator().manual_seed(2)
    images = []
    for cells in (2, 4, 8, 16, 32):
        coarse = torch.rand(1, 3, cells, cells, generator=generator)
        images.append(F.interpolate(coarse, size=(128, 128), mode="bicubic")[0].clamp(0, 1))
    sizes = [len(BPGCodec(37).encode((255 * image).to(torch.uint8))) for image in images]
    step = 2 ** ((37 - 2 - 4) / 6)
    estimates = [float(transform_bits(image, torch.full((16, 16), step))) for image in images]
    assert sorted(range(5), key=sizes.__getitem__) == sorted(range(5), key=estimates.__getitem__)


@pytest.mark.parametrize(
    ("image", "steps"), [((1, 8, 8), (1, 1)), ((3, 8, 9), (1, 1)), ((3, 8, 8), (1, 2)), ((3, 0, 8), (0, 1))]
)
def test_other_shapes_are_refused(image, steps):
    with pytest.raises(ArgumentError):
        transform_bits(torch.rand(image), torch.ones(steps))


def images(count=3, height=48, width=72, seed=4):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 9, generator=generator)
    return F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)


def test_the_proxy_returns_the_image_and_a_rate_for_each_qp_and_offset():
    x, proxy = images(), TransformProxy((22, 51))
    offsets = [None, torch.tensor([[-4, 0, 4], [2, 2, -9]]), None]
    output = proxy(x, torch.tensor([30.0, 40.0, 40.0]), offsets=offsets)
    assert output.x_hat is x
    for image, qp, those, bpp in zip(x, (30, 40, 40), offsets, output.bpp, strict=True):
        steps = quantization_steps(BPGCodec(qp).slice_qp, those, 32, (48, 72), x.device)
        assert float(bpp) == pytest.approx(float(transform_bits(image, steps)) / (48 * 72))
    plain = proxy(x, 40.0)
    assert plain.bpp[1] != output.bpp[1]
    assert plain.bpp[2] == output.bpp[2]
    assert plain.bpp[0] < output.bpp[0]


def test_the_proxys_rate_is_about_proportional_to_bpgs():
    x, proxy = images(6, 96, 96, seed=5), TransformProxy()
    for qp in (32, 44):
        actual = [8 * len(BPGCodec(qp).encode((255 * image).to(torch.uint8))) / 96**2 for image in x]
        estimated = proxy((255 * x).to(torch.uint8).float() / 255, float(qp)).bpp.tolist()
        ratios = [a / e for a, e in zip(actual, estimated, strict=True)]
        assert max(ratios) < 2 * min(ratios)


def test_the_proxy_is_saved_and_loaded_and_refuses_other_qps(tmp_path):
    proxy = TransformProxy((20, 45))
    assert proxy.relative_rate
    assert proxy.takes_offsets
    save_proxy(proxy, tmp_path / "proxy.safetensors")
    loaded = load_proxy(tmp_path / "proxy.safetensors", "bpg")
    assert isinstance(loaded, TransformProxy)
    assert loaded.qualities == (20, 45)
    with pytest.raises(ArgumentError, match="quality must be from 20 to 45"):
        loaded(images(), 46.0)
    for qualities in ((-1, 40), (20, 52), (40, 20), (3,)):
        with pytest.raises(ArgumentError, match="qualities must be"):
            TransformProxy(qualities)


def test_the_qps_are_those_of_bpgs_slices():
    for convention in ("rate", "x265", "jctvc"):
        proxy = TransformProxy(qp_convention=convention)
        for quality in (0, 1, 30, 51):
            slice_qp = BPGCodec(quality, qp_convention=convention).slice_qp
            steps = quantization_steps(slice_qp, None, 32, (48, 72), torch.device("cpu"))
            expected = float(transform_bits(images()[0], steps)) / (48 * 72)
            assert float(proxy(images()[:1], float(quality)).bpp) == pytest.approx(expected)
    with pytest.raises(ArgumentError, match="qp_convention must be"):
        TransformProxy(qp_convention="other")


@pytest.mark.parametrize(
    ("offsets", "block", "message"),
    [
        ([None], 32, "offsets must be one map or None for each of 2"),
        ([None, torch.zeros(2, 2)], 32, "offsets must be of shape"),
        ([None, torch.zeros(4, 6)], 12, "block must be a multiple of 8"),
    ],
)
def test_offsets_that_do_not_fit_are_told(offsets, block, message):
    with pytest.raises(ArgumentError, match=message):
        TransformProxy()(images(2), 40.0, offsets=offsets, block=block)
