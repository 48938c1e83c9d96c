import math

import bjontegaard
import numpy as np
import pytest

from vcm.errors import ArgumentError
from vcm.metrics.bd import (
    BDInterval,
    bd_metric,
    bd_rate,
    bd_rate_interval,
    levelled,
    upper_envelope,
    within_reach,
)

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


def test_little_overlap_is_noted_and_below_half_leaves_no_number():
    result = bd_rate(ANCHOR, [(rate, quality + 5) for rate, quality in ANCHOR])
    assert result.value is not None
    assert result.overlap == pytest.approx((41.5 - 26) / (46.5 - 21))
    assert result.note == "the curves overlap by 61% only"
    result = bd_rate(ANCHOR, [(rate, quality + 12) for rate, quality in ANCHOR])
    assert result.overlap == pytest.approx((41.5 - 33) / (53.5 - 21))
    assert (result.value, result.note) == (None, "the curves overlap by 26% only, less than 50%")
    result = bd_metric(ANCHOR, [(rate * 6, quality) for rate, quality in ANCHOR])
    assert result.value is None
    assert "less than 50%" in result.note


def test_a_number_never_rests_on_a_tenth_of_a_point():
    """What the demo once said: +123.6 % from curves that share 41.4 to 41.5."""
    test = [(rate, quality + 20.4) for rate, quality in ANCHOR]
    for method in ("pchip", "akima", "cubic"):
        result = bd_rate(ANCHOR, test, method=method)
        assert (result.value, result.note) == (None, "the curves overlap by 0% only, less than 50%")


def random_curve(rng):
    count = rng.integers(4, 9)
    rates = 0.05 * np.cumprod(rng.uniform(1.3, 2.2, count))
    return list(zip(rates, 20 + np.cumsum(rng.uniform(0.5, 5, count)), strict=True))


def test_monotone_curves_have_the_numbers_of_bjontegaard():
    rng, compared = np.random.default_rng(0), 0
    for _ in range(200):
        anchor, test = random_curve(rng), random_curve(rng)
        arguments = (*columns(anchor), *columns(test))
        for method in ("pchip", "akima"):
            options = {"method": method, "require_matching_points": False, "min_overlap": 0}
            for ours, theirs in ((bd_rate, bjontegaard.bd_rate), (bd_metric, bjontegaard.bd_psnr)):
                found = ours(anchor, test, method=method)
                if found.value is None:
                    assert found.overlap < 0.5 or "akima fit" in found.note
                else:
                    assert found.value == pytest.approx(theirs(*arguments, **options), abs=1e-9)
                    compared += 1
    assert compared > 300


@pytest.mark.parametrize(
    ("curve", "note"),
    [
        (
            [(0.1, 20), (0.3, 30), (0.6, 29.9), (1.2, 40)],
            "dips by 0.1 at 0.6 bpp: levelled by a monotone fit",
        ),
        (
            [(0.1, 20), (0.3, 30), (0.6, 30), (1.2, 40)],
            "does not rise at 0.3 bpp: levelled by a monotone fit",
        ),
    ],
)
def test_a_dip_within_two_percent_of_the_range_is_levelled_and_noted(curve, note):
    (low, *_, high), quality = curve, (curve[1][1] + curve[2][1]) / 2
    by_hand = [low, (math.sqrt(0.3 * 0.6), quality), high]
    for function in (bd_rate, bd_metric):
        found, expected = function(ANCHOR, curve), function(ANCHOR, by_hand)
        assert found.value == pytest.approx(expected.value)
        assert (expected.note, found.note) == ("", f"test curve {note}")
        assert function(curve, ANCHOR).note == f"anchor curve {note}"


def test_levelling_equals_isotonic_regression():
    optimize = pytest.importorskip("scipy.optimize")
    rng, levels = np.random.default_rng(1), 0
    for _ in range(200):
        rates = np.arange(1.0, 13)
        qualities = np.linspace(20, 40, 12) + rng.uniform(-1.1, 1.1, 12)
        found, note = levelled(list(zip(rates, qualities, strict=True)))
        fitted = optimize.isotonic_regression(qualities).x
        if np.all(np.diff(qualities) > 0) or np.max(
            np.maximum.accumulate(qualities) - qualities
        ) > 0.02 * np.ptp(qualities):
            assert (note, len(found)) == ("", 12)
        else:
            assert [quality for _, quality in found] == pytest.approx(np.unique(fitted))
            levels += 1
    assert levels > 5


