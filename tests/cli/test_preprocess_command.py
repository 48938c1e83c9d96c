"""What `vcm preprocess` writes, keeps, and refuses."""

import io
import json
import os
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from vcm.cli.main import main
from vcm.data import read_image
from vcm.nn.preprocessor import NPP, QuantizationAdaptiveNPP, load_preprocessor, save_preprocessor

CHANNELS = (3, 4, 4, 5)
ORIENTATION, MAKE, EXIF_IFD, WIDTH, HEIGHT, EXPOSURE = 0x0112, 0x010F, 0x8769, 0xA002, 0xA003, 0x829A
DESCRIPTION, ARTIST = 0x010E, 0x013B


def write_npp(path, network):
    torch.manual_seed(0)
    with torch.no_grad():
        network.head[-1].weight.normal_(std=0.3)
    pairs = {"codec": "bpg", "pairs": [[0.25, 44], [16, 25]]}
    save_preprocessor(network, path, pairs=json.dumps(pairs))
    return path


@pytest.fixture(scope="module")
def npp(tmp_path_factory):
    return write_npp(tmp_path_factory.mktemp("npp") / "npp.safetensors", NPP(CHANNELS))


@pytest.fixture(scope="module")
def qa_npp(tmp_path_factory):
    return write_npp(tmp_path_factory.mktemp("qa") / "qa.safetensors", QuantizationAdaptiveNPP(CHANNELS))


@pytest.fixture
def preprocess(vcm, npp):
    def run(*arguments, use=npp):
        return vcm("preprocess", *arguments, use=use)

    return run


def filtered(path, model, rate=None):
    """What the network itself makes of an image."""
    with torch.no_grad():
        x = load_preprocessor(model)(read_image(path)[None].float() / 255, rate)
    return (x[0] * 255).round().to(torch.uint8)


