"""conf/experiment: every file composes and builds what it names; the small ones take a step."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import vcm.conf
from hydra import compose, initialize_config_module
from hydra.utils import get_object, instantiate
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from vcm.cli.main import main
from vcm.cli.options import register_resolvers
from vcm.config import EvaluateConfig, TrainConfig
from vcm.data import ImageDataModule
from vcm.modules.base import NetworkModule
from vcm.nn.preprocessor import QuantizationAdaptiveNPP, load_preprocessor, save_preprocessor
from vcm.nn.proxy import LearnedProxy, save_proxy
from vcm.nn.serialization import read_notes
from vcm.tasks import YOLOTask

FOLDER = Path(vcm.conf.__file__).parent / "experiment"
TRAINED, EVALUATED = (
    sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    for folder in (FOLDER / "train", FOLDER / "evaluate")
)
NAMES = [*TRAINED, *EVALUATED]
SMALL = [name for name in TRAINED if "small" in name]
NEEDS_WEIGHTS = ("yolov3", "fcos", "resnet50")  # what no package has, or only torch's hub


@pytest.fixture
def settings(tmp_path, monkeypatch, asset_path):
    """`settings(name)`: images, weights and models in the places of those that an experiment wants."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 2), ("val", 1)):
        (tmp_path / part).mkdir()
        for number in range(count):
            pixels = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    register_resolvers()

    def overrides(name):
        if name in EVALUATED:
            return []
        content = composed(name)
        given = [f"data.{part}.root={tmp_path}/{part}" for part in ("train", "val")]
        if "part" in content.data.train:
            given += ["data.train.part=all", "data.val.part=all"]
        for task, plan in content.tasks.items():
            kind = Path(str(plan.get("cfg") or plan.architecture)).stem
            needed = OmegaConf.to_container(plan)["weights"]
            if "asset:" in needed:
                asset_path(*needed.removeprefix("${asset:").removesuffix("}").split(","))
            else:
                assert kind in NEEDS_WEIGHTS
                given.append(f"tasks.{task}.weights=null")
        if "path" in (content.proxy or {}):
            codec = content.codec_loop.codec._target_.rpartition(".")[2].removesuffix("Codec").lower()
            save_proxy(LearnedProxy(codec, (22, 44), channels=4), tmp_path / "proxy.safetensors")
            given.append(f"proxy.path={tmp_path}/proxy.safetensors")
        return given

    return overrides


def composed(name: str, *overrides: str) -> DictConfig:
    """What `vcm train` or `vcm evaluate` makes of it, checked against the schema."""
    return _composed(name, *overrides).copy()


@cache
def _composed(name: str, *overrides: str) -> DictConfig:
    command, schema = ("train", TrainConfig) if name in TRAINED else ("evaluate", EvaluateConfig)
    with initialize_config_module("vcm.conf", version_base="1.3"):
        config = compose(command, [f"experiment/{command}={name}", *overrides])
    merged = OmegaConf.merge(OmegaConf.structured(schema), config)
    assert isinstance(merged, DictConfig)
    return merged


def targets(content: object) -> list[str]:
    """Everything that a configuration builds, by its path."""
    if isinstance(content, dict):
        own = [content["_target_"]] if "_target_" in content else []
        return own + [target for value in content.values() for target in targets(value)]
    return [target for value in content for target in targets(value)] if isinstance(content, list) else []


def test_there_are_experiments_of_each_kind():
    assert {name.partition("/")[0] for name in NAMES} >= {"slimmable", "proxy", "npp", "demo"}
    assert len(SMALL) >= 8


