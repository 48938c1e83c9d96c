"""The distortion of a machine width: at the cut, or deeper in the task's network."""

import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer, seed_everything
from mean_task import MeanTask

from vcm.errors import ArgumentError
from vcm.losses.outputs import relative_errors
from vcm.modules import SlimmableModule
from vcm.nn.slimmable import FeatureMap, SlimmableFactorized
from vcm.tasks.distance import FeatureDistance
from vcm.types import Features

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*log_every_n_steps"
)


class DeepTask(MeanTask):
    """Cut after means of 2 × 2 pixels, from which those of 8 × 8 follow."""

    cut = "fine"
    cuts = ("fine", "pool", "double")

    def encode(self, prepared):
        return Features({"fine": F.avg_pool2d(prepared.inputs, 2)}, prepared.image_sizes)

    def onward(self, features, cut):
        self.check_later_cut(cut)
        if cut == "fine":
            return features
        pool = self.gain * F.avg_pool2d(features.tensors["fine"], 4)
        tensors = {"pool": pool} if cut == "pool" else {"pool": pool, "double": 2 * pool}
        return Features(tensors, features.image_sizes)

    def tail(self, features):
        return super().tail(self.onward(features, "pool"))


def test_without_a_guide_it_is_the_squared_error():
    found, true = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    distance = FeatureDistance(DeepTask(), None, 0.3)
    torch.testing.assert_close(distance(found, true), (found - true).square().mean())


def test_with_a_guide_it_is_what_the_task_makes_of_the_error():
    true = torch.rand(2, 3, 8, 8)
    found = (true + 0.1 * torch.randn_like(true)).requires_grad_()
    distance = FeatureDistance(DeepTask(), "pool", 0.25)(found, true)
    near = relative_errors({"": found}, {"": true})
    far = relative_errors({"": F.avg_pool2d(found, 4)}, {"": F.avg_pool2d(true, 4)})
    torch.testing.assert_close(distance, (far + 0.25 * near).mean())
    (gradient,) = torch.autograd.grad(distance, found)
    assert gradient.abs().min() > 0
    # what the means do not see costs nothing there
    checkered = true + 0.1 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)
    assert FeatureDistance(DeepTask(), "pool", 0.0)(checkered, true) < 1e-10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guides": {"detection": "nowhere"}}, "cut must be fine or a later cut: fine, pool, double"),
        ({"guides": {"segmentation": "pool"}}, "guides must be names among detection; got 'segmentation'"),
        ({"near_weight": -1}, "near_weight must be a number of at least 0"),
    ],
)
def test_settings_that_cannot_be_are_told(settings, message):
    with pytest.raises(ArgumentError, match=message):
        make(**settings)


def test_a_guide_of_several_tensors_takes_them_all():
    distance = FeatureDistance(DeepTask(), "double", 0.0)
    found, true = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    # the second tensor is twice the first, and scale does not matter
    torch.testing.assert_close(distance(found, true), FeatureDistance(DeepTask(), "pool", 0.0)(found, true))


def test_relative_errors_count_maps_and_images_alike():
    true = {"a": torch.rand(3, 2, 4, 4), "b": 100 * torch.rand(3, 5, 2, 2)}
    nothing = {name: torch.zeros_like(maps) for name, maps in true.items()}
    torch.testing.assert_close(relative_errors(nothing, true), torch.ones(3))
    half = {"a": true["a"], "b": torch.cat((nothing["b"][:1], true["b"][1:]))}
    torch.testing.assert_close(relative_errors(half, true), torch.tensor([0.5, 0, 0]))


def make(**settings):
    seed_everything(3, verbose=False)
    target = FeatureMap(3, 2, synthesis=True, hidden=8)
    network = SlimmableFactorized({"detection": 12, "reconstruction": 16}, features={"detection": target})
    weights = {"detection": 0.001, "reconstruction": 0.01}
    return SlimmableModule(network, {"detection": DeepTask()}, weights, learning_rate=3e-3, **settings)


def test_training_with_a_guide_brings_the_deep_features_near(image_data, tmp_path):
    module = make(guides={"detection": "pool"})
    run = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=15,
        check_val_every_n_epoch=15,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    (before,) = run.validate(module, image_data(), verbose=False)
    run.fit(module, image_data())
    after = run.callback_metrics
    assert after["val/detection/feature_error"] < 0.5 * before["val/detection/feature_error"]


class HeadedTask(DeepTask):
    """Its raw outputs are what comes after its means."""

    def outputs(self, features):
        there = features if self.cut == "pool" else self.onward(features, "pool")
        return {"raw": 3 * there.tensors["pool"]}

    def output_divergence(self, found, true):
        return (found["raw"] - true["raw"]).square().flatten(1).sum(dim=1)


def test_guides_add_up_and_heads_are_one_of_them():
    true = torch.rand(2, 3, 8, 8)
    found = true + 0.1 * torch.randn_like(true)
    near = relative_errors({"": found}, {"": true}).mean()
    pool = FeatureDistance(HeadedTask(), "pool", 0.0)(found, true)
    heads = (
        0.1
        * (3 * float(HeadedTask().gain)) ** 2
        * (F.avg_pool2d(found, 4) - F.avg_pool2d(true, 4)).square().flatten(1).sum(dim=1).mean()
    )
    torch.testing.assert_close(FeatureDistance(HeadedTask(), "heads", 0.0)(found, true), heads)
    both = FeatureDistance(HeadedTask(), ["heads", "pool"], 0.5)(found, true)
    torch.testing.assert_close(both, pool + heads + 0.5 * near)
    torch.testing.assert_close(FeatureDistance(HeadedTask(), ["heads", "pool"], 0.5).to(true)(found), both)


def test_a_task_without_heads_is_told():
    with pytest.raises(ArgumentError, match=r"guides must be layers of .*, without heads; got 'heads'"):
        FeatureDistance(DeepTask(), "heads", 0.3)
    with pytest.raises(ArgumentError, match="near_weight must be a number of at least 0; got -1"):
        FeatureDistance(DeepTask(), None, -1)