@cache
def colour_profile():
    """A profile for RGB; it holds the time at which it was made."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_folders_in_folders_out(preprocess, npp, photos, tmp_path, files_below):
    status, out, err = preprocess(photos, "-o", tmp_path / "out")
    assert (status, err) == (0, "")
    names = files_below(tmp_path / "out")
    assert names == ["000000000139.png", "sub/7.png", "sub/photo.png"]
    num_bytes = sum((tmp_path / "out" / name).stat().st_size for name in names)
    assert out.startswith(f"3 files, {num_bytes:,} bytes, ")
    for source in ("000000000139.jpg", "sub/7.png", "sub/photo.webp"):
        written = read_image((tmp_path / "out" / source).with_suffix(".png"))
        assert (written.int() - filtered(photos / source, npp).int()).abs().max() <= 1
        assert not torch.equal(written, read_image(photos / source))


def test_a_rate_for_a_model_of_many(preprocess, qa_npp, tmp_path, write_image):
    photo = write_image(tmp_path / "photo.jpg")
    assert preprocess(photo, "--lmbda", 2, use=qa_npp)[0] == 0
    written = read_image(tmp_path / "photo.png")
    assert (written.int() - filtered(photo, qa_npp, 2).int()).abs().max() <= 1
    for arguments in ([], ["--lmbda", 17], ["--lmbda", 0.1], ["--lmbda", "nan"]):
        status, _, err = preprocess(photo, *arguments, "-o", tmp_path / "other.png", use=qa_npp)
        assert status == 2
        assert "lmbda must be a number from 0.25 to 16" in err
    assert "0.25 at 44" in preprocess(photo, use=qa_npp)[2]


def test_a_rate_for_a_model_of_one(preprocess, tmp_path, write_image):
    status, _, err = preprocess(write_image(tmp_path / "photo.jpg"), "--lmbda", 2)
    assert status == 2
    assert "lmbda must be None" in err


@pytest.mark.parametrize("suffix", [".png", ".TIF", ".tiff", ".webp", ".bmp", ".ppm"])
def test_lossless_formats_by_name(preprocess, npp, tmp_path, write_image, suffix):
    photo = write_image(tmp_path / "photo.jpg")
    assert preprocess(photo, "-o", tmp_path / f"mine{suffix}")[0] == 0
    assert preprocess(photo, "-o", tmp_path / "mine")[0] == 0
    assert torch.equal(read_image(tmp_path / f"mine{suffix}"), read_image(tmp_path / "mine/photo.png"))


@pytest.mark.parametrize("suffix", [".jpg", ".avif", ".jp2", ".gif", ".mine"])
def test_lossy_formats_are_refused(preprocess, tmp_path, write_image, files_below, suffix):
    write_image(tmp_path / "in/photo.png")
    status, _, err = preprocess(tmp_path / "in/photo.png", "-o", tmp_path / f"mine{suffix}")
    assert status == 2
    assert "--output must be a folder, or a name that ends in .png" in err
    assert "A lossy format would change the filtered pixels" in err
    assert files_below(tmp_path) == ["in/photo.png"]


def test_inputs_and_files_that_are_there_stay(preprocess, tmp_path, write_image):
    photos = [write_image(tmp_path / name, seed=n) for n, name in enumerate(("a.png", "b.jpg", "b.webp"))]
    before = [photo.read_bytes() for photo in photos]
    status, out, err = preprocess(*photos, "--overwrite")
    assert status == 1
    assert "a.png is an input of this command" in err
    assert out.startswith("2 files, ")  # b.jpg.png, and b.webp.png
    assert [photo.read_bytes() for photo in photos] == before
    mine = write_image(tmp_path / "b.png")
    os.utime(mine, ns=(0, 0))  # older than the image
    status, _, err = preprocess(photos[1])
    assert status == 1
    assert "b.png exists already. Use --overwrite to replace it" in err


def test_preprocessing_again_goes_on_where_it_was_stopped(preprocess, photos, tmp_path, files_below):
    assert preprocess(photos, "-o", tmp_path / "out")[0] == 0
    (tmp_path / "out/sub/7.png").unlink()
    status, out, err = preprocess(photos, "-o", tmp_path / "out")
    assert (status, err) == (0, "")
    assert out.startswith("1 file, ")
    assert out.endswith("; 2 already done\n")


def test_what_other_settings_or_nobody_made_is_no_success(preprocess, qa_npp, tmp_path, write_image):
    photo, out = write_image(tmp_path / "a.jpg"), tmp_path / "out"
    assert preprocess(photo, "--lmbda", 1, "-o", out / "", use=qa_npp)[0] == 0
    for arguments in (["--lmbda", 8],):
        status, _, err = preprocess(photo, *arguments, "-o", out, use=qa_npp)
        assert (status, "a.png exists already" in err) == (1, True)
    assert preprocess(photo, "--lmbda", 1, "-o", out, use=qa_npp)[0] == 0
    for content in (b"", photo.read_bytes()):
        (out / "a.png").write_bytes(content)
        assert preprocess(photo, "--lmbda", 1, "-o", out, use=qa_npp)[0] == 1
    write_image(tmp_path / "a.jpg", seed=9)
    assert preprocess(photo, "--lmbda", 1, "-o", out, "--overwrite", use=qa_npp)[0] == 0


def test_images_that_differ_in_their_suffix_alone_all_have_an_output(
    preprocess, npp, tmp_path, write_image, files_below
):
    for number, name in enumerate(("a/IMG.png", "a/IMG.jpg", "a/IMG.webp", "a/other.jpg")):
        write_image(tmp_path / "in" / name, seed=number)
    status, out, _ = preprocess(tmp_path / "in", "-o", tmp_path / "out")
    assert (status, out.startswith("4 files, ")) == (0, True)
    assert files_below(tmp_path / "out") == ["a/IMG.jpg.png", "a/IMG.png", "a/IMG.webp.png", "a/other.png"]
    written = read_image(tmp_path / "out/a/IMG.jpg.png")
    assert (written.int() - filtered(tmp_path / "in/a/IMG.jpg", npp).int()).abs().max() <= 1


def test_one_bad_file_does_not_stop_the_rest(preprocess, photos, tmp_path, files_below):
    (photos / "bad.jpg").write_text("no image")
    status, out, err = preprocess(photos, tmp_path / "missing.jpg", "-o", tmp_path / "out")
    assert status == 1
    assert "bad.jpg: is not an image" in err
    assert "missing.jpg: cannot be read" in err
    assert out.startswith("3 files, ")
    assert out.endswith("; 2 skipped\n")
    assert len(files_below(tmp_path / "out")) == 3


def test_other_models_are_told(preprocess, model, tmp_path, write_image):
    photo = write_image(tmp_path / "photo.jpg")
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 99)
    for other, message in (
        (model, "does not hold a preprocessor"),
        (tmp_path / "junk.safetensors", "cannot be read as a model"),
        (tmp_path / "missing.safetensors", "cannot be read as a model"),
    ):
        status, _, err = preprocess(photo, use=other)
        assert status == 2
        assert message in err
    assert "device must be" in preprocess(photo, "--device", "cuda:99")[2]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (17, 33)])
def test_small_and_odd_sizes(preprocess, tmp_path, write_image, size):
    preprocess(write_image(tmp_path / "photo.jpg", *size))
    assert read_image(tmp_path / "photo.png").shape == (3, *size)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_orientation_is_applied_and_the_rest_is_kept(preprocess, npp, tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 50, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKE] = 6, "A camera"
    exif[DESCRIPTION], exif[ARTIST] = "Grüße".encode(), "Müller".encode("latin-1")
    exif.get_ifd(EXIF_IFD).update({WIDTH: 50, HEIGHT: 20, EXPOSURE: 0.25})
    photo, target = tmp_path / "photo.jpg", tmp_path / f"out/photo{suffix}"
    Image.fromarray(pixels).save(photo, exif=exif, icc_profile=colour_profile())
    assert preprocess(photo, "-o", target)[0] == 0
    with Image.open(target) as written:
        found, profile = written.getexif(), written.info["icc_profile"]
        assert written.size == (20, 50)
        assert found.get(ORIENTATION, 1) == 1
        assert found[MAKE] == "A camera"
        assert found[DESCRIPTION].encode("latin-1").decode() == "Grüße"
        assert found[ARTIST] == "Müller"
        assert {tag: found.get_ifd(EXIF_IFD)[tag] for tag in (WIDTH, HEIGHT, EXPOSURE)} == {
            WIDTH: 20, HEIGHT: 50, EXPOSURE: 0.25,
        }  # fmt: skip
    assert profile == colour_profile()
    assert (read_image(target).int() - filtered(photo, npp).int()).abs().max() <= 1


def test_a_tiff_does_not_pass_on_its_layout(preprocess, tmp_path):
    tags = {0x0132: "2020:01:01 00:00:00", ORIENTATION: 3}
    photo = Image.fromarray(np.zeros((9, 8, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.tif", tiffinfo=tags, compression="tiff_lzw")
    for name in ("a.png", "a.tif"):
        assert preprocess(tmp_path / "photo.tif", "-o", tmp_path / name)[0] == 0
    with Image.open(tmp_path / "a.png") as written:
        assert dict(written.getexif()) == {0x0132: "2020:01:01 00:00:00"}
    assert read_image(tmp_path / "a.tif").shape == (3, 9, 8)


def test_profiles_for_other_than_rgb_are_dropped(preprocess, tmp_path):
    profile = bytearray(colour_profile())
    profile[16:20] = b"CMYK"
    Image.new("CMYK", (8, 8)).save(tmp_path / "photo.jpg", icc_profile=bytes(profile))
    assert preprocess(tmp_path / "photo.jpg")[0] == 0
    with Image.open(tmp_path / "photo.png") as written:
        assert "icc_profile" not in written.info


def test_damaged_exif_is_dropped(preprocess, tmp_path):
    exif = Image.Exif()
    exif[MAKE] = "A camera"
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", exif=exif.tobytes()[:-9] + b"\xff" * 9)
    (tmp_path / "photo.jpg").write_bytes(file.getvalue())
    assert preprocess(tmp_path / "photo.jpg")[:1] == (0,)


def test_a_format_that_cannot_hold_the_image_is_told(preprocess, tmp_path):
    Image.new("RGB", (17000, 1)).save(tmp_path / "photo.jpg")
    status, _, err = preprocess(tmp_path / "photo.jpg", "-o", tmp_path / "a.webp")
    assert status == 1
    assert "cannot be written as WEBP" in err
    assert not (tmp_path / "a.webp").exists()


def test_help_says_what_happens_to_colours(capsys):
    with pytest.raises(SystemExit):
        main(["preprocess", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "Colours are not converted" in printed
    assert "orientation is applied" in printed
