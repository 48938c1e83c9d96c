"""Confidence by bootstrap: draws, figures on them, intervals, and what files and reports tell of them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vcm.cli.main import main
from vcm.codecs import JPEGCodec, WebPCodec
from vcm.errors import ArgumentError, EvaluationError
from vcm.evaluation.bootstrap import draw_images, interval
from vcm.evaluation.curves import Axis, Comparison, axes_of, compare, curves
from vcm.evaluation.labels import pseudo_labels, true_labels
from vcm.evaluation.points import measure
from vcm.evaluation.records import RecordFile, prediction_from_json
from vcm.evaluation.report import build_report, read_study
from vcm.evaluation.report.table import Cell, bd_table
from vcm.evaluation.results import BOOTSTRAP_JSON, RESULTS_CSV, RESULTS_JSON, Results
from vcm.metrics.bd import BDInterval, BDResult, bd_rate
from vcm.metrics.classification import TopKAccuracy
from vcm.types import ClassScores

QUALITIES = (1, 5, 20)


def codecs(**options):
    return {
        "jpeg": [JPEGCodec(quality=quality) for quality in QUALITIES],
        "webp": [WebPCodec(quality=quality, **options) for quality in QUALITIES],
    }


@pytest.fixture
def run(build, tmp_path):
    """An evaluation of two codecs at three qualities, with 40 resamples."""
    build(codecs=codecs(), bootstrap=40).run()
    return tmp_path / "run"


def test_draws_are_the_same_for_the_same_images():
    first, again = draw_images(["a", "b", "c"], 5), draw_images(["a", "b", "c"], 5)
    assert first.indices.shape == (6, 3)
    assert first.indices[0].tolist() == [0, 1, 2]
    assert first.indices.max() < 3
    np.testing.assert_array_equal(first.indices, again.indices)
    others = (
        draw_images(["a", "b", "d"], 5),
        draw_images(["a", "b", "c"], 6),
        draw_images(["a", "b", "c"], 5, 2),
    )
    assert len({first.fingerprint, again.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert draw_images(["alone"], 5).indices.tolist() == [[0]]


def test_interval_holds_95_percent_of_what_is_finite():
    values = [float(value) for value in range(1001)]
    assert interval(values) == [25, 975]
    assert interval([*values, None, math.inf]) == [25, 975]
    assert interval([1.0, None, math.inf]) is None
    assert interval([]) is None


def test_figures_on_a_resample_are_those_of_the_images_drawn(build):
    """Each resample anew, as if it were a data set: with copies of images under names of their own."""
    evaluation = build(codecs=codecs(), bootstrap=6)
    results = evaluation.run()
    for number, kind in enumerate(("truth", "pseudo")):
        point = results.points[number * 6 + 4]
        assert (point.system, point.quality, point.labels) == ("webp", 5, kind)
        records, labels = saved(evaluation, "webp-5"), labels_of(evaluation, kind)
        image_ids = [image_id for image_id in evaluation.dataset.image_ids if image_id in labels.targets]
        draws = draw_images(image_ids, 6)
        assert point.resamples.draws == draws.fingerprint
        for place, row in enumerate(draws.indices[1:]):
            names = {f"{copy}": image_ids[index] for copy, index in enumerate(row)}
            again = measure(
                evaluation.systems[4],
                {copy: records[image_id] for copy, image_id in names.items()},
                list(names),
                replace(labels, targets={copy: labels.targets[image_id] for copy, image_id in names.items()}),
                evaluation.task,
                draws=draw_images(list(names), 0),
            )
            expected = {"bpp": again.bpp, "psnr": again.psnr, "ms_ssim": again.ms_ssim, **again.accuracy}
            expected = {name: math.nan if value is None else value for name, value in expected.items()}
            found = {name: values[place] for name, values in point.resamples.figures.items()}
            found = {name: math.nan if value is None else value for name, value in found.items()}
            assert found == pytest.approx(expected, rel=1e-6, nan_ok=True)
            assert again.resamples is None


def saved(evaluation, name):
    (path,) = (evaluation.folder / "records").glob(f"{name}-*[0-9a-f].jsonl")
    settings = json.loads(path.read_text().splitlines()[0])
    del settings["format"]
    return RecordFile(evaluation.folder / "records", name, settings).records


def labels_of(evaluation, kind):
    if kind == "pseudo":
        found = {
            r.image_id: prediction_from_json(r.prediction) for r in saved(evaluation, "originals").values()
        }
        return pseudo_labels(found, 0.3)
    data = evaluation.dataset
    targets = {image_id: data.target(index) for index, image_id in enumerate(data.image_ids)}
    known = {image_id: target for image_id, target in targets.items() if target is not None}
    return true_labels(known, data.categories, evaluation.task.categories)


def test_intervals_are_in_the_results_and_hold_the_points(run):
    results = Results.read(run)
    for point in results.points:
        assert set(point.intervals) >= {"bpp", "psnr", "ms_ssim", "map", "map_50"}
        for name, (low, high) in point.intervals.items():
            value = point.accuracy[name] if name in point.accuracy else getattr(point, name)
            assert low <= value <= high
        assert point.intervals["bpp"][0] < point.bpp < point.intervals["bpp"][1]
        assert "map_small" not in point.intervals  # there is no small box
        assert set(point.resamples.figures["map_small"]) == {None}
        assert len(point.resamples.figures["map"]) == 40
    header, first, *_ = (run / RESULTS_CSV).read_text().splitlines()
    row = dict(zip(header.split(","), first.split(","), strict=True))
    assert [float(row["bpp_low"]), float(row["bpp_high"])] == results.points[0].intervals["bpp"]


def test_all_points_share_the_draws(build):
    """The same codec twice: no resample tells the two apart, and so the interval has no width."""
    twice = {name: [JPEGCodec(quality=quality) for quality in QUALITIES] for name in ("one", "two")}
    results = build(codecs=twice, bootstrap=20).run()
    axis = next(axis for axis in axes_of(results) if axis.key == "psnr")
    (found,) = compare(curves(results.points, axis), "one")
    assert found.interval == BDInterval((0, 0), 0, 20)


def test_bd_rates_on_resamples_are_those_of_their_curves(run):
    results = Results.read(run)
    axis = next(axis for axis in axes_of(results) if axis.key == "ms_ssim_db")
    (found,) = compare(curves(results.points, axis), "jpeg")
    points = {(p.system, p.quality): p for p in results.points if p.labels == "pseudo"}
    rates = []
    for place in range(40):
        pair = [
            [
                (figures["bpp"][place], -10 * math.log10(1 - figures["ms_ssim"][place]))
                for quality in QUALITIES
                for figures in [points[system, quality].resamples.figures]
            ]
            for system in ("jpeg", "webp")
        ]
        rates.append(bd_rate(*pair).value)
    assert found.interval.ends == pytest.approx(np.percentile(rates, [2.5, 97.5]))
    low, high = found.interval.ends
    assert low < found.rate.value < high
    assert found.interval.excludes_zero == (low > 0 or high < 0)


def test_no_bootstrap_and_one_image_have_no_intervals(run, build, world):
    assert (run / BOOTSTRAP_JSON).exists()
    results = build(codecs=codecs(), bootstrap=0).run()
    assert not (run / BOOTSTRAP_JSON).exists()
    assert all(point.intervals == {} and point.resamples is None for point in results.points)
    assert "_low" not in (run / RESULTS_CSV).read_text()
    html = build_report([run]).read_text()
    assert "by bootstrap" not in html
    assert "<small>" not in html
    results = build("one", codecs=codecs(), dataset=world.dataset(limit=1)).run()
    assert results.points[0].intervals == {}
    for wrong in (-1, 2.5, True, "200"):
        with pytest.raises(ArgumentError, match="bootstrap must be a whole number of at least 0"):
            build(bootstrap=wrong)


def test_folders_from_before_can_be_read(run):
    (run / BOOTSTRAP_JSON).unlink()
    content = json.loads((run / RESULTS_JSON).read_text())
    for point in content["points"]:
        del point["intervals"]
    (run / RESULTS_JSON).write_text(json.dumps(content))
    assert Results.read(run).points[0].intervals == {}
    assert "webp" in build_report([run]).read_text()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "3",
        '{"jpeg-1 truth": 1}',
        '{"jpeg-1 truth": {"draws": "a"}}',
        '{"jpeg-1 truth": {"draws": "a", "figures": {"bpp": ["x"]}}}',
        '{"jpeg-1 truth": {"draws": "a", "figures": {"bpp": [1], "map": []}}}',
    ],
)
def test_damaged_resamples_are_told(run, content):
    (run / BOOTSTRAP_JSON).write_text(content)
    with pytest.raises(EvaluationError, match=r"bootstrap\.json is damaged"):
        Results.read(run)


def test_report_needs_neither_images_nor_records(run, tmp_path, capsys):
    for name in ("images", "run/records"):
        (tmp_path / name).rename(tmp_path / f"{name}-gone")
    assert main(["report", str(run), "--anchor", "jpeg", "--accuracy", "map_50"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{run / 'report.html'}\n"
    html = (run / "report.html").read_text()
    study = read_study([run], anchor="jpeg", accuracy="map_50")
    ((_, cells),) = study.bd_table(of_rate=True).rows
    assert " to " in cells[-1].interval
    for cell in cells:
        assert cell.text in printed.err
        assert cell.interval in printed.err
        assert f"<small>{cell.interval}</small>" in html or not cell.interval
    assert "over 40 resamples of the images" in html
    assert "Bars: 95 % bootstrap intervals over images" in html
    svg = (run / "plots/rate_psnr.svg").read_text()
    assert svg.count("LineCollection") == 2


def test_resamples_without_a_bd_rate_are_told_and_too_many_leave_no_interval():
    def cell(interval):
        found = Comparison("a", "A", BDResult(-5.0, "", 1.0), BDResult(1.0, "", 1.0), interval)
        table = bd_table([(Axis("psnr", "PSNR (dB)"), {"a": found})], {"a": "A", "b": "B"}, "b", of_rate=True)
        return table.rows[0][1][0], table.undefined

    assert cell(BDInterval((-9.0, -1.0), 0, 40)) == (Cell("−5.0 %", "good", 0, "−9.0 to −1.0"), [])
    assert cell(BDInterval((-9.0, 1.0), 3, 40))[0].tone == ""
    found, undefined = cell(BDInterval(None, 25, 40))
    assert (found.interval, found.tone) == ("no interval", "")
    assert undefined == ["PSNR (dB): resamples without a BD-rate: 25 of 40 for A"]
    assert (cell(None)[0].tone, cell(None)[0].interval) == ("good", "")


def test_runs_on_other_images_are_not_paired(build, world, tmp_path):
    class Fails(WebPCodec):
        def encode_array(self, pixels):
            if pixels.shape[1] == 173:
                raise ValueError("no")
            return super().encode_array(pixels)

    psnr = {}
    for name, codec in (("same", WebPCodec), ("other", Fails)):
        build("jpeg", codecs={"jpeg": [JPEGCodec(quality=quality) for quality in (5, 50, 80)]}).run()
        build(name, codecs={"webp": [codec(quality=quality) for quality in (5, 20, 40)]}).run()
        study = read_study([tmp_path / "jpeg", tmp_path / name])
        psnr[name] = dict(study.comparisons)[next(axis for axis, _ in study.curves if axis.key == "psnr")]
    assert psnr["same"]["webp"].interval is not None
    assert psnr["other"]["webp"].rate.value is not None
    assert psnr["other"]["webp"].interval is None


class BrightClasses:
    """What the detector's world becomes for a classifier: is the bright part left of the middle?"""

    kind = "classification"
    name = "side"
    categories = ("left", "right")

    def tail(self, features):
        grey = features.tensors["blur"][0, 0]
        half = grey.shape[1] // 2
        return [ClassScores(torch.stack([grey[:, :half].mean(), grey[:, half:].mean()]))]

    def metric(self):
        return TopKAccuracy(ks=(1,))


def test_classification(build, world):
    class Sides(BrightClasses, world.task):
        pass

    results = build(codecs=codecs(), task=Sides(), bootstrap=30).run()
    assert {point.labels for point in results.points} == {"pseudo"}
    for point in results.points:
        values = point.resamples.figures["top_1"]
        assert len(values) == 30
        assert {round(10 * value, 4) % 1 for value in values} == {0}
        low, high = point.intervals["top_1"]
        assert low <= point.accuracy["top_1"] <= high


def test_metric_that_cannot_resample_has_no_interval_of_its_own(build, world):
    class Plain(TopKAccuracy):
        resampled = None

    class Sides(BrightClasses, world.task):
        def metric(self):
            return Plain(ks=(1,))

    (point, *_) = build(codecs=codecs(), task=Sides()).run().points
    assert point.accuracy["top_1"] is not None
    assert set(point.intervals) == {"bpp", "psnr", "ms_ssim"}