@pytest.mark.parametrize(
    "curve",
    [
        [(0.1, 20), (0.3, 30), (0.6, 29.5), (1.2, 40)],
        [(0.1, 20), (0.3, 30), (0.6, 29.7), (0.7, 29.5), (1.2, 40)],
        [(0.1, 20), (0.3, 30), (0.3, 31), (1.2, 40)],
    ],
)
def test_curve_that_is_not_monotone_gets_no_number(curve):
    for function in (bd_rate, bd_metric):
        assert function(ANCHOR, curve).value is None
        assert "test curve is not monotone" in function(ANCHOR, curve).note
        assert "anchor curve is not monotone" in function(curve, ANCHOR).note


def test_too_few_points_are_left_where_dips_are_levelled():
    assert (
        "test curve has 2 points, fewer than 3" in bd_rate(ANCHOR, [(0.1, 20), (0.3, 40), (0.6, 39.9)]).note
    )


@pytest.mark.parametrize(
    "steps", [(0.1, 20, 0.2, 20.1, 0.4, 39.8, 0.8, 40), (0.1, 20, 0.11, 30, 1.2, 31, 1.3, 40)]
)
def test_a_fit_that_swings_is_no_number(steps):
    """A polynomial through steep and flat parts swings far out: +100421 % for a published curve, once."""
    test = list(zip(steps[::2], steps[1::2], strict=True))
    result = bd_rate(ANCHOR, test, method="cubic")
    assert result.value is None
    assert result.note == "test curve: the cubic fit is not monotone; use pchip"
    assert bd_rate(ANCHOR, test).value is not None


def test_a_fit_that_misses_its_points_is_no_number():
    test = [(0.1, 20), (0.102, 25), (0.104, 30), (0.106, 31), (2.0, 33), (2.2, 40), (2.4, 45)]
    result = bd_rate(ANCHOR, test, method="cubic")
    assert result.value is None
    assert "passes its points by" in result.note or "not monotone" in result.note


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
    assert "anchor curve: the cubic fit is not monotone" in result.note
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


def test_a_dip_within_the_noise_of_its_points_is_levelled():
    curve = [(0.1, 20), (0.3, 30), (0.6, 29.5), (1.2, 40)]
    by_hand = [(0.1, 20), (math.sqrt(0.3 * 0.6), 29.75), (1.2, 40)]
    for function in (bd_rate, bd_metric):
        assert function(ANCHOR, curve).value is None
        assert function(ANCHOR, curve, noise=0.4).value is None
        found = function(ANCHOR, curve, noise=0.5)
        assert found.value == pytest.approx(function(ANCHOR, by_hand).value)
        assert "dips by 0.5 at 0.6 bpp: levelled" in found.note
    interval = bd_rate_interval([ANCHOR] * 3, [curve] * 3, noise=0.5)
    assert (interval.num_undefined, interval.ends) == (0, (found_rate(by_hand),) * 2)


def found_rate(curve):
    return pytest.approx(bd_rate(ANCHOR, curve).value)


def test_the_upper_envelope_is_what_no_cheaper_point_reaches():
    curve = [(0.4, 30.0), (0.1, 10.0), (0.2, 25.0), (0.3, 20.0), (0.2, 24.0), (0.5, 30.0), (0.6, math.nan)]
    assert upper_envelope(curve) == [(0.1, 10.0), (0.2, 25.0), (0.4, 30.0)]
    assert upper_envelope(ANCHOR) == sorted(ANCHOR)
    assert upper_envelope([]) == []


@pytest.mark.parametrize(
    ("test_range", "expected"),
    [
        ((25, 35), (20, 40)),
        ((20, 40), (10, 50)),
        ((5, 55), (10, 50)),
        ((44, 70), (30, 50)),  # three points at least
        ((2, 3), (10, 30)),
        ((31, 32), (20, 50)),
    ],
)
def test_an_anchor_within_reach(test_range, expected):
    anchor = [(0.1 * 2**q, 10.0 + 10 * q) for q in range(5)]
    found = within_reach(anchor, [(0.1, float(test_range[0])), (0.2, float(test_range[1]))])
    assert (found[0][1], found[-1][1]) == expected
    assert found == [point for point in anchor if expected[0] <= point[1] <= expected[1]]


def test_an_anchor_of_few_points_stays():
    assert within_reach([(0.1, 10.0), (0.2, 20.0)], [(0.1, 15.0)]) == [(0.1, 10.0), (0.2, 20.0)]
