"""Preprocessors of `vcm evaluate`: of every curve, of one, and of none."""

import json
from pathlib import Path

import pytest
import torch
import vcm.conf
from omegaconf import OmegaConf

import programs
from vcm.cli.pipelines import NPP_TARGET, build_codecs, build_preprocessors
from vcm.codecs import SlimmableFeatureCodec
from vcm.config import CodecPlan
from vcm.errors import ArgumentError, EvaluationError
from vcm.nn.preprocessor import NPP, QuantizationAdaptiveNPP, save_preprocessor

FOLDER = Path(vcm.conf.__file__).parent / "codec"
QUALITIES = [44, 37, 25]
OTHERS = """
import torch

class Darker:
    def __init__(self, by=2):
        self.by = by
    def __call__(self, image):
        return image // self.by
    def settings(self):
        return {"darker": self.by}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    pairs = json.dumps({"codec": "bpg", "pairs": [[0.25, 44], [1, 37], [16, 25]]})
    torch.manual_seed(0)
    for name, network in (("one", NPP((2, 2, 2, 2))), ("many", QuantizationAdaptiveNPP((2, 2, 2, 2)))):
        torch.nn.init.normal_(network.head[-1].weight, std=0.3)
        save_preprocessor(network, folder / f"{name}.safetensors", pairs=pairs)
    return folder


@pytest.fixture
def curve(models):
    """`curve(codec=…, model=…, …)`: the preprocessors of a curve."""

    def curve(codec="vcm.codecs.BPGCodec", model=None, default=None, **settings):
        if model is not None:
            settings["preprocessor"] = {"_target_": NPP_TARGET, "model": str(models / f"{model}.safetensors")}
        plan = OmegaConf.merge(
            OmegaConf.structured(CodecPlan),
            {"codec": {"_target_": codec}, "qualities": QUALITIES, **settings},
        )
        return build_preprocessors("mine", plan, default, build_codecs("mine", plan))

    return curve


def test_each_quality_has_its_rate_and_all_share_the_network(curve):
    built = curve(model="many")
    assert [preprocessor.lmbda for preprocessor in built] == pytest.approx([0.25, 1, 16])
    assert len({id(preprocessor.network) for preprocessor in built}) == 1
    assert [preprocessor.lmbda for preprocessor in curve(model="one")] == [None] * 3


def test_rates_of_ones_own(curve, models):
    given = [1, 2.5, 16]
    assert [p.lmbda for p in curve(codec="vcm.codecs.JPEGCodec", model="many", lmbda=given)] == given
    plan = {"_target_": NPP_TARGET, "model": str(models / "many.safetensors"), "lmbda": 4}
    assert [p.lmbda for p in curve(preprocessor=plan)] == [4] * 3


def test_a_curves_own_preprocessor_goes_before_everyones(curve, models, tmp_path, monkeypatch):
    (tmp_path / "others.py").write_text(OTHERS)
    monkeypatch.syspath_prepend(tmp_path)
    darker = {"_target_": "others.Darker", "by": 3}
    assert [p.settings() for p in curve(default=darker)] == [{"darker": 3}] * 3
    assert [p.settings() for p in curve(preprocessor=darker, default={"_target_": "no.where"})] == [
        {"darker": 3}
    ] * 3
    assert [p.lmbda for p in curve(model="many", default=darker)] == pytest.approx([0.25, 1, 16])
    assert curve() == [None] * 3
    with pytest.raises(ArgumentError, match=r"mine\.lmbda must be null"):
        curve(preprocessor=darker, lmbda=[1, 2, 3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "many", "lmbda": [1, 2]}, r"mine\.lmbda must be .* each of the 3 qualities; got \[1, 2\]"),
        ({"lmbda": [1, 2, 4]}, r"codecs\.mine\.lmbda must be null, or, with an NPPPreprocessor"),
        ({"model": "many", "lmbda": [1, 2, 17]}, r"mine: lmbda must be a number from 0\.25 to 16.*got 17"),
        ({"model": "one", "lmbda": [1, 2, 4]}, r"codecs\.mine: lmbda must be None"),
        ({"model": "many", "codec": "vcm.codecs.JPEGCodec"}, r"mine: lmbda must be .*codecs\.NAME\.lmbda"),
        ({"model": "none"}, r"codecs\.mine: .*none\.safetensors cannot be read as a model"),
        ({"preprocessor": {"_target_": "no.where"}}, r"codecs\.mine: .*no\.where"),
        ({"preprocessor": {"_target_": NPP_TARGET, "model": None}}, r"mine: model must be .*npp_model="),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_told(curve, settings, message):
    with pytest.raises((ArgumentError, EvaluationError), match=message):
        curve(**settings)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("npp_*.yaml")))
def test_curves_with_a_preprocessor_code_as_those_without(name, curve_plan):
    plan, plain = curve_plan(name), curve_plan(name.removeprefix("npp_"))
    assert (plan["codec"], plan["qualities"]) == (plain["codec"], plain["qualities"])
    assert plan["preprocessor"]["_target_"] == NPP_TARGET


def test_a_codec_of_features_takes_none(curve):
    codecs = [object.__new__(SlimmableFeatureCodec)]
    plan = OmegaConf.structured(CodecPlan(codec={}, qualities=[1]))
    assert build_preprocessors("features", plan, {"_target_": "no.where"}, codecs) == [None]
    plan.preprocessor = {"_target_": NPP_TARGET}
    with pytest.raises(ArgumentError, match="this codec encodes features"):
        build_preprocessors("features", plan, None, codecs)


@pytest.mark.parametrize(
    ("task", "asset", "file", "metric"),
    [
        ("yolov3_tiny", "yolov3-tiny", "yolov3-tiny.weights", "map"),
        ("mobilenet_v2", "mobilenet-v2", "mobilenet_v2-b0353104.pth", "top_1"),
    ],
)
def test_a_codec_with_and_without(models, asset_path, tmp_path, task, asset, file, metric):
    asset_path("coco-sample", "images")
    asset_path(asset, file)
    done = programs.run(
        ["-m", "vcm", "evaluate", f"task={task}", "codec=[jpeg,npp_jpeg,npp_bpg]",
         "codecs.jpeg.qualities=[10,50]", "codecs.npp_jpeg.qualities=[10,50]", "codecs.npp_jpeg.lmbda=[1,4]",
         "codecs.npp_bpg.qualities=[37]", "codecs.npp_bpg.codec.preset=ultrafast", "data.test.limit=2",
         f"npp_model={models / 'many.safetensors'}", "labels=[pseudo]"],
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "runs/evaluate/results.json").read_text())
    points = {(point["system"], point["quality"]): point for point in results["points"]}
    assert {point["title"] for point in points.values()} == {"JPEG", "NPP + JPEG", "NPP + BPG"}
    assert points["jpeg", 10]["num_bytes"] != points["npp_jpeg", 10]["num_bytes"]
    assert all(point["accuracy"][metric] is not None for point in points.values())
    systems = json.loads((tmp_path / "runs/evaluate/provenance.json").read_text())["systems"]
    assert [(system["preprocessor"] or {}).get("rate") for system in systems] == [None, None, 1, 4, 1]
