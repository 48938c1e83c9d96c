"""The codecs that Pillow does, against CompressAI's and at their limits."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai.utils.bench.codecs import JPEG, WebP
from PIL import Image
from torch import Tensor

from vcm.codecs import AVIFCodec, Codec, JPEG2000Codec, JPEGCodec, JPEGXLCodec, WebPCodec
from vcm.codecs.limits import MAX_PIXELS
from vcm.codecs.pillow import PillowCodec
from vcm.errors import ArgumentError, BitstreamError, CodecError, MissingToolError

Photo = Callable[..., Tensor]
CODECS: list[type[PillowCodec]] = [JPEGCodec, WebPCodec, AVIFCodec, JPEG2000Codec, JPEGXLCodec]
by_name = pytest.mark.parametrize("kind", CODECS, ids=lambda kind: kind.name)


def psnr(a: Tensor, b: Tensor) -> float:
    return (10 * torch.log10(255**2 / (a.double() - b.double()).square().mean())).item()


def assert_as_compressai(path: Path, image: Tensor, quality: int) -> None:
    for ours, theirs in ((JPEGCodec, JPEG), (WebPCodec, WebP)):
        expected = theirs(argparse.Namespace()).run(str(path), quality)
        codec = ours(quality=quality)
        data = codec.encode(image)
        bpp = 8 * len(data) / (image.shape[1] * image.shape[2])
        assert bpp == pytest.approx(expected["bpp"], abs=5e-5)
        assert psnr(codec.decode(data), image) == pytest.approx(expected["psnr-rgb"], abs=5e-5)


@pytest.mark.parametrize("quality", [1, 10, 50, 95])
def test_jpeg_and_webp_equal_compressai(quality: int, photo: Photo, tmp_path: Path) -> None:
    for seed, size in enumerate([(96, 128), (75, 101)]):
        image = photo(*size, seed)
        path = tmp_path / f"{seed}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
        assert_as_compressai(path, image, quality)


def test_jpeg_and_webp_equal_compressai_on_coco(coco_images: list[Path]) -> None:
    for path in coco_images[:8]:
        with Image.open(path) as file:
            image = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)
        for quality in (20, 75):
            assert_as_compressai(path, image, quality)


@by_name
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 7), (97, 61)])
def test_any_size_comes_back(kind: type[Codec], size: tuple[int, int], photo: Photo) -> None:
    codec = kind(quality=60 if kind is not JPEG2000Codec else 40)
    image = photo(*size)
    decoded = codec.decode(codec.encode(image))
    assert decoded.dtype == torch.uint8
    assert decoded.shape == image.shape
    assert decoded.is_contiguous()
    assert psnr(decoded, image) > 20


@by_name
def test_more_bytes_buy_a_better_image(kind: type[Codec], photo: Photo) -> None:
    image = photo(96, 128)
    scale = kind.quality_scale
    points = []
    for step in (0.2, 0.5, 0.8):
        codec = kind(quality=round(scale.low + step * (scale.high - scale.low)))
        data = codec.encode(image)
        points.append((len(data), psnr(codec.decode(data), image)))
    assert points == sorted(points)
    assert points[0] < points[1] < points[2]


@by_name
def test_the_ends_of_the_scale_work_and_beyond_them_not(kind: type[Codec], photo: Photo) -> None:
    scale = kind.quality_scale
    image = photo(16, 24)
    for quality in (scale.low, scale.high, scale.default):
        codec = kind(quality=quality)
        assert codec.decode(codec.encode(image)).shape == image.shape
    assert kind().quality == scale.default
    for quality in (scale.low - 1, scale.high + 1, float("nan"), "50", None, True):
        with pytest.raises(ArgumentError, match="quality must be"):
            kind(quality=quality)


@by_name
def test_no_truncation_decodes_in_silence(kind: type[Codec], photo: Photo) -> None:
    codec = kind()
    data = codec.encode(photo(24, 40))
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            codec.decode(data[:length])


@by_name
def test_other_formats_are_refused(kind: type[Codec], photo: Photo) -> None:
    image = photo(16, 16)
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
    others = [other().encode(image) for other in CODECS if other is not kind]
    for data in [buffer.getvalue(), b"", b"hello", bytes(500), *others]:
        with pytest.raises(BitstreamError):
            kind().decode(data)


@by_name
def test_bytes_do_not_change_from_run_to_run(kind: type[Codec], photo: Photo) -> None:
    image = photo(300, 420)
    assert kind().encode(image) == kind().encode(image.clone())


@by_name
def test_settings_say_what_decides_the_bytes(kind: type[Codec]) -> None:
    settings = kind().settings()
    assert settings["name"] == kind.name
    assert settings["quality"] == kind.quality_scale.default
    assert any(character.isdigit() for character in settings["implementation"])
    assert kind.unavailable() == ""


@by_name
def test_an_encoder_that_fails_is_a_codec_error(
    kind: type[Codec], photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("encoder error -2")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(CodecError, match=r"encoder failed on an image of size 8x8: encoder error -2"):
        kind().encode(photo(8, 8))


@pytest.mark.parametrize(
    ("kind", "size"), [(JPEGCodec, (1, 65501)), (WebPCodec, (16384, 1)), (AVIFCodec, (1, 32769))]
)
def test_sides_that_the_format_cannot_hold_are_refused(
    kind: type[PillowCodec], size: tuple[int, int]
) -> None:
    with pytest.raises(ArgumentError, match=f"at most {kind.max_side} pixels per side for {kind.title}"):
        kind().encode(torch.zeros((3, *size), dtype=torch.uint8))
    longest = tuple(min(side, kind.max_side) for side in size)
    codec = kind()
    assert codec.decode(codec.encode(torch.zeros((3, *longest), dtype=torch.uint8))).shape[1:] == longest


@by_name
def test_a_forged_size_is_refused(kind: type[Codec], monkeypatch: pytest.MonkeyPatch, photo: Photo) -> None:
    data = kind().encode(photo(40, 60))
    monkeypatch.setattr("vcm.codecs.limits.MAX_PIXELS", 40 * 60 - 1)
    with pytest.raises(BitstreamError, match="an image must have 1 to 2399 pixels; got 60x40"):
        kind().decode(data)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (256, 256), (40, 60), (300, 200), (513, 1000), (5000, 3)])
def test_jpeg_xl_states_its_size_where_it_is_looked_for(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All forms of the size header: divisible by 8 or not, with and without a ratio."""
    seen = []
    monkeypatch.setattr(
        "vcm.codecs.jpegxl.check_pixels", lambda _, width, height: seen.append((height, width))
    )
    codec = JPEGXLCodec(effort=1)
    codec.decode(codec.encode(torch.zeros((3, *size), dtype=torch.uint8)))
    assert seen == [size]


