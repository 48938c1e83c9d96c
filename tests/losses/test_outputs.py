"""Divergences of raw outputs: 0 where they are equal, by their definition elsewhere."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, kl_divergence

from vcm.losses.outputs import class_divergence, dense_divergence, yolo_divergence
from vcm.nn.darknet import HeadSpec

HEAD = HeadSpec(
    anchors=((10.0, 10.0), (20.0, 20.0)), mask=(0, 1), num_classes=3, scale_xy=1.0, ignore_threshold=0.7,
    iou_threshold=1.0, box_loss="mse", box_weight=1.0, objectness_weight=1.0, class_weight=1.0,
)  # fmt: skip


def raw(seed, batch=2):
    return torch.randn(batch, 16, 4, 5, generator=torch.Generator().manual_seed(seed))


def test_class_divergence_is_that_of_the_distributions():
    true, found = torch.randn(4, 7), torch.randn(4, 7)
    expected = kl_divergence(Categorical(logits=true), Categorical(logits=found))
    torch.testing.assert_close(class_divergence(found, true), expected)
    torch.testing.assert_close(class_divergence(true, true), torch.zeros(4))


def test_yolo_divergence_is_its_definition():
    true, found = raw(0), raw(1)
    p, q = (x.view(2, 2, 8, 4, 5).movedim(2, -1) for x in (true, found))
    objectness = p[..., 4].sigmoid()
    here = kl_divergence(Bernoulli(logits=p[..., 4]), Bernoulli(logits=q[..., 4]))
    classes = kl_divergence(Bernoulli(logits=p[..., 5:]), Bernoulli(logits=q[..., 5:])).sum(-1)
    centres = (p[..., :2].sigmoid() - q[..., :2].sigmoid()).square().sum(-1)
    sizes = (p[..., 2:4] - q[..., 2:4]).square().sum(-1)
    total = (here + objectness * (classes + 15 * (centres + sizes))).sum((1, 2, 3))
    expected = total / (1 + objectness.sum((1, 2, 3)))
    torch.testing.assert_close(yolo_divergence([found], [true], [HEAD]), expected)
    both = yolo_divergence([found, true], [true, true], [HEAD, HEAD])
    torch.testing.assert_close(both, total / (1 + 2 * objectness.sum((1, 2, 3))))


def test_dense_divergence_is_its_definition():
    true, found, boxes, other = (torch.randn(2, 6, c) for c in (3, 3, 4, 4))
    p = true.sigmoid().amax(dim=2)
    classes = kl_divergence(Bernoulli(logits=true), Bernoulli(logits=found)).sum(dim=2)
    expected = (classes + 15 * p * (boxes - other).square().sum(dim=2)).sum(dim=1) / (1 + p.sum(dim=1))
    torch.testing.assert_close(dense_divergence(found, true, other, boxes, p), expected)
    torch.testing.assert_close(dense_divergence(true, true, boxes, boxes, p), torch.zeros(2))


def test_equal_outputs_have_no_divergence_and_others_have():
    true = raw(0)
    torch.testing.assert_close(yolo_divergence([true], [true], [HEAD]), torch.zeros(2))
    for channel in range(8):  # of the first anchor: x, y, w, h, objectness, classes
        found = true.clone()
        found[:, channel] += 0.5
        assert (yolo_divergence([found], [true], [HEAD]) > 1e-3).all(), channel


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_lead_back(dtype):
    true, start = raw(0), raw(1).to(dtype).requires_grad_(True)
    yolo_divergence([start], [true], [HEAD]).sum().backward()
    with torch.no_grad():
        nearer = start.float() - 0.5 * start.grad.float()
    assert (yolo_divergence([nearer], [true], [HEAD]) < yolo_divergence([start], [true], [HEAD])).all()


def test_extreme_logits_stay_finite():
    true, found = 100 * raw(0), -100 * raw(1)
    value = yolo_divergence([found], [true], [HEAD])
    assert value.isfinite().all()
    assert math.isfinite(float(class_divergence(found[:, :, 0, 0], true[:, :, 0, 0]).sum()))
