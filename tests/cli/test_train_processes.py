"""`vcm train` on several devices, as it is started from a shell: it starts itself once more for each."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import programs
from vcm.nn.slimmable import load_network


@pytest.fixture
def command(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 3)):
        (tmp_path / part).mkdir()
        for number in range(count):
            pixels = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / f"{number}.png")
    return [
        str(Path(sys.executable).with_name("vcm")),
        "train",
        "network=s_bhm",
        "network.widths={reconstruction: 4}",
        "module.lmbda={reconstruction: 0.01}",
        "data=training_folders",
        f"data.train.root={tmp_path}/train",
        f"data.val.root={tmp_path}/val",
        "data.crop_size=32",
        "data.batch_size=2",
        "data.num_workers=0",
        "trainer=cpu",
        "trainer.devices=2",
        "+trainer.strategy=ddp",
    ]


def run(command, folder):
    return programs.run(command, timeout=300, cwd=folder)


def test_two_processes_train_and_go_on(command, tmp_path):
    for epochs in (1, 2):
        done = run([*command, f"trainer.max_epochs={epochs}"], tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("the model:") == 1
    folder = tmp_path / "runs" / "train"
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]
    assert all("NaN" not in line for line in lines)
    assert load_network(folder / "model.safetensors").tasks == ("reconstruction",)


def test_sweeps_over_several_devices_are_told(command, tmp_path):
    done = run([*command, "trainer.max_epochs=1", "seed=1,2", "--multirun"], tmp_path)
    assert done.returncode == 2
    assert "vcm train: 2 of 2 jobs failed:" in done.stderr
    assert (
        done.stderr.count("trainer.devices must be 1 with --multirun; got 2") == 4
    )  # as they fail, and then
    assert "Traceback" not in done.stderr


def test_a_damaged_checkpoint_is_told(command, tmp_path):
    checkpoint = tmp_path / "runs" / "train" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"PK\x03\x04 cut short")
    done = run([*command, "trainer.devices=1", "trainer.max_epochs=1"], tmp_path)
    assert done.returncode == 2
    assert "last.ckpt is damaged" in done.stderr
    assert "Traceback" not in done.stderr
