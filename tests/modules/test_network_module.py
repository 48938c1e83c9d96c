"""What every LightningModule here does with gradients, whatever it trains."""

import re
import types
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader

from vcm.data import Batch
from vcm.errors import ArgumentError
from vcm.modules import LRSchedule
from vcm.modules.base import NetworkModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:You defined a `validation_step`"
)


class Brightness(NetworkModule):
    """Learns one factor that brings images to 1; `scale` multiplies the loss of each batch in turn."""

    def __init__(self, scales=(1.0,), **options):
        network = torch.nn.Conv2d(3, 3, 1, bias=False)
        torch.nn.init.eye_(network.weight[:, :, 0, 0])
        super().__init__(network, **{"max_norm": 1e9, **options})
        self.scales, self.history, self.losses = scales, [], iter(())

    def training_step(self, batch, batch_idx):
        scale = self.scales[batch_idx % len(self.scales)]
        return scale * (self.network(batch.images) - 1).pow(2).mean()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        super().on_train_batch_end(outputs, batch, batch_idx)
        self.history.append(self.network.weight.detach().clone())

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", next(self.losses), batch_size=1)

    def save_model(self, path, **notes):
        raise NotImplementedError

    def start_from(self, path):
        raise NotImplementedError


def loader(size, number=8):
    images = torch.rand(number, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    items = [(image, str(place)) for place, image in enumerate(images)]

    def collate(parts):
        return Batch(torch.stack([p[0] for p in parts]), [None] * len(parts), [p[1] for p in parts])

    return DataLoader(items, size, collate_fn=collate)


def fit(module, size=4, number=8, val=None, **settings):
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 1, "num_sanity_val_steps": 0, **settings},
    )
    trainer.fit(module, loader(size, number), val)
    return trainer


def test_accumulated_batches_are_one_step_of_a_larger_one():
    sgd = partial(SGD)
    large, small = (Brightness(optimizer=sgd, learning_rate=0.1) for _ in range(2))
    assert fit(large, 4, max_epochs=3).global_step == 6
    assert fit(small, 2, max_epochs=3, accumulate_grad_batches=2).global_step == 6
    torch.testing.assert_close(small.network.weight, large.network.weight)
    torch.testing.assert_close(small.history[0], Brightness().network.weight, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"gradient_clip_val": 0.01}, {"max_norm": 0.02}])
def test_gradients_are_clipped_by_the_trainer_or_else_by_the_module(options):
    clip = options.pop("gradient_clip_val", None)
    module = Brightness(optimizer=SGD, learning_rate=1.0, **options)
    before = module.network.weight.detach().clone()
    fit(module, 8, gradient_clip_val=clip)
    moved = float((module.network.weight.detach() - before).norm())
    expected = clip or options.get("max_norm")
    assert moved == pytest.approx(expected, rel=1e-4) if expected else moved > 0.1


def test_clipping_by_value_is_lightnings():
    module = Brightness(optimizer=SGD, learning_rate=1.0)
    before = module.network.weight.detach().clone()
    fit(module, 8, gradient_clip_val=0.003, gradient_clip_algorithm="value")
    torch.testing.assert_close((before - module.network.weight).abs().max(), torch.tensor(0.003))


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_ends_the_training_before_any_weight_changes(scale):
    module = Brightness((1.0, scale))
    with pytest.raises(ArgumentError, match=r"gradient norm must be finite; .*the batch was 4, 5, 6, 7"):
        fit(module)
    assert len(module.history) == 1
    assert torch.equal(module.network.weight, module.history[0])


def test_a_step_of_no_gradient_changes_nothing_whatever_the_optimizer():
    module = Brightness((1.0, 0.0), optimizer=partial(AdamW, weight_decay=0.5), learning_rate=0.1)
    fit(module)
    first, second = module.history
    assert torch.equal(first, second)  # neither momentum nor weight decay


def test_the_module_of_the_documentation_trains_and_validates():
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "Denoising" in block)
    parts = {}
    exec(code, parts)
    module = parts["Denoising"](torch.nn.Conv2d(3, 3, 1))
    trainer = fit(module, val=loader(1, 2))
    assert trainer.callback_metrics["val/loss"] > 0
    assert module.errors.loss.compute() == trainer.callback_metrics["val/loss"]


def test_a_module_without_validation_says_what_is_missing():
    module = Brightness()
    module.validation_step = types.MethodType(NetworkModule.validation_step, module)
    with pytest.raises(NotImplementedError, match="Brightness must define validate_image"):
        fit(module, val=loader(1, 1))