def test_a_jpeg_bomb_is_refused_before_it_is_decoded() -> None:
    data = bytearray(JPEGCodec().encode(torch.zeros((3, 8, 8), dtype=torch.uint8)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"  # 65500 × 65500
    with pytest.raises(BitstreamError):
        JPEGCodec().decode(bytes(data))


def test_jpeg_xl_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, photo: Photo) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "pip install 'vcm[jxl]'" in JPEGXLCodec.unavailable()
    with pytest.raises(MissingToolError, match=r"pip install 'vcm\[jxl\]'"):
        JPEGXLCodec().encode(photo(8, 8))


def test_a_pillow_without_the_format_says_so(monkeypatch: pytest.MonkeyPatch, photo: Photo) -> None:
    monkeypatch.setattr("PIL.features.check", lambda _: False)
    with pytest.raises(MissingToolError, match="AVIF cannot run here: this build of Pillow lacks AVIF"):
        AVIFCodec().encode(photo(8, 8))


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: JPEGCodec(chroma="440"), "chroma"),
        (lambda: JPEGCodec(optimize=1), "optimize"),
        (lambda: JPEGCodec(progressive="no"), "progressive"),
        (lambda: WebPCodec(method=7), "method"),
        (lambda: WebPCodec(method=2.5), "method"),
        (lambda: AVIFCodec(speed=11), "speed"),
        (lambda: AVIFCodec(chroma=None), "chroma"),
        (lambda: JPEGXLCodec(effort=0), "effort"),
    ],
)
def test_options_out_of_range_are_refused(make: Callable[[], Codec], argument: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{argument} must be"):
        make()


def test_options_change_the_bytes(photo: Photo) -> None:
    image = photo(64, 96)
    variants = [
        (JPEGCodec(), JPEGCodec(chroma="444")),
        (JPEGCodec(), JPEGCodec(optimize=True)),
        (JPEGCodec(), JPEGCodec(progressive=True)),
        (WebPCodec(), WebPCodec(method=0)),
        (AVIFCodec(), AVIFCodec(chroma="444")),
        (AVIFCodec(), AVIFCodec(speed=10)),
        (JPEGXLCodec(), JPEGXLCodec(effort=1)),
    ]
    for plain, other in variants:
        assert plain.encode(image) != other.encode(image), other


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros((1, 8, 8), dtype=torch.uint8),
        torch.zeros((3, 8, 8)),
        torch.zeros((1, 3, 8, 8), dtype=torch.uint8),
        torch.zeros((3, 0, 8), dtype=torch.uint8),
        torch.zeros((1,), dtype=torch.uint8).expand(3, MAX_PIXELS + 1, 1),
        np.zeros((3, 8, 8), np.uint8),
    ],
    ids=["gray", "float", "batch", "empty", "huge", "numpy"],
)
def test_what_is_no_image_is_refused(image: object) -> None:
    with pytest.raises(ArgumentError, match="image must be"):
        JPEGCodec().encode(image)


