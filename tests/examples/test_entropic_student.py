"""examples/entropic_student: a method of another package, trained and evaluated by vcm's commands."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import programs
from vcm import load_task
from vcm.errors import ArgumentError, BitstreamError, WeightsError
from vcm.nn.models import load_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "entropic_student"
ENTRY = 'vcm.networks"]\nEntropicStudent = "entropic_student:EntropicStudent"\n'
MODEL = "runs/entropic_student/model.safetensors"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The example as pip would install it, in an empty working folder with four images."""
    assert ENTRY in (EXAMPLE / "pyproject.toml").read_text()
    information = tmp_path / "site" / "vcm_entropic_student-0.1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: vcm-entropic-student\nVersion: 0.1\n")
    entries = "[vcm.networks]\nEntropicStudent = entropic_student:EntropicStudent\n"
    (information / "entry_points.txt").write_text(entries)
    places = [str(tmp_path / "site"), str(EXAMPLE)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*places, os.environ.get("PYTHONPATH", "")]))
    for place in places:
        monkeypatch.syspath_prepend(place)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(4):
        pixels = np.kron(rng.integers(0, 256, (10, 12, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path


def vcm(*arguments):
    """Run a command in a process of its own, where Hydra finds the package's plug-in."""
    done = programs.run(["-W", "ignore", "-m", "vcm", *arguments], timeout=300)
    assert done.returncode == 0, done.stderr


def images():
    paths = sorted(Path("photos").iterdir())
    return [torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in paths]


def test_it_is_trained_and_evaluated_without_a_change_to_vcm(plugin, asset_path):
    asset_path("yolov3-tiny", "yolov3-tiny.weights")
    data = [f"data.{part}.{key}" for part in ("train", "val") for key in ("root=photos", "part=all")]
    short = ["data.crop_size=64", "trainer.max_epochs=2", "trainer.check_val_every_n_epoch=1"]
    vcm("train", "experiment=entropic_student", *data, *short)
    lines = Path("runs/entropic_student/metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["val/loss"] == pytest.approx(
        last["val/bpp"] + 1e-4 * 255**2 * last["val/distortion"], rel=1e-4
    )

    codecs = ["codec=[jpeg,entropic_student]", "codecs.jpeg.qualities=[30]"]
    reader = ["task=yolov3_tiny", "task.cut=layer5", "data=images", "data.test.root=photos"]
    vcm("evaluate", *codecs, *reader, "bootstrap=0", "name=mine")
    points = json.loads(Path("runs/mine/results.json").read_text())["points"]
    by_name = {point["system"]: point for point in points}
    assert set(by_name) == {"jpeg", "entropic_student"}

    from entropic_student import EntropicStudentCodec

    codec, task = EntropicStudentCodec(model=MODEL), load_task("yolov3_tiny")
    inputs = [task.prepare([image / 255]).inputs for image in images()]
    streams = [codec.encode(x, (160, 192)) for x in inputs]
    assert by_name["entropic_student"]["num_bytes"] == sum(map(len, streams))
    features, size = codec.decode(streams[0])
    assert size == (160, 192)
    with torch.no_grad():
        expected = load_model(MODEL)(inputs[0])["f_hat"]
    assert torch.allclose(features, expected, atol=1e-5)
    flipped = [bytes([*streams[0][:i], streams[0][i] ^ 4, *streams[0][i + 1 :]]) for i in range(18)]
    for bad in (b"", streams[0][:20], streams[0][:-1] + b"!", *flipped):
        with pytest.raises(BitstreamError):
            codec.decode(bad)
    for x, size in (
        (inputs[0] * float("nan"), (5, 5)),
        (inputs[0].byte(), (5, 5)),
        (inputs[0][0], (5, 5)),
        (inputs[0], (0, 5)),
        (inputs[0], (70000, 5)),
    ):
        with pytest.raises(ArgumentError):
            codec.encode(x, size)

    vcm("train", "experiment=entropic_student", *data, *short, "trainer.max_epochs=3")  # goes on
    lines = Path("runs/entropic_student/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2]


def test_without_the_package_the_file_says_what_is_missing(plugin):
    from entropic_student.network import EntropicStudent, save_student

    save_student(EntropicStudent(4, 4, width=3, latent=2, hidden=3), "model.safetensors")
    assert load_model("model.safetensors").channels == 4
    (plugin / "site/vcm_entropic_student-0.1.0.dist-info/entry_points.txt").unlink()
    with pytest.raises(WeightsError, match=r"EntropicStudent.*vcm\.networks"):
        load_model("model.safetensors")