def test_a_plateau_lowers_the_learning_rate_by_the_metric_it_follows():
    plateau = LRSchedule(partial(ReduceLROnPlateau, patience=0, factor=0.1, mode="max"), monitor="val/loss")
    for scheduler, expected in ((plateau, [1.0, 1.0, 0.1, 0.1]), (None, [1.0, 0.5, 0.25, 0.125])):
        module = Brightness(
            optimizer=SGD, learning_rate=1.0, scheduler=scheduler, plateau_epochs=0, plateau_factor=0.5
        )
        module.losses = iter([1.0, 2.0, 1.5, 3.0])
        rates = []
        module.on_train_epoch_end = lambda m=module, r=rates: r.append(m.optimizers().param_groups[0]["lr"])
        fit(module, max_epochs=4, val=loader(1, 1))
        assert rates == pytest.approx(expected)


def test_a_plateau_of_a_metric_that_is_not_logged_is_told():
    module = Brightness(scheduler=LRSchedule(ReduceLROnPlateau, monitor="val/nothing"))
    module.losses = iter([1.0])
    with pytest.raises(ArgumentError, match=r"scheduler.monitor must be one of val/loss; got 'val/nothing'"):
        fit(module, val=loader(1, 1))


def test_a_scheduler_of_epochs_is_stepped_once_each():
    module = Brightness(optimizer=SGD, learning_rate=1.0, scheduler=partial(StepLR, step_size=1, gamma=0.5))
    trainer = fit(module, max_epochs=3)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.125


class ByHand(Brightness):
    """The same by manual optimization."""

    def __init__(self, **options):
        super().__init__(**options)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        with self.without_sync():
            self.manual_backward(super().training_step(batch, batch_idx))
        self.take_step()


@pytest.mark.parametrize("kind", [Brightness, ByHand])
@pytest.mark.parametrize(("interval", "steps"), [("step", 6), ("epoch", 3)])
@pytest.mark.parametrize("frequency", [1, 2])
def test_a_scheduler_is_stepped_as_often_as_it_says(kind, interval, steps, frequency):
    halving = partial(StepLR, step_size=1, gamma=0.5)
    scheduler = LRSchedule(halving, interval=interval, frequency=frequency)
    trainer = fit(kind(optimizer=SGD, learning_rate=1.0, scheduler=scheduler), max_epochs=3)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.5 ** (steps // frequency)


@pytest.mark.parametrize("kind", [Brightness, ByHand])
def test_a_course_that_is_over_is_told(kind):
    short = LRSchedule(partial(OneCycleLR, max_lr=1.0, total_steps=3), interval="step")
    with pytest.raises(ArgumentError, match=r"scheduler must be one that goes on .*got 'Tried to step 4"):
        fit(kind(optimizer=SGD, scheduler=short), max_epochs=3)


@pytest.mark.parametrize("kind", [Brightness, ByHand])
def test_both_kinds_of_optimization_take_the_same_steps(kind):
    module, reference = kind(max_norm=0.3, learning_rate=0.1), Brightness(max_norm=0.3, learning_rate=0.1)
    fit(module, max_epochs=2)
    network = torch.nn.Conv2d(3, 3, 1, bias=False)
    network.load_state_dict(reference.network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), 0.1)
    for _ in range(2):
        for batch in loader(4):
            optimizer.zero_grad()
            (network(batch.images) - 1).pow(2).mean().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 0.3)
            optimizer.step()
    torch.testing.assert_close(module.network.weight, network.weight)


def test_a_scaler_skips_a_step_whose_gradient_overflows():
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=4.0))
    module = Brightness((1.0, float("inf")))
    fit(module, plugins=[plugin])
    first, second = module.history
    assert torch.equal(first, second)
    assert plugin.scaler.get_scale() == 2.0


@pytest.mark.parametrize("optimizer", [3, lambda *_, **__: None, partial(SGD, nothing=1)])
def test_what_is_no_optimizer_is_refused(optimizer):
    with pytest.raises(ArgumentError, match="optimizer must be"):
        fit(Brightness(optimizer=optimizer))


def test_a_precision_too_coarse_to_learn_in_is_refused():
    with pytest.raises(ArgumentError, match=r"trainer.precision must be one of 32-true, bf16-mixed, 16-mix"):
        fit(Brightness(), precision="bf16-true")
