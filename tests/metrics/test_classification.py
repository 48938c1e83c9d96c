from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from vcm.errors import ArgumentError
from vcm.metrics.classification import TopKAccuracy
from vcm.types import ClassScores, ClassTarget


def test_equals_torchmetrics() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(200, 20), torch.randint(20, (200,))
    metric = TopKAccuracy()
    for part, truth in zip(logits.split(33), labels.split(33), strict=True):
        metric.update([ClassScores(row) for row in part], [ClassTarget(label) for label in truth.tolist()])
    ours = metric.compute()
    for k in (1, 5):
        expected = MulticlassAccuracy(20, top_k=k, average="micro")(logits, labels)
        assert ours[f"top_{k}"].item() == pytest.approx(expected.item())
    assert 0 < ours["top_1"] < ours["top_5"] < 1
    draws = np.random.default_rng(0).integers(0, 200, (4, 200))
    for number, draw in enumerate(draws):
        again = TopKAccuracy()
        again.update([ClassScores(logits[i]) for i in draw], [ClassTarget(int(labels[i])) for i in draw])
        for name, value in again.compute().items():
            assert metric.resampled(draws)[name][number] == pytest.approx(value.item())


def test_fewer_classes_than_k_and_no_images() -> None:
    metric = TopKAccuracy()
    metric.update([ClassScores(torch.tensor([0.0, 1.0, 2.0]))], [ClassTarget(0)])
    assert {name: value.item() for name, value in metric.compute().items()} == {"top_1": 0.0, "top_5": 1.0}
    metric.reset()
    metric.update([], [])
    assert metric.compute()["top_1"].isnan()


def test_bad_arguments() -> None:
    with pytest.raises(ArgumentError, match="one per target, 1 in total; got 0"):
        TopKAccuracy().update([], [ClassTarget(0)])
    with pytest.raises(ArgumentError, match="ks must be whole numbers of at least 1"):
        TopKAccuracy(ks=(0,))
