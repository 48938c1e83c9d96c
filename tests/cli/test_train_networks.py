"""Every network of conf/network trains in two processes, and its streams are sound afterwards."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import vcm.conf
from PIL import Image

import programs
from vcm.codecs import LearnedCodec
from vcm.nn.importance import load_importance
from vcm.nn.preprocessor import load_preprocessor
from vcm.nn.proxy import load_proxy
from vcm.nn.slimmable import load_network

NETWORKS = sorted(path.stem for path in (Path(vcm.conf.__file__).parent / "network").glob("*.yaml"))
TASK = ["+task@tasks.task=mobilenet_v2", "tasks.task.weights=null", "tasks.task.categories=[a,b]"]
SLIMMABLE = [
    *TASK,
    "network.widths={task: 4, reconstruction: 6}",
    "network.features={task: {_target_: vcm.nn.slimmable.FeatureMap, channels: 32, stride: 8}}",
    "module.lmbda={task: 0.001, reconstruction: 0.01}",
]
NPP = [*TASK, "module=npp", "codec_loop=jpeg", "proxy=jpeg", "network.channels=[4,4,4,4]"]
PROXY = ["module=proxy_codec", "network.channels=4", "network.latent_channels=4"]
SETTINGS = {
    "s_bfm": SLIMMABLE,
    "s_bhm": [*SLIMMABLE, "network.means=true"],
    "lss_bfm": SLIMMABLE,
    "npp": [*NPP, "module.pairs=[[1,50]]"],
    "qa_npp": [*NPP, "module.pairs=[[0.25,20],[16,80]]"],
    "proxy": PROXY,
    "proxy_small": PROXY,
    "importance": [
        *("+task@tasks.task=yolov3", "tasks.task.weights=null", "tasks.task.input_size=64"),
        *("module=importance", "module.directions=1", "network.channels=[4,4,4,4,4]"),
    ],
    "identity_proxy": ["module=proxy_imitation", "codec_loop=bpg"],
}
SCRIPT = """
import json
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback


class Keep(Callback):
    def on_train_end(self, trainer, pl_module):
        folder = Path(trainer.default_root_dir)
        torch.save(pl_module.network.state_dict(), folder / f"{trainer.global_rank}.pt")


if __name__ == "__main__":
    from vcm.cli.main import main

    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        status = main(arguments)
        if status:
            sys.exit(status)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder in which all networks were trained, by two processes."""
    folder = tmp_path_factory.mktemp("networks")
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 2)):
        (folder / part).mkdir()
        for number in range(count):
            pixels = np.kron(rng.integers(0, 256, (5, 5, 3)), np.ones((16, 16, 1))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / part / f"{number}.png")
    common = [
        *("data=training_folders", "data.train.root=train", "data.val.root=val", "data.crop_size=64"),
        *("data.batch_size=2", "data.num_workers=0", "trainer=ddp", "trainer.accelerator=cpu"),
        *("trainer.devices=2", "trainer.max_epochs=1", "+trainer.callbacks=[{_target_: keeping.Keep}]"),
    ]
    jobs = [["train", f"network={n}", f"name={n}", *SETTINGS[n], *common] for n in NETWORKS]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    (folder / "keeping.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(folder), "TORCHELASTIC_RUN_ID": "none"}
    together = programs.run_together(
        ["-W", "ignore", "keeping.py", "jobs.json"], 2, cwd=folder, timeout=500, env=environment
    )
    for done in together:
        assert done.returncode == 0, done.stderr[-5000:]
    assert sum(done.stdout.count("the model:") for done in together) == len(NETWORKS)
    return folder / "runs"


def test_every_network_has_settings_here():
    assert set(SETTINGS) == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_both_processes_have_the_same_network_in_the_end(trained, name):
    one, two = (torch.load(trained / name / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        assert tensor.dtype == two[key].dtype
        if "running_" in key:  # statistics of a process's own crops; the first one's are kept
            continue
        assert torch.equal(tensor, two[key]), key


@pytest.mark.parametrize("name", ["s_bfm", "s_bhm", "lss_bfm"])
def test_streams_of_a_model_trained_so_decode(trained, name):
    model = trained / name / "model.safetensors"
    network = load_network(model)
    assert network.update() is False  # the tables in the file are those of its weights
    state = torch.load(trained / name / "1.pt", weights_only=True)
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, 70, 90), dtype=np.uint8))
    first, second = (LearnedCodec(model=model) for _ in range(2))
    data = first.encode(image)
    assert torch.equal(first.decode(data), second.decode(data))
    assert second.encode(image) == data


@pytest.mark.parametrize("name", [n for n in NETWORKS if not n.endswith(("_bfm", "_bhm"))])
def test_other_models_load(trained, name):
    load = {"importance": load_importance}.get(name, load_preprocessor if "npp" in name else load_proxy)
    network = load(trained / name / "model.safetensors")
    assert all(p.isfinite().all() for p in network.parameters())