def test_no_two_leave_their_results_in_one_folder():
    assert len({composed(name).run_dir for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_composes_of_things_that_there_are(name):
    found = targets(OmegaConf.to_container(composed(name), resolve=False))
    assert found
    assert all(callable(get_object(target)) for target in found)


@pytest.mark.parametrize("name", TRAINED)
def test_builds_what_is_trained(name, settings):
    config = composed(name, *settings(name))
    module = instantiate(config.module)
    assert isinstance(module, NetworkModule)
    assert any(p.requires_grad for p in module.network.parameters())
    data = instantiate(config.data)
    assert isinstance(data, ImageDataModule)
    assert len(data.train_dataset) == 2
    if config.trainer.accelerator != "gpu":
        assert isinstance(instantiate(config.trainer), Trainer)


@pytest.mark.parametrize("name", SMALL)
def test_small_ones_take_a_step(name, settings, tmp_path, capsys):
    start = composed(name).start_from
    if start is not None:
        network = instantiate(composed(name).network)
        Path(start).parent.mkdir(parents=True)
        save_proxy(network, start)
    limits = ["trainer.max_epochs=1", "trainer.max_time=null", "+trainer.limit_train_batches=1"]
    sizes = ["data.crop_size=64", "data.batch_size=2", "trainer.check_val_every_n_epoch=1"]
    assert main(["train", f"experiment={name}", *settings(name), *limits, *sizes]) == 0, capsys.readouterr()
    file = tmp_path / "runs" / composed(name).name / "model.safetensors"
    assert "tasks" in read_notes(file)


@pytest.mark.parametrize("name", TRAINED)
def test_every_one_runs_for_a_batch(name, settings, tmp_path, capsys):
    given = [*settings(name), "trainer.fast_dev_run=true", "data.num_workers=0"]
    given += ["data.crop_size=64", "data.batch_size=2"]
    for task, plan in composed(name).tasks.items():  # large inputs take a minute
        given += [f"tasks.{task}.min_size=128"] if "min_size" in plan else []
        given += [f"tasks.{task}.input_size=128"] if plan.get("cfg") == "yolov3" else []
    if composed(name).start_from is not None:
        save_proxy(instantiate(composed(name).network), tmp_path / "start.safetensors")
        given.append(f"start_from={tmp_path}/start.safetensors")
    given += ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.strategy=auto"]
    assert main(["train", f"experiment={name}", *given]) == 0, capsys.readouterr()
    assert "fast_dev_run: training and validation ran" in capsys.readouterr().out
    left = {path.name for path in (tmp_path / "runs").rglob("*.*")}
    assert left <= ({"sweep.json", "multirun.yaml"} if name.startswith("sweep/") else set())


def test_a_fine_tuned_task_is_what_the_files_say_of_it(settings, tmp_path):
    save_preprocessor(QuantizationAdaptiveNPP((2, 2, 2, 2)), tmp_path / "npp.safetensors")
    text = (FOLDER / "train/npp/finetune_task_small.yaml").read_text()
    (rates,) = (line for line in text.splitlines() if "module.lmbda=" in line)
    target = f"{load_preprocessor.__module__}.{load_preprocessor.__name__}"
    preprocessor = f"module.preprocessor={{_target_: {target}, path: {tmp_path}/npp.safetensors}}"
    name = "npp/finetune_task_small"
    module = instantiate(composed(name, *settings(name), preprocessor, rates.strip("# ")).module)
    assert [rate for rate, _ in module.points] == [0.25, 0.5, 1, 2, 4, 8, 16]
    with torch.no_grad():
        next(module.network.parameters()).mul_(2)
    module.save_model(tmp_path / "tuned.safetensors")
    with initialize_config_module("vcm.conf", version_base="1.3"):
        config = compose("evaluate", ["task=fine_tuned", f"task.weights={tmp_path}/tuned.safetensors"])
    task = instantiate(config.task)
    assert isinstance(task, YOLOTask)
    assert task.settings()["weights_sha256"] not in ("", module.network.settings()["weights_sha256"])
    with initialize_config_module("vcm.conf", version_base="1.3"):
        config = compose("evaluate", ["task=fine_tuned", "task@task.task=fcos", "task.weights=x"])
    assert config.task.task.architecture == "fcos"


def test_labelled_images_to_train_on(asset_path):
    images, annotations = (asset_path("coco-sample", name) for name in ("images", "instances.json"))
    given = [
        f"data.{part}.{key}={path}"
        for part in ("train", "val")
        for key, path in (("images", images), ("annotations", annotations))
    ]
    data = instantiate(
        composed(
            "npp/small_jpeg", "data=coco_training", *given, "data.batch_size=2", "data.num_workers=0"
        ).data
    )
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert all(len(target.boxes) == len(target.labels) for target in batch.targets)
    assert len(data.train_dataset) == 65  # those with labels
