"""Learning rate schedules: the values they set, and when."""

import math
from functools import partial

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

from vcm.errors import ArgumentError
from vcm.modules import LRSchedule
from vcm.modules.schedules import checked_schedule, cosine


@pytest.fixture
def optimizer():
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


def rates(optimizer, scheduler, steps):
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*found, optimizer.param_groups[0]["lr"]]


def test_cosine_falls_to_zero(optimizer):
    found = rates(optimizer, cosine(optimizer, 10), 10)
    expected = [0.1 * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(11)]
    assert found == pytest.approx(expected, abs=1e-12)


def test_cosine_rises_first(optimizer):
    found = rates(optimizer, cosine(optimizer, 10, warmup_steps=4), 10)
    rising = [0.1 * (0.001 + 0.999 * step / 4) for step in range(4)]
    falling = [0.1 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(7)]
    assert found == pytest.approx([*rising, *falling], abs=1e-12)


def test_cosine_goes_on_at_its_place_in_a_longer_course(optimizer):
    rates(optimizer, first := cosine(optimizer, 6), 6)
    longer = cosine(optimizer, 12)
    longer.load_state_dict(first.state_dict())
    optimizer.step()
    longer.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * (1 + math.cos(math.pi * 7 / 12)) / 2)


@pytest.mark.parametrize(("total", "warmup"), [(0, 0), (10, 10), (10, -1), (10, 0.5), (2.5, 0)])
def test_steps_out_of_range_are_refused(optimizer, total, warmup):
    with pytest.raises(ArgumentError, match="_steps must be a whole number"):
        cosine(optimizer, total, warmup)


def test_total_steps_come_from_the_trainer_where_a_scheduler_lacks_them(optimizer):
    for factory in (cosine, partial(cosine, warmup_steps=1), partial(OneCycleLR, max_lr=0.1)):
        built = LRSchedule(factory).build(optimizer, lambda: 7)
        assert built["interval"] == "step"
    assert built["scheduler"].total_steps == 7
    own = LRSchedule(partial(OneCycleLR, max_lr=0.1, total_steps=5)).build(optimizer, lambda: 7)
    assert own["scheduler"].total_steps == 5
    assert own["interval"] == "epoch"
    epochs = partial(OneCycleLR, max_lr=0.1, epochs=3, steps_per_epoch=4)
    assert LRSchedule(epochs).build(optimizer, lambda: 7)["scheduler"].total_steps == 12
    each_batch = LRSchedule(partial(OneCycleLR, max_lr=0.1, total_steps=5), interval="step")
    assert each_batch.build(optimizer, lambda: 7)["interval"] == "step"


def test_other_schedulers_are_stepped_with_each_epoch_or_as_asked(optimizer):
    step = partial(StepLR, step_size=3)
    built = checked_schedule(step).build(optimizer, lambda: 7)
    assert (built["interval"], built["frequency"], "monitor" in built) == ("epoch", 1, False)
    built = LRSchedule(step, interval="step", frequency=2).build(optimizer, lambda: 7)
    assert (built["interval"], built["frequency"]) == ("step", 2)
    built = LRSchedule(ReduceLROnPlateau, monitor="val/psnr").build(optimizer, lambda: 7)
    assert built["monitor"] == "val/psnr"
    assert checked_schedule(None) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scheduler": 3}, "scheduler must be null or a class"),
        ({"scheduler": cosine, "interval": "batch"}, "scheduler.interval must be epoch or step"),
        ({"scheduler": cosine, "frequency": 0}, "scheduler.frequency must be a whole number"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        LRSchedule(**arguments)


@pytest.mark.parametrize("factory", [lambda optimizer: None, partial(StepLR, nothing=1), partial(StepLR)])
def test_what_builds_no_scheduler_is_refused(optimizer, factory):
    with pytest.raises(ArgumentError, match="scheduler must be a "):
        LRSchedule(factory).build(optimizer, lambda: 7)
