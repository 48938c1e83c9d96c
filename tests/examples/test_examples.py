"""Each script in examples/ runs, on a few small images, and prints what it says."""

import importlib.util
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from vcm.errors import BitstreamError
from vcm.types import Detections

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def photos(coco_images, tmp_path):
    """Four small copies of real photographs."""
    (tmp_path / "photos").mkdir()
    for path in coco_images[:4]:
        with Image.open(path) as image:
            image.convert("RGB").resize((160, 128)).save(tmp_path / "photos" / f"{path.stem}.png")
    return tmp_path / "photos"


def test_every_example_is_tested():
    tested = Path(__file__).read_text()
    assert all(f'load("{path.stem}")' in tested for path in EXAMPLES.glob("*.py"))


def test_codec(photos, capsys):
    load("codec").main(str(sorted(photos.iterdir())[0]))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["BPG", "JPEG"]
    assert all(re.search(r": \d\.\d{3} bpp, \d\d\.\d\d dB$", line) for line in lines)


def test_own_codec(photos, asset_path, capsys):
    asset_path("yolov3-tiny", "yolov3-tiny.weights")
    module = load("own_codec")
    image = (torch.rand(3, 5, 7) * 255).to(torch.uint8)
    assert torch.equal(module.ThumbnailCodec(1).decode(module.ThumbnailCodec(1).encode(image)), image)
    with pytest.raises(BitstreamError):
        module.ThumbnailCodec(1).decode(b"\0\5\0\7damaged")
    module.main(str(photos))
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("thumbnail: ") for line in lines) == 4
    assert re.match(r"BD-rate in %: ([+-]\d|n/a)", lines[-1])


def test_own_detector(photos, capsys):
    """With a stand-in for the weights, which no package has."""
    module = load("own_detector")

    class Bright(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, images):
            size = [torch.tensor([[0.0, 0.0, x.shape[2] * float(x.mean()), 20.0]]) for x in images]
            return [{"boxes": box, "scores": torch.ones(1), "labels": torch.zeros(1).long()} for box in size]

    task = module.TorchvisionDetector(Bright(), "bright", ["thing"])
    assert not next(task.parameters()).requires_grad
    (found,) = task.predict([torch.ones(3, 8, 8)])
    assert isinstance(found, Detections)
    module.report(task, str(photos))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["bpg", "jpeg"]


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*log_every_n_steps"
)
def test_plain_trainer(photos, asset_path, tmp_path, capsys, monkeypatch):
    asset_path("yolov3-tiny", "yolov3-tiny.weights")
    monkeypatch.chdir(tmp_path)
    for number in range(8):  # so that a tenth for validation is at least one
        pixels = np.full((70, 70, 3), 30 * number, np.uint8)
        Image.fromarray(pixels).save(photos / f"flat_{number}.png")
    load("plain_trainer").main(str(photos), 4, str(tmp_path / "model.safetensors"))
    assert re.search(r"\d+ bytes for people", capsys.readouterr().out)


def test_metrics_in_your_loop(photos, asset_path, capsys):
    asset_path("yolov3-tiny", "yolov3-tiny.weights")
    load("metrics_in_your_loop").main(str(photos))
    rates = [float(rate) for rate in re.findall(r": (\d\.\d+) bpp", capsys.readouterr().out)]
    assert len(rates) == 3
    assert rates == sorted(rates)


def test_npp_to_onnx(tmp_path, capsys):
    load("npp_to_onnx").main(str(tmp_path / "npp.onnx"), 2.0, 64)
    difference = float(capsys.readouterr().out.rpartition(" ")[2])
    assert difference < 1e-4


def test_the_notebook_draws_the_curves(monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    plt.switch_backend("agg")
    content = json.loads((EXAMPLES / "rate_accuracy_plot.ipynb").read_text())
    names = {}
    cells = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
    for cell in cells[:-1]:
        exec(compile(cell, "cell", "exec"), names)
    assert len(names["axes"].lines) == 6
    plt.close(names["figure"])
    body, _, last = cells[-1].rpartition("\n")
    exec(compile(body, "cell", "exec"), names)
    found = eval(last, names)
    results = json.loads((EXAMPLES.parent / "benchmarks/results/rate_accuracy.json").read_text())
    written = {
        row["system"]: row["bd_rate"]
        for row in results["bd_rate"]
        if (row["task"], row["anchor"], row["column"]) == ("yolov3_tiny", "bpg", "yolov3-tiny, pseudo-labels")
    }
    assert found["bpg_at_reader"] == pytest.approx(written["bpg_at_reader"], abs=0.5)
