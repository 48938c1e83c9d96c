"""`vcm evaluate` with codecs that know their reader: config groups, records, and settings that do not fit."""

import json
from pathlib import Path

import pytest
import torch
import vcm.conf
from hydra.utils import instantiate
from omegaconf import OmegaConf

import programs
from thin import thin_yolov3
from vcm.cli.codecs import installed_codecs
from vcm.cli.options import register_resolvers
from vcm.cli.pipelines import build_codecs, build_pipelines
from vcm.codecs import SlimmableFeatureCodec
from vcm.config import CodecPlan
from vcm.encoding.reader import NETWORK_ALPHA, Importance
from vcm.encoding.search import ImageSearch
from vcm.errors import ArgumentError, EvaluationError
from vcm.tasks import YOLOTask

FOLDER = Path(vcm.conf.__file__).parent / "codec"
FEATURES = ("features", "features_effort10")
GROUPS = sorted([*FOLDER.glob("*_at_reader*.yaml"), FOLDER / "bpg_importance.yaml"])


def system(tmp_path, codec="vcm.codecs.BPGCodec", **settings):
    torch.manual_seed(0)
    task = YOLOTask(thin_yolov3(tmp_path), None, input_size=64)
    content = {"codec": {"_target_": codec}, "qualities": [37], **settings}
    plan = OmegaConf.merge(OmegaConf.structured(CodecPlan), content)
    return build_pipelines("mine", plan, build_codecs("mine", plan), [None], task)[0]


@pytest.mark.parametrize("name", [path.stem for path in GROUPS])
def test_groups_code_as_the_codec_alone(name, curve_plan):
    plan = curve_plan(name)
    base = name.removesuffix("_effort10").removesuffix("_at_reader")
    base = base.removesuffix("_network").removesuffix("_importance")
    plain = curve_plan(base)
    for key, value in plain.items():
        assert plan[key] == value
    assert plan.get("at_reader", False) == ("_at_reader" in name)
    assert ("importance" in plan) == ("_importance" in name)
    if "importance" in plan:
        given = dict(plan["importance"])
        network = given.pop("network")
        assert (network is not None) == ("_importance_network" in name)
        if network is not None:
            assert given.pop("alpha") == NETWORK_ALPHA
            register_resolvers()
            assert instantiate(OmegaConf.create(network)).input_size == 416
        assert Importance(**given) == Importance()  # the defaults of Python
    assert plan.get("effort", 0) == 10 * name.endswith("_effort10")
    assert ImageSearch(10, **plan.get("search", {})) == ImageSearch(10)
    OmegaConf.merge(OmegaConf.structured(CodecPlan), plan)


def test_codecs_are_listed_once():
    names = [name for name, _ in installed_codecs()]
    assert "bpg" in names
    assert not [name for name in names if "reader" in name or "importance" in name or "effort" in name]
    assert sorted(names) == sorted(set(names))


def test_plans_become_systems(tmp_path):
    plain = system(tmp_path)
    assert (plain.encoder.at_reader, plain.encoder.importance) == (False, None)
    both = system(tmp_path, at_reader=True, importance={"alpha": 2, "block": 16})
    assert both.encoder.at_reader
    assert both.encoder.importance == Importance(alpha=2, block=16)
    other = {
        "_target_": "vcm.tasks.YOLOTask",
        "cfg": str(thin_yolov3(tmp_path)),
        "weights": None,
        "input_size": 96,
    }
    assert system(tmp_path, importance={"task": other}).encoder.importance.task.input_size == (96, 96)
    assert plain.encoder.search is None
    assert system(tmp_path, effort=3).encoder.search == ImageSearch(3)
    search = system(tmp_path, effort=3, search={"task": other, "weight": 2, "cache": "kept"}).encoder.search
    assert (search.effort, search.weight, search.cache) == (3, 2, "kept")
    assert search.task.input_size == (96, 96)
    assert system(tmp_path, effort=0, search={"weight": 2}).encoder.search is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"importance": {"alpha": -1}}, r"codecs\.mine: alpha must be a finite number of at least 0; got -1"),
        ({"importance": {"beta": 1}}, r"codecs\.mine\.importance: .*beta"),
        ({"effort": -1}, r"codecs\.mine: effort must be a whole number from 0 to 10000; got -1"),
        ({"effort": 1, "search": {"beta": 1}}, r"codecs\.mine\.search: .*beta"),
        (
            {"effort": 1, "codec": "vcm.codecs.JPEGCodec"},
            r"codecs\.mine: effort must be 0, because the search",
        ),
        ({"importance": {}, "codec": "vcm.codecs.JPEGCodec"}, r"codecs\.mine: importance must be null"),
    ],
)
def test_what_does_not_fit_is_told(settings, message, tmp_path):
    with pytest.raises((ArgumentError, EvaluationError), match=message):
        system(tmp_path, **settings)


@pytest.mark.parametrize("settings", [{"at_reader": True}, {"importance": {}}, {"effort": 1}])
def test_a_codec_of_features_takes_neither(settings):
    plan = OmegaConf.structured(CodecPlan(codec={}, qualities=[1], **settings))
    (option,) = settings
    message = rf"codecs\.mine\.{option} must be (false|null|0): this codec encodes features"
    with pytest.raises(ArgumentError, match=message):
        build_pipelines("mine", plan, [object.__new__(SlimmableFeatureCodec)], [None], None)


def evaluate(folder, *codecs, task="yolov3_tiny"):
    settings = [f"codecs.{name}.{x}" for name in codecs for x in ("qualities=[37]", "codec.preset=ultrafast")]
    done = programs.run(
        ["-m", "vcm", "evaluate", f"task={task}", f"codec=[{','.join(codecs)}]", *settings,
         "data.test.limit=2", "labels=[pseudo]", "examples=1"],
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "runs/evaluate/results.json").read_text())
    return {point["system"]: point for point in results["points"]}


@pytest.mark.parametrize(
    ("task", "asset", "file"),
    [
        ("yolov3_tiny", "yolov3-tiny", "yolov3-tiny.weights"),
        ("mobilenet_v2", "mobilenet-v2", "mobilenet_v2-b0353104.pth"),
    ],
)
def test_end_to_end(asset_path, tmp_path, task, asset, file):
    asset_path("coco-sample", "images")
    asset_path(asset, file)
    evaluate(tmp_path, "bpg", task=task)
    records = {path.name: path.read_bytes() for path in (tmp_path / "runs/evaluate/records").glob("*.jsonl")}
    names = [
        "bpg",
        "bpg_at_reader",
        "bpg_importance",
        "bpg_importance_at_reader",
        "npp_bpg_importance_at_reader",
    ]
    points = evaluate(tmp_path, *names, task=task)
    for name, content in records.items():  # earlier records keep their key
        assert (tmp_path / "runs/evaluate/records" / name).read_bytes() == content
    assert {point["title"] for point in points.values()} == {
        "BPG", "BPG at the reader's size", "BPG, importance QP", "BPG at the reader's size, importance QP",
        "NPP + BPG at the reader's size, importance QP",
    }  # fmt: skip
    assert len({point["num_bytes"] for point in points.values()}) == 5
    assert len({point["num_pixels"] for point in points.values()}) == 1  # the originals'
    assert points["bpg_at_reader"]["num_bytes"] < points["bpg"]["num_bytes"]
    assert 15 < points["bpg_at_reader"]["psnr"] < points["bpg"]["psnr"]


def test_the_narrow_stream_with_an_effort_is_the_plain_one_with_it(curve_plan):
    plain, searched = map(curve_plan, FEATURES)
    assert searched["codec"].pop("effort") == 10
    assert searched == plain
