"""What a learned codec is built from: model files, configurations, tasks."""

import json

import pytest
import torch

from vcm.codecs import LearnedCodec, SlimmableFeatureCodec
from vcm.errors import ArgumentError, WeightsError
from vcm.nn.slimmable import FeatureMap, SlimmableFactorized, save_network


def make(kind, seed=0):
    torch.manual_seed(seed)
    return kind({"detection": 6, "reconstruction": 10}, features={"detection": FeatureMap(5, 8)}).eval()


def test_a_family_of_files_is_a_curve(tmp_path):
    for quality, seed in ((0.5, 1), (2, 2)):
        save_network(make(SlimmableFactorized, seed), tmp_path / f"m{quality:g}.safetensors")
    codecs = [LearnedCodec(q, model=tmp_path / "m{quality}.safetensors") for q in (0.5, 2)]
    assert [codec.quality for codec in codecs] == [0.5, 2]
    assert codecs[0].settings()["weights_sha256"] != codecs[1].settings()["weights_sha256"]
    json.dumps(codecs[0].settings())
    with pytest.raises(WeightsError, match=r"m3\.safetensors cannot be read"):
        LearnedCodec(3, model=tmp_path / "m{quality}.safetensors")
    with pytest.raises(ArgumentError, match="quality must be a number"):
        LearnedCodec(-1, model=tmp_path / "m{quality}.safetensors")


@pytest.mark.parametrize("kind", [SlimmableFeatureCodec, LearnedCodec])
def test_configurations_build_their_codecs(kind, tmp_path, curve_plan):
    save_network(make(SlimmableFactorized), tmp_path / "m1.safetensors")
    plan = curve_plan(kind.name)
    assert plan["codec"].pop("_target_") == f"vcm.codecs.{kind.__name__}"
    codec = kind(plan["qualities"][0], **{**plan["codec"], "model": str(tmp_path / "m{quality}.safetensors")})
    assert codec.settings()["name"] == kind.name


def test_tasks_that_a_model_has_not_are_told():
    torch.manual_seed(0)
    only = SlimmableFactorized({"reconstruction": 4})
    with pytest.raises(ArgumentError, match="task must be a task of the model: reconstruction"):
        SlimmableFeatureCodec(model=only)
    with pytest.raises(ArgumentError, match="task must be one of none"):
        SlimmableFeatureCodec(model=only, task="reconstruction")
    with pytest.raises(ArgumentError, match="task must be a task of the model: detection"):
        LearnedCodec(model=SlimmableFactorized({"detection": 4}, features={"detection": FeatureMap(2, 8)}))


@pytest.mark.parametrize("x", [torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)])
def test_inputs_of_another_kind_are_told(x):
    with pytest.raises(ArgumentError, match="x must be a float tensor"):
        SlimmableFeatureCodec(model=make(SlimmableFactorized)).encode(x, (8, 8))
