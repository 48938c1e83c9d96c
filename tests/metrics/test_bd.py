import math

import bjontegaard
import numpy as np
import pytest

from vcm.errors import ArgumentError
from vcm.metrics.bd import BDInterval, bd_metric, bd_rate, bd_rate_interval

ANCHOR = [(0.12, 21.0), (0.31, 30.2), (0.62, 36.1), (1.2, 40.3), (1.9, 41.5)]
TEST = [(0.08, 20.1), (0.25, 30.9), (0.5, 36.6), (1.1, 41.2)]


def columns(curve):
    return [rate for rate, _ in curve], [quality for _, quality in curve]


@pytest.mark.parametrize("method", ["akima", "pchip", "cubic"])
def test_equals_bjontegaard_called_directly(method):
    arguments = (*columns(ANCHOR), *columns(TEST))
    rate = bjontegaard.bd_rate(*arguments, method=method, require_matching_points=False, min_overlap=0)
    metric = bjontegaard.bd_psnr(*arguments, method=method, require_matching_points=False, min_overlap=0)
    assert bd_rate(ANCHOR, TEST, method=method).value == pytest.approx(rate, abs=1e-12)
    assert bd_metric(ANCHOR, TEST, method=method).value == pytest.approx(metric, abs=1e-12)
    assert rate < -1


def test_half_the_rate_everywhere_is_minus_50_percent():
    result = bd_rate(ANCHOR, [(rate / 2, quality) for rate, quality in ANCHOR])
    assert result.value == pytest.approx(-50)
    assert result.note == ""


def test_order_of_points_does_not_matter():
    assert bd_rate(ANCHOR[::-1], TEST) == bd_rate(ANCHOR, TEST[::-1])


def test_curves_without_overlap_get_no_number():
    result = bd_rate(ANCHOR, [(rate, quality + 30) for rate, quality in ANCHOR])
    assert result.value is None
    assert "share no quality" in result.note
    assert "share no rate" in bd_metric(ANCHOR, [(rate * 100, quality) for rate, quality in ANCHOR]).note


def test_little_overlap_is_told_beside_the_number():
    result = bd_rate(ANCHOR, [(rate, quality + 12) for rate, quality in ANCHOR])
    assert result.value is not None
    assert result.overlap == pytest.approx((41.5 - 33) / (53.5 - 21))
    assert "overlap" in result.note


@pytest.mark.parametrize(
    "curve",
    [
        [(0.1, 20), (0.3, 30), (0.6, 29.9), (1.2, 40)],
        [(0.1, 20), (0.3, 30), (0.3, 31), (1.2, 40)],
        [(0.1, 20), (0.3, 30), (0.6, 30), (1.2, 40)],
    ],
)
def test_curve_that_is_not_monotone_gets_no_number(curve):
    for function in (bd_rate, bd_metric):
        assert function(ANCHOR, curve).value is None
        assert "test curve is not monotone" in function(ANCHOR, curve).note
        assert "anchor curve is not monotone" in function(curve, ANCHOR).note


def test_short_and_infinite_curves_get_no_number():
    assert "fewer than 3" in bd_rate(ANCHOR, TEST[:2]).note
    assert "fewer than 4" in bd_rate(ANCHOR, TEST[:3], method="cubic").note
    assert "not finite" in bd_rate(ANCHOR, [*TEST, (2.0, math.inf)]).note


def test_bad_arguments():
    with pytest.raises(ArgumentError, match="method"):
        bd_rate(ANCHOR, TEST, method="linear")
    with pytest.raises(ArgumentError, match="positive"):
        bd_rate(ANCHOR, [(0.0, 10), *TEST])


def test_a_delta_beyond_the_range_of_numbers_is_no_number():
    anchor = [(0.02, 1.4e-7), (0.03, 0.14), (1.7, 0.31), (4.9, 0.59), (5.6, 51.7)]
    test = [(0.57, 2.0e-7), (0.61, 0.98), (1.03, 30.7), (3.68, 47.9)]
    result = bd_rate(anchor, test, method="cubic")
    assert result.value is None
    assert "range of numbers" in result.note
    assert bd_rate(anchor, test, method="pchip").value is not None


def test_curves_may_be_arrays():
    assert bd_rate(np.array(ANCHOR), np.array(TEST)) == bd_rate(ANCHOR, TEST)


def test_interval_holds_95_percent_of_the_rates_that_there_are():
    factors = np.linspace(0.5, 1.5, 201)
    tests = [[(factor * rate, quality) for rate, quality in ANCHOR] for factor in factors]
    found = bd_rate_interval([ANCHOR] * 201, tests)
    assert found.ends == pytest.approx((-47.5, 47.5))
    assert (found.num_undefined, found.num_resamples, found.excludes_zero) == (0, 201, False)
    falling = [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]
    half = bd_rate_interval([ANCHOR] * 4, [ANCHOR, ANCHOR, falling, falling])
    assert half == BDInterval((0, 0), 2, 4)
    assert bd_rate_interval([ANCHOR] * 3, [ANCHOR, falling, falling]) == BDInterval(None, 2, 3)
    faster = bd_rate_interval([ANCHOR] * 2, [TEST] * 2)
    assert faster.ends == pytest.approx((bd_rate(ANCHOR, TEST).value,) * 2)
    assert faster.excludes_zero


def test_interval_needs_pairs():
    for anchors, tests in (([ANCHOR], []), ([], []), ([ANCHOR, ANCHOR], [TEST])):
        with pytest.raises(ArgumentError, match="tests must be one curve for each"):
            bd_rate_interval(anchors, tests)
