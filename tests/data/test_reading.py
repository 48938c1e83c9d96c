import io

import numpy as np
import pytest
import torch
from PIL import Image

from vcm.data.reading import find_images, read_image
from vcm.errors import ImageError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def save(tmp_path):
    def save(image, name, **options):
        path = tmp_path / name
        image.save(path, **options)
        return path

    return save


def test_rgb_png_comes_back_exactly(save):
    image = read_image(save(Image.fromarray(RGB), "a.png"))
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert torch.equal(image, torch.from_numpy(RGB).permute(2, 0, 1))


def test_grey_becomes_three_equal_channels(save):
    image = read_image(save(Image.fromarray(RGB[..., 0]), "a.png"))
    assert torch.equal(image, torch.from_numpy(RGB[..., 0]).expand(3, -1, -1))


def test_palette_gives_its_colours(save):
    image = Image.fromarray(RGB).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(read_image(save(image, "a.png")).permute(1, 2, 0).numpy(), expected)


def test_of_16_bit_grey_the_upper_8_are_kept(save):
    samples = RNG.integers(0, 65536, (20, 30), dtype=np.uint16)
    image = read_image(save(Image.fromarray(samples), "a.png"))
    assert np.array_equal(image[1].numpy(), samples >> 8)


def test_transparency_is_laid_over_white(save):
    pixels = np.dstack([RGB, np.full((20, 30), 255, np.uint8)])
    pixels[0, 0] = (10, 20, 30, 0)
    pixels[0, 1] = (0, 0, 0, 128)
    image = read_image(save(Image.fromarray(pixels), "a.png"))
    assert image[:, 0, 0].tolist() == [255, 255, 255]
    assert image[:, 0, 1].tolist() == [127, 127, 127]
    assert torch.equal(image[:, 1:], torch.from_numpy(RGB).permute(2, 0, 1)[:, 1:])


def test_palette_with_a_transparent_entry_is_laid_over_white(save):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 10, 10])
    image.putdata([0, 1])
    found = read_image(save(image, "a.png", transparency=0))
    assert found[:, 0, 0].tolist() == [255, 255, 255]
    assert found[:, 0, 1].tolist() == [200, 10, 10]


def test_cmyk_jpeg_becomes_rgb(save):
    flat = Image.new("CMYK", (32, 16), (0, 255, 255, 0))  # red
    image = read_image(save(flat, "a.jpg", quality=95))
    assert image.shape == (3, 16, 32)
    red, green, blue = image.float().mean((1, 2)).tolist()
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(save, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read_image(save(Image.fromarray(RGB), "a.png", exif=exif))
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.rot90(RGB, turn))


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000)])
def test_extreme_sizes(save, size):
    assert read_image(save(Image.new("RGB", size), "a.png")).shape == (3, size[1], size[0])


def whole(format_):
    buffer = io.BytesIO()
    Image.fromarray(np.tile(RGB, (20, 20, 1))).save(buffer, format_)
    return buffer.getvalue()


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_files_raise(tmp_path, format_, share):
    data = whole(format_)
    path = tmp_path / "a.bin"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=r"a\.bin"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"%PDF-1.7", bytes(1000)])
def test_files_that_are_no_images_raise(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="empty" if not content else "not an image"):
        read_image(path)


def test_missing_file_and_folder_raise(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="folder, not a regular file"):
        read_image(tmp_path)


def test_float_samples_are_refused(save):
    with pytest.raises(ImageError, match="floating-point"):
        read_image(save(Image.fromarray(np.zeros((4, 4), np.float32)), "a.tiff"))


def test_decompression_bomb_is_refused(save, monkeypatch):
    path = save(Image.new("RGB", (100, 100)), "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="more than 2000 pixels"):
        read_image(path)


def test_find_images_is_sorted_and_leaves_out_hidden_and_other_files(tmp_path):
    for name in ("b/2.JPG", "a.png", "b/1.webp", ".hidden/x.png", "b/._1.jpg", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)] == [
        "a.png",
        "b/1.webp",
        "b/2.JPG",
    ]
