import pytest
import torch

from vcm.categories import COCO_CATEGORIES
from vcm.errors import ArgumentError, EvaluationError
from vcm.evaluation.labels import check_label_kinds, pseudo_labels, true_labels
from vcm.types import BoxTarget, ClassScores, ClassTarget, Detections

BOXES = [[0, 0, 10, 10], [5, 5, 20, 25], [1, 2, 3, 4]]


def detections(labels, scores):
    boxes = torch.tensor(BOXES[: len(labels)], dtype=torch.float32).reshape(-1, 4)
    return Detections(boxes, torch.tensor(scores), torch.tensor(labels, dtype=torch.int64))


def test_labels_move_into_the_tasks_categories_by_name(targets):
    data = ["TVmonitor", "unicorn", "motorbike"]
    labels = true_labels({"a": targets(BOXES, [2, 1, 0])}, data, COCO_CATEGORIES)
    moved = labels.targets["a"]
    assert [COCO_CATEGORIES[label] for label in moved.labels] == ["motorcycle", "tv"]
    assert moved.boxes.tolist() == [BOXES[0], BOXES[2]]
    assert moved.area.tolist() == [100, 4]
    assert {COCO_CATEGORIES[index] for index in labels.categories} == {"tv", "motorcycle"}
    assert labels.note == (
        "2 categories are shared by the dataset (3) and the task (80); the others are ignored"
    )


def test_crowd_regions_stay_crowd_regions():
    target = BoxTarget(
        torch.tensor(BOXES, dtype=torch.float32),
        torch.tensor([0, 1, 1]),
        torch.tensor([False, True, False]),
        torch.tensor([50.0, 60.0, 3.0]),
    )
    moved = true_labels({"a": target}, ["unicorn", "dog"], ["dog"]).targets["a"]
    assert moved.is_crowd.tolist() == [True, False]
    assert moved.area.tolist() == [60, 3]
    assert moved.labels.tolist() == [0, 0]


def test_image_whose_boxes_are_all_of_other_categories_counts_as_empty(targets):
    labels = true_labels({"a": targets(BOXES[:1], [0]), "b": targets([], [])}, ["unicorn", "dog"], ["dog"])
    assert [len(target.boxes) for target in labels.targets.values()] == [0, 0]


def test_predictions_that_the_labels_do_not_speak_of_are_neither_hit_nor_miss(targets):
    labels = true_labels({"a": targets(BOXES, [0, 0, 0])}, ["dog"], ["cat", "dog", "cow"])
    relevant = labels.relevant(detections([0, 1, 2], [0.9, 0.8, 0.7]))
    assert relevant.labels.tolist() == [1]
    assert relevant.scores.tolist() == pytest.approx([0.8])
    assert relevant.boxes.tolist() == [BOXES[1]]
    assert len(labels.relevant(detections([0], [0.9])).boxes) == 0


def test_equal_categories_need_no_note_and_drop_nothing(targets):
    labels = true_labels({"a": targets(BOXES, [0, 1, 1])}, ["dog", "cat"], ["Cat", "Dog"])
    assert labels.note == ""
    assert labels.targets["a"].labels.tolist() == [1, 0, 0]
    assert labels.relevant(detections([0, 1], [0.9, 0.8])).labels.tolist() == [0, 1]


def test_no_name_in_common(targets):
    with pytest.raises(EvaluationError, match=r"unicorn.*dog, cat.*no name in common.*labels=\[pseudo\]"):
        true_labels({"a": targets(BOXES, [0, 0, 0])}, ["unicorn"], ["dog", "cat"])


def test_classes_move_too_and_images_of_other_classes_have_no_label():
    labels = true_labels({"a": ClassTarget(1), "b": ClassTarget(0)}, ["unicorn", "dog"], ["cat", "dog"])
    assert labels.targets == {"a": ClassTarget(1)}


@pytest.mark.parametrize(("threshold", "count"), [(0, 3), (0.5, 2), (0.75, 1), (1, 0)])
def test_boxes_from_the_threshold_up_are_pseudo_labels(threshold, count):
    labels = pseudo_labels({"a": detections([2, 0, 2], [0.75, 0.5, 0.25])}, threshold)
    target = labels.targets["a"]
    assert target.boxes.tolist() == BOXES[:count]
    assert target.labels.tolist() == [2, 0, 2][:count]
    assert target.area.tolist() == [100, 300, 4][:count]
    assert not target.is_crowd.any()
    assert len(target.is_crowd) == count
    every = detections([0, 1, 2], [0.9, 0.8, 0.7])
    assert labels.relevant(every) is every


def test_pseudo_class_is_the_one_that_scores_highest():
    labels = pseudo_labels({"a": ClassScores(torch.tensor([-3.0, -1.0, -2.0]))}, 0.3)
    assert labels.targets == {"a": ClassTarget(1)}


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_threshold_out_of_range(threshold):
    with pytest.raises(ArgumentError, match="pseudo_score must be a number from 0 to 1"):
        pseudo_labels({}, threshold)


@pytest.mark.parametrize("kinds", [[], ["gold"], ["truth", "truth"], ["truth", "gold"]])
def test_kinds_of_labels(kinds):
    check_label_kinds(["pseudo", "truth"])
    with pytest.raises(ArgumentError, match="labels must be a list of truth, pseudo, or both"):
        check_label_kinds(kinds)
