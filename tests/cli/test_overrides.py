"""Overrides as users write them: `experiment=`, and settings by the names that vcm 0.1 had."""

import json
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError

import programs
from vcm.cli.errors import user_message
from vcm.cli.main import main
from vcm.cli.overrides import current_overrides, current_settings, saved_settings

EXPERIMENT = """# @package _global_
defaults:
  - override /codec: jpeg
  - override /task: mobilenet_v2
  - override /data: images

name: mine
task: {weights: null, categories: [a, b]}
codecs: {jpeg: {qualities: [20]}}
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("experiment=npp/small", "experiment/train=npp/small"),
        ("experiment=npp/small,npp/full", "experiment/train=npp/small,npp/full"),
        ("+experiment=a", "+experiment/train=a"),
        ("~experiment", "~experiment/train"),
        ("experiment/train=a", "experiment/train=a"),
        ("experiments=a", "experiments=a"),
        ("experiment", "experiment"),
        ("loop", "loop"),
        ("experiment.name=a", "experiment.name=a"),
        ("name=experiment=a", "name=experiment=a"),
        ("loop=jpeg", "codec_loop=jpeg"),
        ("~loop", "~codec_loop"),
        ("data=pictures", "data=images"),
        ("module.drawing=per_picture", "module.drawing=per_image"),
        ("++loop.workers=2", "++codec_loop.workers=2"),
        ("looping=1", "looping=1"),
        ("--multirun", "--multirun"),
        ("hydra.run.dir=a\nb", "hydra.run.dir=a\nb"),
    ],
)
def test_each_argument_becomes_what_hydra_knows(given, expected, capsys):
    assert current_overrides("train", [given]) == [expected]
    note = capsys.readouterr().err
    if expected in ("data=images", "module.drawing=per_image"):
        assert note == f"vcm train: note: {given} was renamed to {expected}.\n"
    else:
        assert note == (
            "vcm train: note: loop was renamed to codec_loop.\n" if "codec_loop" in expected else ""
        )


def test_saved_settings():
    saved = {
        "loop": {"codec": {"_target_": "vcm.codecs.BPGCodec"}},
        "module": {
            "_target_": "vcm.modules.SlimmableModule",
            "loop": "${loop}",
            "weights": {"detection": 1},
            "weight_scale": 2,
            "drawing": "per_picture",
        },
        "data": {"loop": 1, "_target_": "vcm.data.PictureDataModule"},
        "network": {"_target_": "vcm.nn.preprocessor.QuantizationAdaptiveNPP", "rates": [0.25, 16]},
    }
    assert saved_settings(saved) == {
        "codec_loop": {"codec": {"_target_": "vcm.codecs.BPGCodec"}},
        "module": {
            "_target_": "vcm.modules.SlimmableModule",
            "codec_loop": "${codec_loop}",
            "lmbda": {"detection": 1},
            "lmbda_scale": 2,
            "drawing": "per_image",
        },
        "data": {"loop": 1, "_target_": "vcm.data.ImageDataModule"},
        "network": {"_target_": "vcm.nn.preprocessor.QuantizationAdaptiveNPP", "lmbda_range": [0.25, 16]},
    }


def test_former_settings_are_renamed_where_vcm_takes_them():
    composed = {
        "module": {
            "_target_": "vcm.modules.SlimmableModule",
            "lmbda": {"detection": 1, "reconstruction": 2},
            "weights": {"detection": 3},
        },
        "codecs": {"npp_bpg": {"rates": [1], "lmbda": None, "preprocessor": {"rates": 5}}},
        "network": {"_target_": "mine.Network", "rates": [3]},
    }
    moved = []
    assert current_settings(composed, moved) == {
        "module": {
            "_target_": "vcm.modules.SlimmableModule",
            "lmbda": {"detection": 3, "reconstruction": 2},
        },
        "codecs": {"npp_bpg": {"lmbda": [1], "preprocessor": {"rates": 5}}},
        "network": {"_target_": "mine.Network", "rates": [3]},
    }
    assert moved == [
        "module.weights was renamed to module.lmbda",
        "codecs.npp_bpg.rates was renamed to codecs.npp_bpg.lmbda",
    ]


@pytest.mark.parametrize(
    ("command", "arguments", "key", "value"),
    [
        ("train", ["experiment=slimmable/two_task_small", "module.weight_scale=4"], "module.lmbda_scale", 4),
        (
            "train",
            ["experiment=slimmable/two_task_small", "module.weights.detection=7"],
            "module.lmbda",
            {"detection": 7, "reconstruction": 0.005},
        ),
        ("train", ["experiment=npp/small", "network.rates=[1,2]"], "network.lmbda_range", [1, 2]),
        ("evaluate", ["codec=[npp_bpg]", "codecs.npp_bpg.rates=[1,2]"], "codecs.npp_bpg.lmbda", [1, 2]),
        ("evaluate", ["experiment=npp_lambda", "preprocessor.rate=3"], "preprocessor.lmbda", 3),
    ],
)
def test_former_overrides_still_work(command, arguments, key, value, capsys):
    plain = [a for a in arguments if a != "experiment=npp_lambda"]
    if len(plain) < len(arguments):  # of which this test needs the preprocessor alone
        plain += ["+preprocessor={_target_: vcm.encoding.preprocessing.NPPPreprocessor, model: m, lmbda: 1}"]
        plain = plain[::-1]
    with initialize_config_module("vcm.conf", version_base="1.3"):
        composed = compose(command, current_overrides(command, plain))
    current = current_settings(OmegaConf.to_container(composed))
    found = OmegaConf.select(OmegaConf.create(current), key)
    assert (OmegaConf.to_container(found) if OmegaConf.is_config(found) else found) == value


@pytest.mark.parametrize("place", ["experiment", "experiment/evaluate"])
@pytest.mark.parametrize(
    "option", [["--config-dir", "configs"], ["--config-dir=configs"], ["-cd", "configs"]]
)
def test_an_experiment_of_a_users_own_is_found_in_either_place(
    place, option, tmp_path, monkeypatch, write_image, capsys
):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "photos/a.png", 64, 80)
    path = tmp_path / "configs" / place / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(EXPERIMENT)
    arguments = ["experiment=mine", "data.test.root=photos", "bootstrap=0"]
    assert main(["evaluate", *option, *arguments]) == 0
    assert Path("runs/mine/results.json").is_file()
    notes = capsys.readouterr().err
    moved = "experiments now belong in configs/experiment/evaluate; found mine in configs/experiment."
    assert (moved in notes) == (place == "experiment")


def test_debug_wins_over_an_experiment_in_either_place(tmp_path, monkeypatch):
    """As vcm's own experiments do, so that a debug run does not write into the real one's folder."""
    monkeypatch.chdir(tmp_path)
    defaults = "defaults: [/experiment/train/npp/small_jpeg, _self_]"
    text = f"# @package _global_\n{defaults}\ntrainer: {{max_epochs: 77}}\n"
    for place in ("experiment", "experiment/train"):
        folder = tmp_path / place.replace("/", "_") / place
        folder.mkdir(parents=True)
        (folder / "mine.yaml").write_text(text)
    shown = []
    for place in ("experiment", "experiment_train"):
        command = ["-m", "vcm", "train", "--config-dir", place, "experiment=mine"]
        done = programs.run([*command, "debug=overfit", "--cfg", "job"], check=True)
        shown.append(done.stdout)
    assert shown[0] == shown[1]
    assert yaml.safe_load(shown[0])["name"] == "overfit"
    assert yaml.safe_load(shown[0])["trainer"]["max_epochs"] != 77


def test_experiments_in_both_places_cannot_be_one_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cfg/experiment").mkdir(parents=True)
    (tmp_path / "cfg/experiment/old.yaml").write_text(EXPERIMENT)
    for value in ("old,demo", "choice(old,demo)"):
        assert main(["evaluate", "--multirun", "-cdcfg", f"experiment={value}"]) == 2
        assert "Move old.yaml from cfg/experiment" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            "defaults: [/experiment/npp/small]",
            "/experiment/npp/small was renamed to /experiment/train/npp/small",
        ),
        ("defaults: [override /loop: jpeg]", "loop was renamed to codec_loop"),
        ("loop: {workers: 1}", "There is no setting loop: loop was renamed to codec_loop"),
        ("name: ${loop}", "loop was renamed to codec_loop"),
    ],
)
def test_former_names_in_a_config_are_told(config, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cfg/experiment/train").mkdir(parents=True)
    (tmp_path / "cfg/experiment/train/mine.yaml").write_text(f"# @package _global_\n{config}\n")
    assert main(["train", "--config-dir=cfg", "experiment=mine"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "curve=webp"], "A curve needs a name: +curve@codecs.NAME="),
        (["evaluate", "+curve=webp"], "A curve needs a name: +curve@codecs.NAME="),
        (["train", "experiment/evaluate=demo"], "experiment/evaluate belongs to vcm evaluate"),
        (["train", "module.loop=null"], "There is no setting module.loop: loop was renamed to codec_loop"),
    ],
)
def test_other_forms_are_told(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_users_experiments_are_listed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cfg/experiment/evaluate").mkdir(parents=True)
    (tmp_path / "cfg/experiment/evaluate/mine.yaml").write_text(EXPERIMENT)
    assert main(["evaluate", "--config-dir=cfg", "experiment=mime"]) == 2
    assert "got mime. Did you mean mine?" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "other"), [("train", "evaluate"), ("evaluate", "train")])
def test_help_lists_the_commands_own_experiments(command, other, capsys):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if line.startswith("experiment: "))
    assert ("npp/small" in line) == (command == "train")
    assert ("demo" in line) == (command == "evaluate")
    assert f"experiment/{other}" not in shown


@pytest.mark.parametrize(
    ("command", "name", "said"),
    [
        (
            "evaluate",
            "npp/small",
            "npp/small is an experiment of vcm train. Run: vcm train experiment=npp/small",
        ),
        ("train", "demo", "demo is an experiment of vcm evaluate. Run: vcm evaluate experiment=demo"),
        ("evaluate", "demmo", "experiment must be one of demo, .*; got demmo. Did you mean demo?"),
    ],
)
def test_an_experiment_of_the_other_command_is_named(command, name, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([command, f"experiment={name}"]) == 2
    error = capsys.readouterr().err
    start, _, end = said.partition(".*")
    assert start in error
    assert end in error


def test_a_run_of_vcm_0_1_resumes(tmp_path, monkeypatch, write_image, capsys):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "photos/a.png", 64, 64)
    data = [f"data.{part}.{key}" for part in ("train", "val") for key in ("root=photos", "part=all")]
    network = ["network=qa_npp", "network.channels=[2,2,2,2]", "module=npp", "proxy=jpeg", "codec_loop=jpeg"]
    task = ["+task@tasks.task=mobilenet_v2", "tasks.task.weights=null", "+tasks.task.categories=[a,b]"]
    sizes = ["data=photo_corpus_small", "data.crop_size=64", "data.batch_size=1", "trainer=cpu", "name=old"]
    command = ["train", *network, *task, *sizes, *data, "module.pairs=[[1,20]]"]
    assert main([*command, "trainer.max_epochs=1"]) == 0, capsys.readouterr().err
    saved = Path("runs/old/config.yaml")
    content = yaml.safe_load(saved.read_text())
    content["loop"] = content.pop("codec_loop")
    assert content["module"].pop("codec_loop") == "${codec_loop}"
    content["module"]["loop"] = "${loop}"
    content["data"]["_target_"] = content["data"]["_target_"].replace("Image", "Picture")
    for part in ("train", "val"):
        content["data"][part]["_target_"] = content["data"][part]["_target_"].replace("Image", "Picture")
    saved.write_text(yaml.safe_dump(content, sort_keys=False))
    assert main([*command, "trainer.max_epochs=2"]) == 0, capsys.readouterr().err
    assert json.loads(Path("runs/old/metrics.jsonl").read_text().splitlines()[-1])["epoch"] == 1
    content["loop"]["codec"]["quality_table"] = 1
    saved.write_text(yaml.safe_dump(content, sort_keys=False))
    assert main([*command, "trainer.max_epochs=3"]) == 2
    assert "codec_loop.codec.quality_table changed" in capsys.readouterr().err


def test_curves_are_composed_of_parts():
    with initialize_config_module("vcm.conf", version_base="1.3"):
        config = compose("evaluate", ["codec=[bpg]", "+curve@codecs.mine=[webp,npp,at_reader]"])
        named = compose("evaluate", ["codec=[npp_bpg_importance_at_reader_effort10,features_effort10]"])
    mine = OmegaConf.to_container(config.codecs.mine, resolve=False)
    assert mine["codec"]["_target_"] == "vcm.codecs.WebPCodec"
    assert mine["preprocessor"]["model"] == "${npp_model}"
    assert mine["at_reader"] is True
    curve = named.codecs.npp_bpg_importance_at_reader_effort10
    assert (curve.at_reader, curve.effort, curve.importance.alpha, curve.lmbda) == (True, 10, 2.0, None)
    assert named.codecs.features_effort10.codec.effort == 10


def test_a_former_setting_that_a_sweeper_sets_is_named_by_its_present_name():
    composed = OmegaConf.create({"module": {"_target_": "vcm.modules.SlimmableModule", "lmbda_scale": 1}})
    OmegaConf.set_struct(composed, True)
    with pytest.raises(ConfigAttributeError) as error:
        OmegaConf.update(composed, "module.weight_scale", 2)
    said = "There is no setting module.weight_scale: weight_scale was renamed to lmbda_scale."
    assert user_message(error.value, "train") == said
