"""`vcm train`, from composing to the model file, on small images and an untrained classifier."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from lightning import Trainer
from omegaconf import OmegaConf

import programs
from vcm.cli.main import main
from vcm.codecs import LearnedCodec
from vcm.nn.serialization import read_notes
from vcm.nn.slimmable import load_network

EXPERIMENTS = ["two_task", "two_task_full", "three_task", "baseline"]
EXPERIMENTS += ["two_task_small", "two_task_heads_small", "three_task_small", "baseline_small"]


def test_trains_writes_resumes_and_refuses_other_settings(training, tmp_path, capsys):
    assert main(training) == 0
    folder = tmp_path / "runs" / "small"
    assert f"the model: {folder}/model.safetensors" in capsys.readouterr().out
    first = load_network(folder / "model.safetensors")
    assert first.tasks == ("classification", "reconstruction")
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    codec = LearnedCodec(model=folder / "model.safetensors")
    assert codec.decode(codec.encode(image)).shape == image.shape
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1

    longer = [a.replace("max_epochs=1", "max_epochs=3") for a in training]
    assert main(longer) == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert load_network(folder / "model.safetensors").weights_sha256() != first.weights_sha256()

    assert main([*training, "module.lmbda_scale=2"]) == 2
    told = capsys.readouterr().err
    assert f"Cannot resume {folder}: module.lmbda_scale changed (1 -> 2). Use a new run_dir" in told
    assert main([*training[:-1], "name=next", f"start_from={folder}/model.safetensors"]) == 0
    assert main([*training[:-1], "name=third", "start_from=nowhere.safetensors"]) == 2
    assert "nowhere.safetensors cannot be read as a model" in capsys.readouterr().err


def test_a_model_notes_its_tasks_without_folders_of_this_machine(training):
    assert main([*training, "tasks.classification.architecture=${file_name:mobilenet_v2}"]) == 0
    note = json.loads(read_notes("runs/small/model.safetensors")["tasks"])
    assert note["classification"]["architecture"] == "${file_name:mobilenet_v2}"  # as ${asset:…} is


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["~module.lmbda.classification"], "lmbda must be one number each for classification"),
        (["network.widths={classification: 6, reconstruction: 4}"], "strictly ascending"),
        (["~network.widths.classification"], "classification has a feature map but no width"),
        (["~tasks.classification"], "tasks must be one each for classification"),
        (["module.lmbda.reconstruction=0"], "lmbda.reconstruction must be a number above 0"),
        (["tasks.classification.cut=nowhere"], "cut must be one of"),
        (["data.train.root=missing"], "missing"),
        (["network=nothing"], "s_bfm, s_bhm; got nothing"),
        (["module.nothing=1"], "There is no setting module.nothing."),
        (
            ["module.lmdba.classification=1"],
            "There is no setting module.lmdba. Did you mean module.lmbda?",
        ),
        (["trainer.limt_val_batches=1"], "Did you mean trainer.limit_val_batches?"),
        (["trainer.detect_anomaly=true"], "Add it with +trainer.detect_anomaly=…"),
        (["+trainer.limt_val_batches=1"], "Did you mean limit_val_batches?"),
        (
            ["trainer=cpuu"],
            "cpu, ddp, ddp_cpu, default, gpu, half_hour, slurm; got cpuu. Did you mean cpu?",
        ),
        (["data.val.root=it's=1"], """'data.val.root="it'"'"'s=1"'"""),
        (["experiment=slimable/two_task_small"], "Did you mean slimmable/two_task_small?"),
        (["data.val.root=k=1"], """again for the shell: 'data.val.root="k=1"'"""),
        (
            ["experiment=npp/small", "proxy=null"],
            "A config group cannot be null. Use GROUP=OPTION",
        ),
    ],
)
def test_what_cannot_be_trained_is_told(training, changes, message, capsys):
    assert main([*training, *changes]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_missing_values_are_told_with_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train"]) == 2
    assert "vcm train" in capsys.readouterr().err


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_compose(name):
    with initialize_config_module("vcm.conf", version_base="1.3"):
        config = compose("train", [f"experiment/train=slimmable/{name}"], return_hydra_config=False)
    content = OmegaConf.to_container(config, resolve=False)
    widths = content["network"]["widths"]
    full = 64 if name.endswith("small") else 192
    assert widths["reconstruction"] == full
    assert set(content["module"]["lmbda"]) == set(widths)
    machine = set(widths) - {"reconstruction"}
    assert set(content["network"]["features"] or {}) == set(content["tasks"]) == machine
    assert list(widths.values()) == sorted(widths.values())
    assert len(widths) == {"base": 1, "two_": 2, "thre": 3}[name[:4]]


def test_every_experiment_is_tested():
    folder = Path(__file__).parents[2] / "conf" / "experiment" / "train" / "slimmable"
    assert sorted(path.stem for path in folder.glob("*.yaml")) == sorted(EXPERIMENTS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_goes_on(training, tmp_path, number):
    process = programs.Program(["-m", "vcm", *training[:-2], "trainer.max_epochs=500", "name=small"])
    metrics = tmp_path / "runs" / "small" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 2):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.told()
        time.sleep(0.02)
    process.send_signal(number)
    process.wait(60)
    _, said = process.told()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert f"stopped; run the same command to resume from {metrics.parent}/checkpoints/last.ckpt" in said
    epochs = [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()]
    assert main([*training[:-2], f"trainer.max_epochs={epochs[-1] + 2}", "name=small"]) == 0
    after = [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()]
    assert after[-1] == epochs[-1] + 1
    assert after[len(epochs)] in (epochs[-1], epochs[-1] + 1)


def test_a_lightning_whose_fit_takes_no_weights_only_trains(training, monkeypatch):
    whole = Trainer.fit

    def fit(self, model, datamodule=None, ckpt_path=None):  # as of Lightning 2.4 and 2.5
        whole(self, model, datamodule=datamodule, ckpt_path=ckpt_path)

    monkeypatch.setattr(Trainer, "fit", fit)
    assert main(training) == 0
