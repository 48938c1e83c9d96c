"""The weights that come with the package."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from vcm.cli.main import main
from vcm.codecs import BPGCodec, qp_offsets
from vcm.data import read_image
from vcm.encoding.preprocessing import NPPPreprocessor
from vcm.encoding.reader import scale_to_reader
from vcm.errors import ArgumentError
from vcm.nn.importance import block_octaves, load_importance
from vcm.nn.serialization import read_notes
from vcm.nn.slimmable import SlimmableFactorized, save_network
from vcm.tasks import YOLOTask
from vcm.weights import IMPORTANCE_YOLOV3_TINY, QA_NPP_BPG, shipped


def test_they_are_small_and_each_has_a_card():
    folder = shipped(QA_NPP_BPG).parent
    files = sorted(folder.glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) < 10e6
    for file in files:
        card = file.with_suffix(".md").read_text()
        for heading in ("Data", "Recipe", "Figures", "Limits"):
            assert re.search(rf"^## {heading}$", card, re.MULTILINE), (file, heading)


def test_other_names_are_told():
    with pytest.raises(ArgumentError, match=rf"name must be one of the shipped models: .*{QA_NPP_BPG}"):
        shipped("../conf")


def test_the_preprocessor_knows_bpgs_rates():
    rates = [NPPPreprocessor(shipped(QA_NPP_BPG), codec="bpg", quality=qp).lmbda for qp in (44, 37, 25)]
    assert rates == sorted(rates)
    assert rates[0] < rates[1]
    assert "yolov3-tiny" in read_notes(shipped(QA_NPP_BPG))["tasks"]


def test_the_importance_network_predicts_a_detectors_maps(coco_images, asset_path):
    network = load_importance(shipped(IMPORTANCE_YOLOV3_TINY))
    assert sum(p.numel() for p in network.parameters()) < 100_000
    folder = "yolov3-tiny"
    task = YOLOTask(asset_path(folder, "yolov3-tiny.cfg"), asset_path(folder, "yolov3-tiny.weights"))
    pairs = []
    for path in coco_images[:6]:
        x = scale_to_reader(read_image(path), task).float() / 255
        pairs.append((network(x[None])[0].flatten(), block_octaves(task.importance(x)).flatten()))
    predicted, true = (torch.cat(each).detach() for each in zip(*pairs, strict=True))
    assert torch.corrcoef(torch.stack([predicted, true]))[0, 1] > 0.4


def test_encode_predicts_importance_without_a_detector(coco_images, tmp_path):
    image = tmp_path / "photo.jpg"
    image.write_bytes(coco_images[0].read_bytes())
    options = ["--quality", "40", "--preset", "ultrafast", "--predict-importance"]
    assert main(["encode", str(image), *options]) == 0
    pixels = read_image(image)
    network = load_importance(shipped(IMPORTANCE_YOLOV3_TINY))
    offsets = qp_offsets(network.importance(pixels.float() / 255), alpha=3.0)
    assert offsets.unique().numel() > 3
    assert image.with_suffix(".bpg").read_bytes() == BPGCodec(40, preset="ultrafast").encode(pixels, offsets)


def write_photo(path):
    torch.manual_seed(0)
    coarse = torch.rand(1, 3, 6, 8)
    smooth = torch.nn.functional.interpolate(coarse, size=(96, 128), mode="bicubic").clamp(0, 1)
    pixels = (smooth[0] * 255).byte()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    return pixels


def test_preprocess_takes_it_by_default(tmp_path):
    pixels = write_photo(tmp_path / "photo.png")
    assert (
        main(["preprocess", str(tmp_path / "photo.png"), "--lmbda", "1", "-o", str(tmp_path / "out.png")])
        == 0
    )
    written = read_image(tmp_path / "out.png")
    assert torch.equal(written, NPPPreprocessor(shipped(QA_NPP_BPG), lmbda=1)(pixels))
    error = (written.float() - pixels.float()).square().mean()
    assert 0 < error < 255**2 / 10**2  # changed, and at more than 20 dB still that image


def test_compress_and_decompress_take_the_slimmable_codec_by_default(tmp_path, monkeypatch):
    pixels = write_photo(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    assert main(["compress", "photo.png", "--for", "viewing"]) == 0
    assert main(["decompress"]) == 0  # what is in the current folder
    error = (read_image(tmp_path / "photo.png.png").float() - pixels.float()).square().mean()
    assert error < 255**2 / 10**2.5


def test_a_higher_quality_costs_more_and_comes_nearer(tmp_path):
    pixels = write_photo(tmp_path / "photo.png")
    sizes, errors = [], []
    for quality in ("1", "2.5", "5"):
        stream, back = tmp_path / f"{quality}.vcm", tmp_path / f"{quality}.png"
        command = ["compress", str(tmp_path / "photo.png"), "--for", "viewing", "--quality", quality]
        assert main([*command, "-o", str(stream)]) == 0
        assert main(["decompress", str(stream), "-o", str(back)]) == 0
        sizes.append(stream.stat().st_size)
        errors.append(float((read_image(back).float() - pixels.float()).square().mean()))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 1.5
    assert errors == sorted(errors, reverse=True)


def test_qualities_that_it_has_not_are_told(tmp_path, capsys):
    write_photo(tmp_path / "photo.png")
    assert main(["compress", str(tmp_path / "photo.png"), "--for", "viewing", "--quality", "6"]) == 2
    assert "--quality must be in [1, 5]" in capsys.readouterr().err


def test_a_stream_of_another_model_is_told(tmp_path, capsys):
    torch.manual_seed(0)
    write_photo(tmp_path / "photo.png")
    save_network(SlimmableFactorized({"reconstruction": 4}), tmp_path / "own.safetensors")
    command = ["compress", str(tmp_path / "photo.png"), "--for", "viewing"]
    assert main([*command, "--model", str(tmp_path / "own.safetensors")]) == 0
    assert main(["decompress", str(tmp_path / "photo.png.vcm")]) == 1
    assert "the stream was encoded with another model" in capsys.readouterr().err


def test_a_photo_becomes_boxes(tmp_path, asset_path, monkeypatch):
    asset_path("yolov3-tiny", "yolov3-tiny.weights")
    bear = asset_path("coco-sample", "images/000000000285.jpg")
    monkeypatch.chdir(tmp_path)
    shutil.copy(bear, "bear.jpg")
    assert main(["compress", "bear.jpg", "--for", "detection"]) == 0
    assert main(["decompress"]) == 0
    assert Path("bear.jpg.png").exists()
    found = json.loads(Path("detections.json").read_text())
    best = max(found, key=lambda box: box["score"])
    assert best["category_id"] == 23  # COCO's bear
    assert Path("bear.jpg.vcm").stat().st_size < bear.stat().st_size / 5
