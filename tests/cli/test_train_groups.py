"""Groups of conf/ that Lightning users know: callbacks, logger, optimizer, scheduler, trainer, debug."""

import csv
import json
from pathlib import Path

import pytest
import torch
import vcm.conf
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from omegaconf import OmegaConf

from vcm.cli.main import main
from vcm.cli.options import register_resolvers
from vcm.config import TrainConfig
from vcm.modules import NPPModule, SlimmableModule
from vcm.nn.preprocessor import load_preprocessor

CONF = Path(vcm.conf.__file__).parent
FOLDER = Path("runs/small")


def options(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def composed(*overrides):
    register_resolvers()
    with initialize_config_module("vcm.conf", version_base="1.3"):
        config = compose("train", list(overrides))
    return OmegaConf.merge(OmegaConf.structured(TrainConfig), config)


@pytest.fixture
def npp(training):
    """A training of a preprocessor, which uses automatic optimization."""
    common = [a for a in training if not a.startswith(("network.", "module.", "+task", "tasks."))]
    task = ["+task@tasks.task=mobilenet_v2", "tasks.task.weights=null", "tasks.task.categories=[a,b]"]
    network = ["network=npp", "module=npp", "codec_loop=jpeg", "proxy=jpeg", "network.channels=[4,4,4,4]"]
    return [*common, *task, *network, "module.pairs=[[1,50]]"]


def metrics():
    return [json.loads(line) for line in (FOLDER / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["training", "npp"])
def test_loggers_callbacks_optimizer_and_scheduler_compose(kind, request, capsys):
    arguments = [a for a in request.getfixturevalue(kind) if "max_epochs" not in a]
    groups = ["logger=[csv,tensorboard]", "callbacks=default", "optimizer=adamw", "scheduler=cosine"]
    limits = ["trainer.max_steps=5", "trainer.check_val_every_n_epoch=7", "trainer.log_every_n_steps=1"]
    assert main([*arguments, *groups, *limits]) == 0, capsys.readouterr()
    assert list((FOLDER / "tensorboard").glob("events.out.tfevents.*"))
    (file,) = FOLDER.glob("csv/version_*/metrics.csv")
    with file.open(newline="") as content:
        rows = list(csv.DictReader(content))
    assert any(row.get("val/loss") for row in rows)
    assert any(row.get("train/loss") for row in rows)
    assert {path.name for path in (FOLDER / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert len(metrics()) == 1  # after the last step, which no epoch's end is
    assert metrics()[0]["lr0"] < 1e-5
    state = torch.load(FOLDER / "checkpoints/last.ckpt", weights_only=True)
    assert state["optimizer_states"][0]["param_groups"][0]["weight_decay"] == 0.01
    assert state["lr_schedulers"]


def test_what_training_leaves_loads_as_lightning_loads_it(npp):
    assert main([*npp, "callbacks=model_checkpoint"]) == 0
    config = composed(*npp[1:])
    parts = {name: instantiate(config[name]) for name in ("network", "proxy", "codec_loop")}
    task = instantiate(config.tasks.task)
    for name in ("best", "last"):
        path = FOLDER / f"checkpoints/{name}.ckpt"
        module = NPPModule.load_from_checkpoint(path, task=task, weights_only=True, **parts)
        expected = load_preprocessor(FOLDER / "model.safetensors").state_dict()
        assert module.pairs == [(1, 50)]
        for key, tensor in module.network.state_dict().items():
            assert torch.equal(tensor, expected[key]), key


def test_the_slimmable_module_loads_too(training):
    assert main(training) == 0
    config = composed(*training[1:])
    tasks = {"classification": instantiate(config.tasks.classification)}
    module = SlimmableModule.load_from_checkpoint(
        FOLDER / "checkpoints/last.ckpt",
        network=instantiate(config.network),
        tasks=tasks,
        weights_only=True,
    )
    assert module.lmbda == {"classification": 0.001, "reconstruction": 0.01}


def test_the_best_checkpoint_is_that_of_the_lowest_loss_across_a_resumed_run(npp):
    arguments = [*npp, "callbacks=model_checkpoint", "module.learning_rate=0.1"]
    assert main(arguments) == 0
    assert main([a.replace("max_epochs=1", "max_epochs=4") for a in arguments]) == 0
    losses = [line["val/loss"] for line in metrics()]
    assert len(losses) == 4
    best = torch.load(FOLDER / "checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == losses.index(min(losses))


def test_learning_rates_without_a_logger_are_skipped_with_a_line(training, capsys):
    assert main([*training, "callbacks=[lr_monitor,model_checkpoint]"]) == 0
    assert (FOLDER / "checkpoints/best.ckpt").exists()
    assert (
        "callbacks.lr_monitor: skipped, because there is no logger; add one with logger=csv"
        in capsys.readouterr().out
    )


def test_early_stopping_by_name(training):
    longer = [a.replace("max_epochs=1", "max_epochs=9") for a in training]
    stopping = ["callbacks=early_stopping", "callbacks.early_stopping.min_delta=100"]
    assert main([*longer, *stopping, "callbacks.early_stopping.patience=1"]) == 0
    assert [line["epoch"] for line in metrics()] == [0, 1]


def test_knobs_of_automatic_optimization(npp, training, capsys):
    knobs = ["trainer.gradient_clip_val=0.5", "trainer.accumulate_grad_batches=2"]
    assert main([*npp, *knobs, "name=npp", "trainer.max_epochs=3"]) == 0
    state = torch.load("runs/npp/checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 3  # two batches each
    for knob, remedy in zip(knobs, ("Use module.max_norm.", "Use data.batch_size."), strict=True):
        assert main([*training, knob]) == 2
        said = capsys.readouterr().err
        name, _, value = knob.partition("=")
        assert f"{name} must be" in said
        assert f"SlimmableModule, which uses manual optimization; got {value}" in said
        assert remedy in said


class Own(LightningModule):
    """Somebody's own module, which takes vcm's batches."""

    def __init__(self, rate=0.1):
        super().__init__()
        self.rate = rate
        self.layer = torch.nn.Conv2d(3, 3, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch.images).pow(2).mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.layer(batch.images[0][None]).pow(2).mean(), batch_size=1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.rate)


class Unfinished(LightningModule):
    def training_step(self, batch, batch_idx):
        raise AssertionError("not reached")


def test_somebodys_own_module_trains_and_resumes(training, capsys):
    common = [a for a in training if a.startswith(("train", "data", "name"))]
    own = ["~module", f"+module={{_target_: {__name__}.Own, rate: 0.2}}", "callbacks=model_checkpoint"]
    assert main([*common, *own]) == 0
    assert f"the checkpoint: {FOLDER.absolute()}/checkpoints/last.ckpt" in capsys.readouterr().out
    assert (FOLDER / "checkpoints/best.ckpt").exists()
    assert main([a.replace("max_epochs=1", "max_epochs=2") for a in common] + own) == 0
    assert [line["epoch"] for line in metrics()] == [0, 1]
    module = Own.load_from_checkpoint(FOLDER / "checkpoints/last.ckpt", weights_only=True)
    assert module.layer.weight.isfinite().all()
    assert main([*common, *own, "name=other", "start_from=x.safetensors"]) == 2
    assert "start_from must be null for Own, which has no start_from(path)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            f"{__name__}.Unfinished",
            "module must be a module that defines configure_optimizers; got 'Unfinished'",
        ),
        ("pathlib.Path", "module must be a lightning.LightningModule; got PosixPath"),
    ],
)
def test_what_cannot_train_is_refused_before_the_first_step(training, target, message, capsys):
    common = [a for a in training if a.startswith(("train", "data", "name"))]
    assert main([*common, "~module", f"+module={{_target_: {target}}}"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_a_training_that_its_time_ends_is_validated(npp):
    arguments = [a for a in npp if "max_epochs" not in a]
    limits = ["trainer.max_time=00:00:00:01", "trainer.check_val_every_n_epoch=1000000"]
    assert main([*arguments, *limits]) == 0
    assert len(metrics()) == 1
    assert metrics()[0]["val/loss"] > 0


def test_a_longer_training_goes_on_along_its_cosine(npp):
    rates = []
    for epochs in (2, 4):
        arguments = [a.replace("max_epochs=1", f"max_epochs={epochs}") for a in npp]
        assert main([*arguments, "scheduler=cosine", "module.learning_rate=1e-3"]) == 0
        state = torch.load(FOLDER / "checkpoints/last.ckpt", weights_only=True)
        rates.append(state["optimizer_states"][0]["param_groups"][0]["lr"])
    assert rates == pytest.approx([0, 0], abs=1e-12)
    # 2 batches an epoch: after 5 or 6 of the 8 steps
    assert metrics()[2]["lr0"] < 1e-3 * 0.35


@pytest.mark.parametrize("name", options("optimizer"))
def test_every_optimizer_has_its_options_and_takes_steps(npp, name):
    assert main([*npp, f"optimizer={name}", "module.learning_rate=3e-4"]) == 0
    state = torch.load(FOLDER / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]
    expected = OmegaConf.to_container(composed(f"optimizer={name}").optimizer)
    target = expected.pop("_target_"), expected.pop("_partial_")
    assert target == (f"torch.optim.{ {'adam': 'Adam', 'adamw': 'AdamW', 'sgd': 'SGD'}[name] }", True)
    (group,) = state["param_groups"]
    assert group["lr"] == 3e-4
    assert {key: list(v) if isinstance(v := group[key], tuple) else v for key in expected} == expected
    assert state["state"]


@pytest.mark.parametrize("name", options("scheduler"))
@pytest.mark.parametrize("kind", ["training", "npp"])
def test_every_scheduler_is_stepped(name, kind, request):
    changes = {
        "cosine_warmup": ["scheduler.warmup_steps=2"],
        "multistep": ["scheduler.milestones=[1]"],
        "plateau": ["scheduler.scheduler.patience=0", "+scheduler.scheduler.threshold=10"],
        "step": ["scheduler.step_size=1"],
    }
    arguments = [a.replace("max_epochs=1", "max_epochs=3") for a in request.getfixturevalue(kind)]
    arguments.append("module.learning_rate=1e-5")
    assert main([*arguments, f"scheduler={name}", *changes.get(name, [])]) == 0
    state = torch.load(FOLDER / "checkpoints/last.ckpt", weights_only=True)
    rate = state["optimizer_states"][0]["param_groups"][0]["lr"]
    assert rate < 1e-5 or name == "one_cycle"
    (scheduler,) = state["lr_schedulers"]
    # 3 epochs of 2 batches each
    per_batch = name in ("cosine", "cosine_warmup", "one_cycle")
    assert scheduler["last_epoch"] == (6 if per_batch else 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("scheduler={_target_: builtins.dict, _partial_: true}", "scheduler must be a "),
        ("optimizer={_target_: builtins.dict, _partial_: true}", "optimizer must be an optimizer that takes"),
        ("optimizer={_target_: torch.optim.Adam, _partial_: true, beta: 1}", "unexpected keyword argument"),
        ("optimizer={_target_: builtins.int}", "optimizer must be null or a class or _partial_"),
        ("logger={x: {_target_: pathlib.Path}}", "logger.x must be {_target_: …} that creates a lightning."),
        ("callbacks={x: {_target_: pathlib.Path}}", "callbacks.x must be {_target_: …} that creates a light"),
    ],
)
def test_what_is_no_optimizer_scheduler_logger_or_callback_is_told(npp, given, message, capsys):
    name, _, value = given.partition("=")
    arguments = [*npp, f"~{name}", f"+{name}={value}"] if name == "optimizer" else [*npp, f"++{given}"]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", options("callbacks"))
def test_every_callback_is_built(name):
    config = composed(f"callbacks={name}", "module.lmbda={}")
    made = [instantiate(part) for part in config.callbacks.values()]
    assert made
    assert all(isinstance(callback, Callback) for callback in made)


def test_callbacks_by_default():
    made = [instantiate(part) for part in composed("callbacks=default").callbacks.values()]
    assert len(made) == 3
    assert any(isinstance(callback, ModelCheckpoint) for callback in made)


@pytest.mark.parametrize("name", options("logger"))
def test_every_logger_composes(name):
    for part in composed(f"logger={name}").logger.values():
        assert part._target_.startswith("lightning.pytorch.loggers.")


@pytest.mark.parametrize("name", options("trainer"))
def test_every_trainer_composes(name, monkeypatch):
    monkeypatch.setenv("SLURM_NNODES", "3")
    plan = OmegaConf.to_container(composed(f"trainer={name}").trainer, resolve=True)
    assert plan["_target_"] == "lightning.Trainer"
    assert plan["num_nodes"] == (3 if name == "slurm" else 1)


@pytest.mark.parametrize("name", options("debug"))
def test_every_debug_mode_runs(npp, name, capsys):
    limits = ["trainer.max_epochs=2"] if name == "overfit" else []
    arguments = [a for a in npp if not a.startswith(("name", "trainer.max_epochs"))]
    assert main([*arguments, f"debug={name}", *limits]) == 0
    said = capsys.readouterr().out
    assert "nothing was saved" in said if name == "fast_dev_run" else "the model: " in said
    if name == "profiler":
        assert "run_training_batch" in Path("runs/profile/fit-profile.txt").read_text()
