"""The weights that come with the package."""

import re

import pytest
import torch
from PIL import Image

from vcm.cli.main import main
from vcm.data import read_picture
from vcm.errors import ArgumentError
from vcm.evaluation.preprocessing import NPPPreprocessor
from vcm.nn.files import read_notes
from vcm.weights import QA_NPP_BPG, shipped


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
    rates = [NPPPreprocessor(shipped(QA_NPP_BPG), codec="bpg", quality=qp).rate for qp in (44, 37, 25)]
    assert rates == sorted(rates)
    assert rates[0] < rates[1]
    assert "yolov3-tiny" in read_notes(shipped(QA_NPP_BPG))["tasks"]


def test_preprocess_takes_it_by_default(tmp_path):
    torch.manual_seed(0)
    coarse = torch.rand(1, 3, 6, 8)
    smooth = torch.nn.functional.interpolate(coarse, size=(96, 128), mode="bicubic").clamp(0, 1)
    pixels = (smooth[0] * 255).byte()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    assert (
        main(["preprocess", str(tmp_path / "photo.png"), "--rate", "1", "-o", str(tmp_path / "out.png")]) == 0
    )
    written = read_picture(tmp_path / "out.png")
    assert torch.equal(written, NPPPreprocessor(shipped(QA_NPP_BPG), rate=1)(pixels))
    error = (written.float() - pixels.float()).square().mean()
    assert 0 < error < 255**2 / 10**2  # changed, and at more than 20 dB still that picture
