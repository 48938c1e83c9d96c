from __future__ import annotations

import pytest
import torch

from vcm.errors import ArgumentError
from vcm.tasks.checks import check_targets, image_list, trainable_boxes
from vcm.types import BoxTarget, ClassTarget

NAN = float("nan")


def boxes(*rows: tuple[float, float, float, float], crowd: int | None = None) -> BoxTarget:
    count = len(rows)
    return BoxTarget(
        torch.tensor(rows).reshape(-1, 4),
        torch.arange(count),
        torch.arange(count) == (-1 if crowd is None else crowd),
        torch.ones(count),
    )


def test_boxes_to_train_with() -> None:
    target = boxes(
        (1, 2, 3, 4),
        (-5, 1, 6, 90),  # clipped
        (30, 3, 40, 9),  # outside
        (5, 5, 5, 9),  # no area
        (7, 7, 6, 9),  # inside out
        (NAN, 1, 2, 3),
        (0, 0, 9, 9),  # crowd
        crowd=6,
    )
    kept, labels = trainable_boxes(target, height=10, width=20)
    assert kept.tolist() == [[1, 2, 3, 4], [0, 1, 6, 10]]
    assert labels.tolist() == [0, 1]
    kept, labels = trainable_boxes(boxes(), height=10, width=20)
    assert (kept.shape, labels.shape) == ((0, 4), (0,))


def test_targets_that_do_not_fit() -> None:
    assert check_targets([ClassTarget(2)], ClassTarget, 1, 3) == [ClassTarget(2)]
    with pytest.raises(ArgumentError, match="one per image, 2 in total; got 1"):
        check_targets([ClassTarget(0)], ClassTarget, 2, 3)
    with pytest.raises(ArgumentError, match="BoxTarget objects; got 'ClassTarget'"):
        check_targets([ClassTarget(0)], BoxTarget, 1, 3)
    for label in (-1, 3):
        with pytest.raises(ArgumentError, match=rf"in \[0, 2\], .* got {label}"):
            check_targets([ClassTarget(label)], ClassTarget, 1, 3)
    with pytest.raises(ArgumentError, match=r"in \[0, 1\], .* got 2"):
        check_targets([boxes((0, 0, 1, 1), (0, 0, 1, 1), (0, 0, 1, 1))], BoxTarget, 1, 2)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "at least one image"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "uint8"),
        ([torch.zeros(1, 4, 4)], r"\(1, 4, 4\)"),
        ([torch.zeros(3, 0, 4)], r"\(3, 0, 4\)"),
        ([torch.zeros(3, 2, 2), torch.full((3, 2, 2), NAN)], "NaN or infinite"),
        (torch.full((1, 3, 2, 2), float("inf")), "NaN or infinite"),
        (torch.full((1, 3, 2, 2), 200.0), "pixels from 200 to 200'. Divide"),
        ([torch.zeros(3, 2, 2), torch.full((3, 2, 2), -0.6)], "pixels from -0.6 to -0.6"),
        (torch.linspace(0, 1.6, 12).reshape(1, 3, 2, 2).half(), "pixels from 0 to 1.6"),
    ],
)
def test_images_that_are_refused(images: list[torch.Tensor], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        image_list(images)


def test_a_little_overshoot_is_taken_with_its_gradient() -> None:
    images = torch.linspace(-0.5, 1.5, 24).reshape(2, 3, 2, 2).requires_grad_()
    torch.stack(image_list(images)).sum().backward()
    assert images.grad is not None
    assert (images.grad == 1).all()
