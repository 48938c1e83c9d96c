"""Runs of a sweep as curves: which points are joined, under what names and qualities."""

import pytest
from runs import line, point, version, write_run

from vcm.errors import ArgumentError
from vcm.evaluation.report import Source, SweptRun, join_runs, make_study, write_report
from vcm.evaluation.results import Results


def swept_run(folder, points, **swept):
    points = [{**p, "num_bytes": round(1000 * p["bpp"])} for p in points]
    results = Results.read(write_run(folder, points))
    return SweptRun(Source(folder, results, "", False), {k: str(v) for k, v in swept.items()})


def curves_of(sources):
    found = {}
    for source in sources:
        for p in source.results.points:
            found.setdefault(p.system, []).append((p.quality, p.bpp))
    return found


def test_one_point_a_model_becomes_a_curve_and_the_anchor_counts_once(tmp_path):
    runs = [
        swept_run(tmp_path / str(n), [*line("bpg"), point("net", 1, 0.1 * n, 0.2 * n)], lmbda=0.01 * n)
        for n in (1, 2, 3)
    ]
    sources = join_runs(runs)
    found = curves_of(sources)
    assert list(found) == ["bpg", "net"]
    assert len(found["bpg"]) == 4
    assert found["net"] == [
        (0.01, pytest.approx(0.1)),
        (0.02, pytest.approx(0.2)),
        (0.03, pytest.approx(0.3)),
    ]
    study = make_study(sources, tmp_path / "out")
    assert study.anchor == "bpg"
    assert (write_report(study)).is_file()


def test_another_swept_setting_gives_another_curve(tmp_path):
    runs = [
        swept_run(tmp_path / f"{lmbda}{seed}", [point("net", 1, lmbda + seed, 0.5)], lmbda=lmbda, seed=seed)
        for lmbda in (0.1, 0.2)
        for seed in (1, 2)
    ]
    with pytest.raises(ArgumentError, match="along must be one of lmbda, seed"):
        join_runs(runs)
    found = curves_of(join_runs(runs, "lmbda"))
    assert {name: [q for q, _ in points] for name, points in found.items()} == {
        "net (seed=1)": [0.1, 0.2],
        "net (seed=2)": [0.1, 0.2],
    }


def test_the_only_setting_with_numbers_goes_along_the_curve(tmp_path):
    runs = [
        swept_run(
            tmp_path / f"{lmbda}{name}", [point("net", 1, lmbda, 0.5)], **{"a.lmbda": lmbda, "b.net": name}
        )
        for lmbda, name in ((0.1, "x"), (0.2, "x"), (0.3, "y"), (0.4, "y"))
    ]
    assert set(curves_of(join_runs(runs))) == {"net (net=x)", "net (net=y)"}


def test_models_named_by_path_are_numbered(tmp_path):
    runs = [
        swept_run(tmp_path / name, [point("net", 1, bpp, 0.5)], model=f"runs/{name}/model.safetensors")
        for name, bpp in (("b", 0.3), ("a", 0.2))
    ]
    assert [q for q, _ in curves_of(join_runs(runs))["net"]] == [1, 2]


def test_qualities_that_were_swept_stay(tmp_path):
    runs = [
        swept_run(tmp_path / str(q), [point("jpeg", q, 0.1 * q, 0.1 * q)], qualities=f"[{q}]") for q in (2, 5)
    ]
    assert [q for q, _ in curves_of(join_runs(runs))["jpeg"]] == [2, 5]


def test_runs_of_several_points_are_curves_of_their_own(tmp_path):
    runs = [
        swept_run(tmp_path / str(rate), line("npp", 1 + rate), **{"preprocessor.lmbda": rate})
        for rate in (1, 2)
    ]
    found = curves_of(join_runs(runs))
    assert {name: len(points) for name, points in found.items()} == {"npp (lmbda=1)": 4, "npp (lmbda=2)": 4}


def test_example_images_of_joined_points_are_shown_at_their_new_quality(tmp_path):
    runs = []
    for lmbda in (0.5, 2.0):
        folder = tmp_path / str(lmbda)
        write_run(
            folder,
            [point("net", 1, lmbda, 0.5, num_bytes=round(9 * lmbda))],
            {"net-1": version("examples/o.png", 100)},
        )
        runs.append(SweptRun(Source(folder, Results.read(folder), "", False), {"lmbda": str(lmbda)}))
    page = write_report(make_study(join_runs(runs), tmp_path / "out")).read_text()
    assert "quality 0.5 · 100 bytes" in page or "quality 2 · 100 bytes" in page
    assert "between its points" not in page
