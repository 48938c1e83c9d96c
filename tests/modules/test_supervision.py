"""Supervision by a task's raw outputs, beside features, labels and pseudo-labels."""

import pytest
import torch
from mean_task import MeanTask
from test_task_module import CFG

from vcm.errors import ArgumentError
from vcm.modules.supervision import TaskSupervision
from vcm.tasks import ClassificationTask, YOLOTask


@pytest.fixture
def detector(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "tiny.cfg").write_text(CFG)
    return YOLOTask(tmp_path / "tiny.cfg", names=["a", "b"], cut="layer0")


def images(seed, number=2):
    return list(torch.rand(number, 3, 64, 64, generator=torch.Generator().manual_seed(seed)))


def test_heads_are_the_divergence_and_a_share_of_the_features_error(detector):
    true, found = images(0), images(1)
    losses = {}
    for share in (0.0, 0.5):
        heads = TaskSupervision(detector, "heads", 0.3, feature_share=share)
        losses[share] = heads.losses(found, heads.guides(true, [None, None]))
        assert torch.equal(
            heads.losses(true, heads.guides(true, [None, None])).abs() < 1e-6, torch.ones(2) > 0
        )
    features = TaskSupervision(detector, "features", 0.3)
    errors = features.losses(found, features.guides(true, [None, None]))
    torch.testing.assert_close(losses[0.5], losses[0.0] + 0.5 * errors)
    divergence = detector.output_divergence(
        detector.outputs(detector.features(found)), detector.outputs(detector.features(true))
    )
    torch.testing.assert_close(losses[0.0], 0.1 * divergence)
    assert (divergence > 0).all()


def test_heads_lead_back_to_the_images_of_a_classifier_too(detector):
    classifier = ClassificationTask("mobilenet_v2", None, categories=["a", "b"], resize_size=64, crop_size=64)
    for task in (detector, classifier):
        heads = TaskSupervision(task, "heads", 0.3)
        decoded = [image.requires_grad_() for image in images(1)]
        heads.loss(decoded, heads.guides(images(0), [None, None])).backward()
        assert all(image.grad.abs().sum() > 0 for image in decoded)


def test_tasks_without_heads_and_wrong_words_are_told(detector):
    with pytest.raises(ArgumentError, match="supervision must be labels, pseudo or features, because"):
        TaskSupervision(MeanTask(), "heads", 0.3)
    with pytest.raises(ArgumentError, match="supervision must be labels, pseudo, features or heads"):
        TaskSupervision(detector, "guesses", 0.3)
    with pytest.raises(ArgumentError, match="feature_share must be a number from 0"):
        TaskSupervision(detector, "heads", 0.3, feature_share=-1)
