"""Curves that share little: a reason instead of a number, in every table and interval."""

from vcm.cli.main import main
from vcm.evaluation.curves import Axis, Curve, compare
from vcm.evaluation.points import Point
from vcm.evaluation.report import read_study
from vcm.evaluation.results import Results
from vcm.metrics.bd import BDInterval, bd_rate_interval


def test_resamples_with_little_overlap_have_no_bd_rate():
    anchor = [(0.1, 20.0), (0.2, 30.0), (0.4, 40.0)]
    far = [(rate, quality + 12) for rate, quality in anchor]
    assert bd_rate_interval([anchor] * 4, [anchor, anchor, far, far]) == BDInterval((0, 0), 2, 4)
    assert bd_rate_interval([anchor] * 3, [anchor, far, far]) == BDInterval(None, 2, 3)


def test_curves_with_little_overlap_have_a_reason_in_every_table(capsys, tmp_path):
    def curve(system, shift):
        return [
            Point(
                system,
                system,
                q,
                "pseudo",
                9,
                9,
                9,
                0.1 * 2**q,
                0.1,
                20.0 + 10 * q + shift,
                0.9,
                {"map": 0.1 * q},
            )
            for q in range(4)
        ]

    points = [*curve("old", 0), *curve("new", 24)]
    Results("r", "detection", {"name": "t"}, {"num_images": 9}, points, {"pseudo": {"map": 0.5}}).write(
        tmp_path
    )
    assert main(["report", str(tmp_path)]) == 0
    reason = "the curves overlap by 11% only, less than 50%"
    assert f"PSNR (dB): {reason}" in capsys.readouterr().err
    html = (tmp_path / "report.html").read_text()
    assert html.count(f"PSNR (dB): {reason}") == 1
    study = read_study([tmp_path])
    found = dict(study.comparisons)[Axis("psnr", "PSNR (dB)")]["new"]
    assert (found.rate.value, found.rate.note, found.interval) == (None, reason, None)


def test_a_dip_within_the_intervals_of_its_points_voids_no_column():
    values = [0.123, 0.138, 0.137, 0.156]

    def curve(system, half_width):
        return Curve(
            system,
            system,
            [(0.2 * 2**q, 100 * value) for q, value in enumerate(values)],
            [0.0, 1.0, 2.0, 3.0],
            [(100 * value - half_width, 100 * value + half_width) for value in values],
            [],
            "",
        )

    noisy = compare([curve("bpg", 0.2), curve("new", 0.2)], "bpg")[0]
    assert noisy.rate.value == 0
    assert "dips by 0.1 at 0.8 bpp: levelled by a monotone fit" in noisy.rate.note
    certain = compare([curve("bpg", 0.01), curve("new", 0.01)], "bpg")[0]
    assert certain.rate.value is None
    assert "not monotone" in certain.rate.note


def test_by_envelopes_no_dip_leaves_a_curve_or_a_resample_without_a_number():
    def curve(system, values, rates=(0.1, 0.2, 0.4, 0.8, 1.6)):
        points = list(zip(rates, values, strict=True))
        return Curve(system, system, points, list(rates), [None] * 5, [points, points[::-1]], "same")

    anchor = curve("bpg", [10.0, 20, 30, 40, 50])
    dips = curve("new", [10.0, 20, 15, 40, 50])
    assert compare([anchor, dips], "bpg")[0].rate.value is None
    found = compare([anchor, dips], "bpg", by_envelope=True)[0]
    assert abs(found.rate.value) < 5
    assert found.interval.num_undefined == 0
    narrow = curve("narrow", [24.0, 26, 28, 30, 32], (0.1, 0.12, 0.14, 0.16, 0.18))
    assert compare([anchor, narrow], "bpg")[0].rate.value is None
    found = compare([anchor, narrow], "bpg", by_envelope=True)[0]
    assert found.rate.value is None  # 8 of the 20 percent between the anchor's points around it
    finer = Curve("bpg", "bpg", [(0.1 * 2 ** (q / 4), 10 + 2.5 * q) for q in range(17)], [], [], [], "")
    found = compare([finer, narrow], "bpg", by_envelope=True)[0]
    assert found.rate.value < -40
    assert found.interval is None


def test_the_metric_at_equal_rate_sees_the_whole_anchor():
    def curve(system, points):
        return Curve(system, system, points, [0.0] * len(points), [None] * len(points), [], "")

    anchor = curve("bpg", [(0.05, 0.3), (0.1, 0.5), (0.2, 0.7), (0.4, 0.85), (0.8, 0.95)])
    better = curve("new", [(0.08, 0.84), (0.2, 0.88), (0.4, 0.93)])
    found = compare([anchor, better], "bpg", by_envelope=True)[0]
    assert 0.1 < found.metric.value < 0.4