def test_jpeg2000_meets_the_psnr_that_it_is_asked_for(photo: Photo) -> None:
    image = photo(128, 160)
    for target in (25.0, 32.5, 40.0):
        codec = JPEG2000Codec(quality=target)
        assert psnr(codec.decode(codec.encode(image)), image) == pytest.approx(target, abs=1)


def test_jpeg_xl_at_100_is_lossless(photo: Photo) -> None:
    codec = JPEGXLCodec(quality=100)
    image = photo(50, 70)
    assert torch.equal(codec.decode(codec.encode(image)), image)


def test_sizes_that_the_bytes_cannot_hold_are_refused_before_decoding(photo: Photo) -> None:
    data = bytearray(JPEGCodec().encode(photo(40, 56)))
    place = data.index(b"\xff\xc0") + 5
    for size, message in (
        ((8192, 8192), "cannot contain an image of 8192x8192"),
        ((65500, 65500), "must have 1 to"),
    ):
        data[place : place + 4] = b"".join(side.to_bytes(2, "big") for side in size)
        with pytest.raises(BitstreamError, match=message), no_decoding():
            JPEGCodec().decode(bytes(data))


@pytest.mark.parametrize("kind", [b"VP8X", b"VP8L", b"VP8 "])
def test_webp_sizes_are_checked_before_pillow_opens_the_stream(kind: bytes) -> None:
    sides = (16383, 16383)
    if kind == b"VP8X":
        body = bytes(4) + b"".join((side - 1).to_bytes(3, "little") for side in sides)
    elif kind == b"VP8L":
        body = b"\x2f" + (16382 | 16382 << 14).to_bytes(4, "little") + bytes(5)
    else:
        body = bytes(3) + b"\x9d\x01\x2a" + b"".join(side.to_bytes(2, "little") for side in sides)
    chunk = kind + len(body).to_bytes(4, "little") + body
    data = b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk
    with pytest.raises(BitstreamError, match="16383x16383"), no_decoding():
        WebPCodec().decode(data)


@pytest.mark.parametrize("quality", [0, 50, 100])
def test_webp_sizes_are_read_rightly(quality: int, photo: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "vcm.codecs.pillow.check_pixels", lambda _, width, height: sizes.append((height, width))
    )
    WebPCodec(quality).decode(WebPCodec(quality).encode(photo(41, 57)))
    assert sizes == [(41, 57)] * 2


@contextlib.contextmanager
def no_decoding() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("opened"))
        yield
