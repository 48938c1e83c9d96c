"""What `vcm evaluate` is made of, on settings and names that a hostile user would give."""

import pytest
from hydra.errors import InstantiationException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vcm.cli.devices import choose_device
from vcm.cli.errors import user_message
from vcm.cli.evaluate import print_results
from vcm.cli.pipelines import build
from vcm.codecs import Codec
from vcm.config import EvaluateConfig
from vcm.errors import ArgumentError
from vcm.evaluation.points import Point
from vcm.evaluation.results import ImageFailure, Results


def test_part_of_another_kind_is_told():
    codec = build("codec", {"_target_": "vcm.codecs.JPEGCodec"}, Codec, quality=7)
    assert codec.quality == 7
    with pytest.raises(ArgumentError, match=r"codec must be .*vcm\.codecs\.Codec; got .*builtins\.dict"):
        build("codec", {"_target_": "builtins.dict"}, Codec, quality=7)
    with pytest.raises(InstantiationException) as raised:
        build("codec", {"_target_": "nowhere.Codec"}, Codec)
    assert "nowhere.Codec" in user_message(raised.value)


@pytest.mark.parametrize("name", ["meta", "mps", "cuda:99", "gpu", ""])
def test_device_that_is_not_here(name):
    with pytest.raises(ArgumentError, match="device must be"):
        choose_device(name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": "truth"}, "labels must be a list: labels=[…]"),
        ({"workers": 1.5}, "workers: Value '1.5'"),
        ({"name": None}, "name: "),
    ],
)
def test_setting_of_another_kind_is_told_by_name(settings, message):
    with pytest.raises(OmegaConfBaseException) as raised:
        OmegaConf.merge(OmegaConf.structured(EvaluateConfig), settings)
    assert user_message(raised.value).startswith(message)


def test_run_folder_that_hydra_cannot_make_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file") as raised:
        (tmp_path / "file/run").mkdir(parents=True)
    assert user_message(raised.value).endswith("Choose another run_dir.")
    assert user_message(ValueError("a bug")) is None


def test_names_are_no_markup(capsys, tmp_path):
    point = Point("[/jpeg]", "JPEG", 5, "pseudo", 1, 1, 1, 8.0, 8.0, 30.0, None, {"map": 0.5})
    results = Results(
        name="[/x]",
        kind="detection",
        task={"name": "[red]t"},
        data={"num_images": 1},
        points=[point],
        originals={"pseudo": {"map": None}},
        failures=[ImageFailure("[/i].png", "", "[/bad]")],
    )
    print_results(results, tmp_path)
    printed = capsys.readouterr()
    assert "[/x]: [red]t" in printed.out
    assert "[/jpeg]" in printed.out
    assert "[/i].png" in printed.err


def test_unknown_option_is_told_with_those_there_are():
    error = MissingConfigException("In 'evaluate': Could not find 'codec/jpg'", "codec/jpg")
    assert user_message(error).startswith("codec must be one of avif, avif_at_reader, bpg")
