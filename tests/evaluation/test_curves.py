import csv
import math

import bjontegaard
import pytest

from vcm.errors import ArgumentError
from vcm.evaluation.curves import Axis, accuracy_title, axes_of, compare, curves, ms_ssim_in_db
from vcm.evaluation.points import Point
from vcm.evaluation.results import RESULTS_CSV, Results

MAP = Axis("map", "mAP", "truth")
PSNR = Axis("psnr", "PSNR (dB)")
MS_SSIM = Axis("ms_ssim_db", "MS-SSIM (dB)")


def point(system, bpp, accuracy, *, labels="truth", psnr=30.0, ms_ssim=0.9, num_images=10):
    return Point(
        system=system, title=system.upper(), quality=round(100 * bpp), labels=labels, num_images=num_images,
        num_bytes=1000, num_pixels=8000, bpp=bpp, mean_bpp=bpp, psnr=psnr, ms_ssim=ms_ssim,
        accuracy={"map": accuracy, "map_50": accuracy},
    )  # fmt: skip


def line(system, rates, values, **options):
    return [point(system, rate, value, **options) for rate, value in zip(rates, values, strict=True)]


def results(points, originals=None):
    return Results(
        "test", "detection", {"name": "t"}, {}, points,
        originals or {"truth": {"map": 0.8, "map_50": 0.9}},
    )  # fmt: skip


OLD = line("old", [0.1, 0.3, 0.6, 1.2], [0.20, 0.31, 0.40, 0.47])
NEW = line("new", [0.08, 0.22, 0.5, 1.0], [0.21, 0.33, 0.41, 0.48])


def test_axes_are_accuracy_by_kind_of_labels_and_then_distortions():
    both = results(OLD, {"pseudo": {"map": 1.0, "map_50": 1.0}, "truth": {"map": 0.8, "map_50": 0.9}})
    assert [(axis.key, axis.labels) for axis in axes_of(both)] == [
        ("map", "truth"), ("map", "pseudo"), ("psnr", None), ("ms_ssim_db", None),
    ]  # fmt: skip
    assert axes_of(both)[0].title == "mAP@50:95, ground truth (%)"
    assert axes_of(both, "map_50")[1].title == "mAP@50, pseudo-labels (%)"
    classifier = results(OLD, {"pseudo": {"top_1": 1.0, "top_5": 1.0}})
    assert axes_of(classifier)[0].title == "top-1, pseudo-labels (%)"
    with pytest.raises(ArgumentError, match=r"accuracy must be one of map, map_50; got 'top_1'"):
        axes_of(both, "top_1")


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("map", "mAP@50:95"),
        ("map_75", "mAP@75"),
        ("map_small", "mAP small"),
        ("mar_100", "mAR 100"),
        ("top_5", "top-5"),
    ],
)
def test_names_for_people(name, title):
    assert accuracy_title(name) == title


def test_curves_rise_in_rate_and_accuracies_are_in_percent():
    drawn = curves([*reversed(OLD), *NEW], MAP)
    assert [curve.system for curve in drawn] == ["old", "new"]
    assert drawn[0].title == "OLD"
    assert drawn[0].points == [(p.bpp, pytest.approx(100 * p.accuracy["map"])) for p in OLD]
    assert drawn[0].qualities == [10, 30, 60, 120]


def test_ms_ssim_in_db():
    assert [ms_ssim_in_db(value) for value in (0, 0.9, 0.99, 0.999)] == pytest.approx([0, 10, 20, 30])
    assert ms_ssim_in_db(1) == math.inf
    drawn = curves([point("a", 0.1, 0.1, ms_ssim=0.99), point("a", 0.2, 0.1, ms_ssim=1.0)], MS_SSIM)
    assert drawn[0].points == [(0.1, pytest.approx(20))]  # the infinite one is left out


def test_points_without_a_value_are_left_out():
    points = [
        point("a", 0.1, None), point("a", 0.2, 0.5, psnr=None, ms_ssim=None),
        point("a", 0.3, 0.6, psnr=math.inf),
        point("features", 0.1, 0.4, psnr=None, ms_ssim=None),
    ]  # fmt: skip
    assert [p for p, _ in curves(points, MAP)[0].points] == [0.2, 0.3]
    assert [(c.system, [p for p, _ in c.points]) for c in curves(points, PSNR)] == [("a", [0.1])]
    assert curves(points, Axis("top_1", "top-1", "truth")) == []


def test_distortion_is_drawn_from_the_labels_with_most_images():
    points = [
        point("a", 0.1, 0.5, psnr=20.0),
        point("a", 0.2, 0.5, psnr=25.0, labels="pseudo", num_images=95),
    ]
    assert curves(points, PSNR)[0].points == [(0.2, 25.0)]
    assert curves(points, MAP)[0].points == [(0.1, 50.0)]


def test_deltas_equal_bjontegaard_on_the_points_of_the_csv(tmp_path):
    results([*OLD, *NEW]).write(tmp_path)
    with (tmp_path / RESULTS_CSV).open() as file:
        rows = list(csv.DictReader(file))
    columns = [
        [scale * float(row[key]) for row in rows if row["system"] == name]
        for name in ("old", "new")
        for key, scale in (("bpp", 1), ("map", 100))
    ]
    options = {"method": "pchip", "require_matching_points": False, "min_overlap": 0}
    (found,) = compare(curves(Results.read(tmp_path).points, MAP), "old")
    assert found.title == "NEW"
    assert found.rate.value == pytest.approx(bjontegaard.bd_rate(*columns, **options), abs=1e-9)
    assert found.metric.value == pytest.approx(bjontegaard.bd_psnr(*columns, **options), abs=1e-9)
    assert found.rate.value < 0 < found.metric.value
    assert found.rate.note == found.metric.note == ""


@pytest.mark.parametrize(
    ("accuracies", "note"),
    [
        ([0.21, 0.19, 0.41, 0.48], "test curve is not monotone: 21 at 0.08 bpp, then 19 at 0.22 bpp"),
        ([0.71, 0.73, 0.81, 0.88], "the curves share no quality"),
        ([None, None, 0.41, 0.48], "test curve has 2 points, fewer than 3"),
    ],
)
def test_no_number_where_there_is_none(accuracies, note):
    test = line("new", [0.08, 0.22, 0.5, 1.0], accuracies)
    (found,) = compare(curves([*OLD, *test], MAP), "old")
    assert found.rate.value is None
    assert found.rate.note == note


def test_anchor_that_is_not_there():
    with pytest.raises(ArgumentError, match="anchor must be one of old, new; got 'bpg'"):
        compare(curves([*OLD, *NEW], MAP), "bpg")
