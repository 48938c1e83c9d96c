"""Which quality keeps what a task finds, and how few qualities are tried for that."""

import pytest
import torch

from vcm.errors import ArgumentError
from vcm.evaluation.recommend import Search, check_agreement, kept
from vcm.types import ClassScores, Detections, QualityScale

QP = QualityScale("QP", 0, 51, higher_is_better=False, default=30)
QUALITY = QualityScale("quality", 1, 100, higher_is_better=True, default=75)


def detections(*rows):
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].long())


A = (0, 0, 10, 10, 0.9, 1)
B = (20, 20, 40, 40, 0.5, 2)


@pytest.mark.parametrize(
    ("found", "number"),
    [
        ([A, B], 2),
        ([(1, 0, 11, 10, 0.3, 1), (20, 20, 40, 40, 0.2, 2)], 2),
        ([(1, 0, 11, 10, 0.3, 1), (20, 20, 40, 40, 0.19, 2)], 1),
        ([(0, 0, 10, 10, 0.9, 2)], 0),
        ([(6, 0, 16, 10, 0.9, 1)], 0),
        ([], 0),
    ],
)
def test_what_is_kept(found, number):
    assert kept(detections(*found), detections(A, B)) == (number, 2)


def test_one_box_stands_for_one():
    near = (1, 0, 11, 10, 0.8, 1)
    assert kept(detections(A), detections(A, near)) == (1, 2)
    assert kept(detections(A), detections((0, 0, 10, 10, 0.29, 1))) == (0, 0)


def test_of_classes_the_first_counts():
    true = ClassScores(torch.tensor([0.0, 1.0]))
    assert kept(ClassScores(torch.tensor([0.0, 5.0])), true) == (1, 1)
    assert kept(ClassScores(torch.tensor([2.0, 1.0])), true) == (0, 1)


def search(scale, number_kept):
    """Ten detections, of which so many are kept at a quality."""
    original = detections(*[(20 * n, 0, 20 * n + 10, 10, 0.9, 0) for n in range(10)])
    fineness = 1 if scale.higher_is_better else -1

    def encode(image, quality):
        there = Detections(*(part[: number_kept(quality)] for part in vars(original).values()))
        return round(1000 * 2 ** (fineness * quality / 10)), there

    return Search(scale, encode, [torch.zeros(3, 8, 8, dtype=torch.uint8)], [original])


@pytest.mark.parametrize(("scale", "best"), [(QP, 37), (QUALITY, 63)])
def test_the_coarsest_quality_that_is_enough_is_found_in_few_steps(scale, best):
    finer = (lambda q: q <= best) if scale is QP else (lambda q: q >= best)
    looked = search(scale, lambda q: 9 if finer(q) else 8)
    found = looked.for_agreement(0.9)
    assert (found.quality, found.agreement) == (best, 0.9)
    assert len(looked.tried) <= 11


def test_a_lucky_coarse_quality_does_not_count():
    looked = search(QP, lambda q: 10 if q == 51 or q <= 20 else 5)
    assert looked.for_agreement(0.9).quality == 20


def test_a_coarser_quality_may_reach_what_the_finest_does_not():
    looked = search(QUALITY, lambda q: 5 if q > 90 else 10 if q > 20 else 2)
    found = looked.for_agreement(0.9)
    assert found.agreement == 1
    assert found.quality <= 90


def test_what_is_out_of_reach_and_what_is_always_reached():
    assert search(QP, lambda q: 5).for_agreement(0.6) is None
    assert search(QP, lambda q: 5).for_agreement(0.5).quality == 51
    assert search(QUALITY, lambda q: 5).for_agreement(0.5).quality == 1


@pytest.mark.parametrize("scale", [QP, QUALITY])
def test_the_finest_quality_that_is_small_enough(scale):
    looked = search(scale, lambda q: 5)
    for most in (40, 200, 1000, 30_000):
        found = looked.for_bytes(most)
        sizes = [m.num_bytes for m in looked.tried.values() if m.num_bytes <= most]
        assert (found is None) == (not sizes)
        if found is not None:
            assert found.num_bytes == max(sizes)
    assert looked.for_bytes(1) is None
    assert looked.for_bytes(1e9).quality == (0 if scale is QP else 100)


@pytest.mark.parametrize("value", [0, -0.1, 1.01, float("nan"), True, "1"])
def test_shares_that_are_none_are_told(value):
    with pytest.raises(ArgumentError, match=r"--agreement must be a share in \(0, 1\]"):
        check_agreement(value)
