"""Training one network for many qualities, and on images with a letterbox's border."""

import functools

import pytest
import torch
from lightning import Trainer, seed_everything
from mean_task import MeanTask

from vcm.errors import ArgumentError
from vcm.modules import SlimmableModule
from vcm.modules.slimmable import with_borders
from vcm.nn.slimmable import FeatureMap, LatentScalable, SlimmableFactorized, SlimmableHyperprior

KINDS = {
    "factorized": SlimmableFactorized,
    "means": functools.partial(SlimmableHyperprior, means=True),
    "layered": LatentScalable,
}
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*log_every_n_steps"
)


def make(kind=SlimmableFactorized, qualities=3, **settings):
    seed_everything(3, verbose=False)
    network = kind(
        {"detection": 6, "reconstruction": 10},
        features={"detection": FeatureMap(3, 8)},
        latents={"detection": 12, "reconstruction": 16},
        qualities=qualities,
    )
    settings = {"learning_rate": 3e-3, "quality_scales": [0.1, 1, 10], **settings}
    weights = {"detection": 0.001, "reconstruction": 0.01}
    return SlimmableModule(network, {"detection": MeanTask()}, weights, **settings)


def trainer(folder, **settings):
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        num_sanity_val_steps=0,
        **dict.fromkeys(quiet, False),
        **settings,
    )


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_quality_is_trained_for_its_own_rate(kind, image_data, tmp_path):
    module, data = make(kind, border_share=0.5), image_data()
    run = trainer(tmp_path, max_epochs=25, check_val_every_n_epoch=25)
    (before,) = run.validate(module, data, verbose=False)
    run.fit(module, data)
    after = {name: float(value) for name, value in run.callback_metrics.items()}
    assert after["val/loss"] < 0.7 * before["val/loss"]
    image = next(iter(data.val_dataloader())).images[0][None]
    image = image[..., : image.shape[-2] // 16 * 16, : image.shape[-1] // 16 * 16]
    with torch.no_grad():
        outputs = [module.network.eval()(image, "reconstruction", quality) for quality in (1, 2, 3)]
    rates = [float(-sum(v.log2().sum() for v in output.likelihoods.values())) for output in outputs]
    errors = [float((output.x_hat - image).pow(2).mean()) for output in outputs]
    assert rates == sorted(rates)
    assert errors[0] > max(errors[1:])  # the finer two are too near each other after so few steps


def test_each_quality_has_its_own_weight(image_data, tmp_path, monkeypatch):
    """The loss of a batch is bpp + λ·scale·255²·error, and validation is at the middle scale."""
    module = make(lmbda_scale=2)
    x = next(iter(image_data().train_dataloader())).images
    asked = []
    module.network.register_forward_pre_hook(lambda network, inputs: asked.append(inputs[2]))
    for quality, scale in zip((1, 2, 3), (0.1, 1, 10), strict=True):
        for task, weight in (("detection", 0.001), ("reconstruction", 0.01)):
            outcome = module._outcome(x, task, quality)
            expected = outcome.bpp + 2 * weight * scale * 255**2 * outcome.distortion
            torch.testing.assert_close(outcome.loss, expected)
    assert asked == [1, 1, 2, 2, 3, 3]
    assert module.val_metrics["detection"].lmbda == pytest.approx(0.002)
    even = make(qualities=2, quality_scales=[1, 4])
    assert even.val_metrics["reconstruction"].lmbda == pytest.approx(0.02)
    drawn = []
    monkeypatch.setattr(SlimmableModule, "_draw", lambda self: drawn.append(1) or 3)
    trainer(tmp_path, max_epochs=1, limit_train_batches=2, limit_val_batches=0).fit(module, image_data())
    assert len(drawn) == 4  # for each batch and width
    assert asked[6:] == [3] * 4


def test_qualities_are_drawn_evenly():
    module = make()
    counts = torch.bincount(torch.tensor([module._draw() for _ in range(600)]), minlength=4)
    assert counts[0] == 0
    assert counts[1:].min() > 150
    assert {make(qualities=1, quality_scales=[1])._draw() for _ in range(20)} == {1}


def test_borders_are_grey_and_on_one_side_of_some():
    torch.manual_seed(0)
    x = torch.rand(200, 3, 32, 32)
    kept = x.clone()
    bordered = with_borders(x, 0.5)
    assert torch.equal(x, kept)
    sides = set()
    for before, after in zip(x, bordered, strict=True):
        changed = (before != after).any(dim=0)
        assert (after[:, changed] == 0.5).all()
        rows, columns = changed.all(dim=1), changed.all(dim=0)
        if changed.any():
            assert changed.sum() == max(int(rows.sum()), int(columns.sum())) * 32
            assert 1 <= max(int(rows.sum()), int(columns.sum())) < 24
            sides.add(tuple(bool(edge) for edge in (rows[0], rows[-1], columns[0], columns[-1])))
    assert len(sides) == 4
    assert 70 < (bordered != x).flatten(1).any(dim=1).sum() < 130
    assert with_borders(x, 0) is x


def test_people_see_no_borders():
    module = make(border_share=1.0)
    x = torch.rand(2, 3, 32, 32)
    seen = []
    module.network.register_forward_pre_hook(lambda network, inputs: seen.append(inputs[0].clone()))
    module._outcome(x, "reconstruction", 1)
    module._outcome(x, "detection", 1)
    assert torch.equal(seen[0], x)
    assert (seen[1] == 0.5).flatten(1).any(dim=1).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quality_scales": [1]}, "quality_scales must be one for each of the network's qualities, 3"),
        ({"quality_scales": [1, 0, 2]}, "quality_scales must be a number above 0; got 0"),
        ({"border_share": 1.5}, "border_share must be a number from 0 to 1; got 1.5"),
    ],
)
def test_settings_that_cannot_be_are_told(settings, message):
    with pytest.raises(ArgumentError, match=message):
        make(**settings)
