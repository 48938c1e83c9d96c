"""QP offsets per block: exact QPs, libbpg's decoder, maps from importance, and maps that are refused."""

import itertools

import numpy as np
import pytest
import torch

from vcm.codecs import BPGCodec, qp_offsets
from vcm.codecs.bpg.hevc import PRESETS
from vcm.codecs.bpg.offsets import regions
from vcm.errors import ArgumentError

SIZES = [
    (1, 17), (17, 1), (33, 8), (8, 40), (16, 17), (17, 33), (40, 24), (64, 65), (65, 64), (66, 130),
    (100, 70), (129, 97), (200, 264), (1, 3000), (256, 256), (95, 300), (130, 130), (31, 90), (70, 20),
    (320, 48),
]  # fmt: skip


def random_map(height, width, block, seed, high=12):
    size = (-(-height // block), -(-width // block))
    return np.random.default_rng(seed).integers(-high, high + 1, size)


def test_libbpg_decodes_files_with_maps_bit_identically(libbpg_decode, pixels):
    preset, block = itertools.cycle(PRESETS), itertools.cycle((16, 32, 64))
    quality = itertools.cycle((37, 0, 51, 22, 30, 45, 12))
    streams, plain = [], []
    for seed, (size, chroma) in enumerate(itertools.product(SIZES, ("420", "422", "444"))):
        codec = BPGCodec(next(quality), chroma=chroma, preset=next(preset), integrity_hash=seed % 5 == 0)
        side, image = next(block), pixels(*size, seed)
        streams.append(codec.encode_array(image, random_map(*size, side, seed), block=side))
        plain.append(codec.encode_array(image))
    assert len(streams) == 60
    assert sum(a != b for a, b in zip(streams, plain, strict=True)) > 45  # the others have one block
    for index, (stream, image) in enumerate(zip(streams, libbpg_decode(streams), strict=True)):
        assert not isinstance(image, str), (index, image)
        np.testing.assert_array_equal(BPGCodec().decode_array(stream), image, err_msg=str(index))


@pytest.mark.parametrize("block", [16, 32, 64])
@pytest.mark.parametrize(("chroma", "preset"), [("420", "medium"), ("422", "ultrafast"), ("444", "slow")])
def test_each_block_is_coded_at_its_own_qp(chroma, preset, block, pixels):
    original = pixels(256, 320, 1)
    rows, columns = -(-256 // block), -(-320 // block)
    squares = np.add.outer(np.arange(rows) // 2, np.arange(columns) // 2) % 2
    offsets = np.where(squares == 0, -6, 6)

    def error(codec, own, mask):
        decoded = codec.decode_array(codec.encode_array(original, own, block=block))
        return ((decoded.astype(float) - original)[mask] ** 2).mean()

    of_pixels = np.kron(offsets, np.ones((block, block)))[:256, :320]
    for offset in (-6, 6):
        options = {"chroma": chroma, "preset": preset}
        expected = error(BPGCodec(35 + offset, **options), None, of_pixels == offset)
        one_off = error(BPGCodec(34 + offset, **options), None, of_pixels == offset)
        found = error(BPGCodec(35, **options), offsets, of_pixels == offset)
        assert abs(found - expected) < 0.8 * abs(expected - one_off)


@pytest.mark.parametrize("chroma", ["420", "422", "444"])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (50, 70)])
def test_one_value_costs_nothing(size, chroma, photo):
    image = photo(*size)
    codec = BPGCodec(30, chroma=chroma, preset="fast")
    for block in (16, 32, 64):
        zeros = np.zeros((-(-size[0] // block), -(-size[1] // block)), dtype=np.int32)
        assert codec.encode(image, zeros, block=block) == codec.encode(image) == codec.encode(image, None)
        for offset in (4, -7):
            other = BPGCodec(30 + offset, chroma=chroma, preset="fast")
            assert codec.encode(image, zeros + offset, block=block) == other.encode(image)


def test_bytes_are_deterministic_and_maps_may_be_tensors(photo):
    image, offsets = photo(96, 130), random_map(96, 130, 32, 0)
    codec = BPGCodec(37, preset="fast")
    stream = codec.encode(image, offsets)
    assert stream == codec.encode(image, torch.from_numpy(offsets)) == codec.encode(image, offsets.tolist())
    assert stream != codec.encode(image)
    assert codec.decode(stream).shape == image.shape


def test_qps_beyond_the_range_are_clipped(photo):
    image = photo(64, 96)
    codec = BPGCodec(49, preset="fast", qp_convention="jctvc")
    over, at = np.array([[9, -3, 0], [0, 0, 51]]), np.array([[2, -3, 0], [0, 0, 2]])
    assert codec.encode(image, over) == codec.encode(image, at)
    low = BPGCodec(3, preset="fast", qp_convention="jctvc")
    assert low.encode(image, -over) == low.encode(image, np.array([[-3, 3, 0], [0, 0, -3]]))


@pytest.mark.parametrize(
    ("offsets", "block", "message"),
    [
        (
            np.zeros((2, 4), int),
            32,
            r"offsets must be \(rows, columns\) \(2, 3\), one per 32x32 block of",
        ),
        (np.zeros((2, 3), int), 16, r"offsets must be \(rows, columns\) \(4, 6\)"),
        (np.zeros(6, int), 32, r"got \(6,\)"),
        (np.zeros((2, 3)), 32, "offsets must be integers; got 'float64'. Round the values"),
        (np.full((2, 3), 52), 32, r"offsets must be in \[-51, 51\]; got 52"),
        (np.array([[0, 0, 0], [0, -60, 0]]), 32, "got -60"),
        (np.full((2, 3), 2**64 - 1, np.uint64), 32, r"in \[-51, 51\]; got 18446744073709551615"),
        ([[0, 0, 0], [0, 0]], 32, "offsets must be an array or tensor of integers; got 'list'"),
        (torch.zeros(2, 3, dtype=torch.bfloat16), 32, "offsets must be an array or tensor of integers"),
        (torch.zeros(2, 3, requires_grad=True), 32, "offsets must be integers; got 'float32'"),
        (np.zeros((2, 3), int), 24, "block must be one of 16, 32, 64; got 24"),
        (np.zeros((2, 3), int), 32.0, "block must be one of 16, 32, 64; got 32.0"),
        (np.zeros((2, 3), int), np.array([32, 16]), "block must be one of 16, 32, 64"),
    ],
)
def test_maps_that_do_not_fit_are_refused(offsets, block, message, photo):
    with pytest.raises(ArgumentError, match=message):
        BPGCodec(37, preset="fast").encode(photo(64, 96), offsets, block=block)


def test_lossless_refuses_a_map(photo):
    codec = BPGCodec(chroma="444", lossless=True, preset="fast")
    with pytest.raises(ArgumentError, match="offsets must be None, because lossless=True"):
        codec.encode(photo(64, 96), np.ones((2, 3), int))


def test_too_many_regions_are_refused():
    image = torch.zeros(3, 2560, 2560, dtype=torch.uint8)
    squares = np.indices((160, 160)).sum(0) % 2 + 1
    with pytest.raises(ArgumentError, match=r"at most 20,000 rectangles.*larger blocks"):
        BPGCodec(37, preset="ultrafast").encode(image, squares, block=16)


@pytest.mark.parametrize("seed", range(20))
def test_regions_cover_each_block_once(seed):
    offsets = np.random.default_rng(seed).integers(-1, 2, (seed + 1, 9))
    found, count = np.zeros_like(offsets), np.zeros_like(offsets)
    for top, left, rows, columns, offset in regions(offsets):
        found[top : top + rows, left : left + columns] = offset
        count[top : top + rows, left : left + columns] += 1
    np.testing.assert_array_equal(found, offsets)
    assert count.max() <= 1
    assert len(regions(np.full((5, 5), 3))) == 1


def test_offsets_from_importance_are_their_definition():
    importance = torch.rand(70, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    importance[:40, 30:] *= 7
    found = qp_offsets(importance, block=32, alpha=2.0, clip=5)
    means = np.array(
        [[importance[r : r + 32, c : c + 32].mean() for c in range(0, 100, 32)] for r in range(0, 70, 32)]
    )
    near = np.array(
        [[means[max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2].mean() for c in range(4)] for r in range(3)]
    )
    octaves = np.log2((means + near) / 2)
    expected = np.round(np.clip(-2 * (octaves - octaves.mean()), -5, 5)).astype(int)
    np.testing.assert_array_equal(found.numpy(), expected)
    assert np.abs(expected).max() >= 1


def test_more_importance_has_a_lower_qp_and_odd_maps_pass():
    importance = torch.full((64, 96), 1e-6)
    importance[:32, :32] = 1.0
    offsets = qp_offsets(importance, alpha=1.0)
    assert offsets[0, 0] == offsets.min() == -7
    assert offsets.max() == 9
    assert qp_offsets(torch.zeros(64, 96)).tolist() == [[0] * 3] * 2
    assert qp_offsets(torch.full((40, 40), 1e-30)).tolist() == [[0] * 2] * 2
    assert qp_offsets(torch.ones(1, 1)).tolist() == [[0]]
    assert qp_offsets(importance, alpha=0).abs().max() == 0
    only = torch.zeros(320, 320)
    only[5, 5] = 1
    assert qp_offsets(only).abs().max() == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": -1}, "alpha must be a finite number of at least 0; got -1"),
        ({"alpha": float("nan")}, "alpha must be"),
        ({"clip": 52}, "clip must be a whole number from 0 to 51; got 52"),
        ({"block": 8}, "block must be one of 16, 32, 64; got 8"),
        ({"importance": torch.ones(3, 4, 4)}, r"importance must be a tensor \(H, W\)"),
        ({"importance": -torch.ones(4, 4)}, "importance must be finite and nonnegative"),
        ({"importance": torch.full((4, 4), float("inf"))}, "importance must be finite"),
    ],
)
def test_importance_out_of_range_is_refused(change, message):
    arguments = {"importance": torch.ones(4, 4), **change}
    with pytest.raises(ArgumentError, match=message):
        qp_offsets(arguments.pop("importance"), **arguments)
