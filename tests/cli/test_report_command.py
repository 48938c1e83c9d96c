"""`vcm report`: which runs, what they are called, and what they are compared with."""

import json
from pathlib import Path

import pytest

from vcm.cli.main import main


def points(system, factor=1.0, title=None, qualities=range(4)):
    return [
        {
            **{"system": system, "title": title or system.upper(), "quality": q, "labels": "pseudo"},
            **{"num_images": 2, "num_bytes": int(1000 * factor * 2**q), "num_pixels": 80000},
            **{"bpp": 0.1 * factor * 2**q, "mean_bpp": 0.1 * factor * 2**q, "psnr": 30 + q, "ms_ssim": 0.9},
            **{"accuracy": {"map": 0.1 * (q + 1), "map_50": 0.15 * (q + 1)}, "intervals": {}},
        }
        for q in qualities
    ]


@pytest.fixture
def run(tmp_path):
    """`run(name, points)`: the folder of a run that measured them."""

    def run(name, measured):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        content = {
            **{"name": "r", "kind": "detection", "task": {"name": "t"}, "data": {"num_images": 2}},
            **{"points": measured, "originals": {"pseudo": {"map": 0.9, "map_50": 0.95}}, "failures": []},
        }
        (folder / "results.json").write_text(json.dumps(content))
        return folder

    return run


@pytest.fixture
def report(capsys):
    """Run the command: its status, the HTML it wrote (empty where none), and what it told."""

    def report(*arguments):
        status = main(["report", *map(str, arguments)])
        captured = capsys.readouterr()
        html = Path(captured.out.strip()).read_text() if status == 0 else ""
        return status, html, captured.err

    return report


@pytest.mark.parametrize("anchor", ["avif", "AVIF", " Avif ", "av1 image", "AV1  Image"])
def test_anchor_by_key_or_title_in_any_case(run, report, anchor):
    folder = run("a", [*points("jpeg"), *points("avif", 0.5, "AV1 Image")])
    status, html, told = report(folder, "--anchor", anchor)
    assert status == 0
    assert "BD-rate against AV1 Image" in told
    assert "+100.0 %" in html


@pytest.mark.parametrize(("anchor", "nearest"), [("avfi", "avif"), ("AVI", "avif"), ("JPG", "jpeg")])
def test_anchor_that_is_not_there_suggests_the_nearest(run, report, anchor, nearest):
    status, _, told = report(run("a", [*points("jpeg"), *points("avif")]), "--anchor", anchor)
    assert status == 2
    assert f"Did you mean '{nearest}'?" in told
    assert "anchor must be one of jpeg, avif" in told


def test_anchor_that_two_systems_are_called_is_told(run, report):
    folder = run("a", [*points("one", title="Same"), *points("two", title="Same")])
    status, _, told = report(folder, "--anchor", "same")
    assert status == 2
    assert "one, two all have this title" in told
    assert report(folder, "--anchor", "TWO")[0] == 0


@pytest.mark.parametrize("accuracy", ["map_50", "MAP_50", "mAP@50", "map@50"])
def test_accuracy_by_name_or_title_in_any_case(run, report, accuracy):
    status, html, _ = report(run("a", points("jpeg")), "--accuracy", accuracy)
    assert status == 0
    assert "mAP@50, pseudo-labels (%) over rate" in html


def test_accuracy_that_is_not_there_suggests_the_nearest(run, report):
    status, _, told = report(run("a", points("jpeg")), "--accuracy", "map50")
    assert status == 2
    assert "Did you mean 'map_50'?" in told


def test_names_tell_runs_apart_that_share_their_systems(run, report):
    a, b = run("runs/a", points("learned", 1.0)), run("runs/b", points("learned", 0.5))
    status, _, told = report(a, b)
    assert status == 2
    assert f"both hold learned at quality 0. Tell them apart with --name {b}=LABEL" in told
    status, html, told = report(a, b, "--name", f"{a}=wide", "--name", f"{b}/=narrow net")
    assert status == 0
    assert "BD-rate against wide" in told
    assert "narrow net" in told
    assert "−50.0 %" in html
    assert "LEARNED" not in html
    assert report(a, b, "--name", f"{b}=narrow", "--anchor", "Narrow")[0] == 0


def test_an_anchor_that_runs_share_keeps_its_name_and_counts_once(run, report):
    a = run("runs/a", [*points("bpg"), *points("learned", 0.8), *points("more", 0.7)])
    b = run("runs/b", [*points("bpg"), *points("learned", 0.5)])
    status, html, told = report(a, b, "--name", f"{a}=wide", "--name", f"{b}=narrow")
    assert status == 0
    assert "BD-rate against BPG" in told
    assert '<th scope="row">LEARNED (wide)</th>' in html
    assert '<th scope="row">MORE (wide)</th>' in html
    assert '<th scope="row">narrow</th>' in html
    assert html.count('<th scope="row">BPG</th>') == 4


def test_a_sweeps_folder_stands_for_its_runs(run, report, tmp_path):
    run("sweep/lr=1/run", points("learned", 1.0))
    run("sweep/lr=2", [*points("learned", 0.5), *points("jpeg", 2.0)])
    status, html, told = report(tmp_path / "sweep")
    assert status == 0
    assert (tmp_path / "sweep/report.html").is_file()
    assert "lr=1/run" in told
    assert '<th scope="row">LEARNED (lr=2)</th>' in html
    assert '<th scope="row">JPEG</th>' in html
    status, html, told = report(tmp_path / "sweep", "--name", "lr=2=two", "--name", "lr=1/run=one")
    assert status == 0
    assert '<th scope="row">LEARNED (two)</th>' in html
    (tmp_path / "empty").mkdir()
    assert "contains no results" in report(tmp_path / "empty")[2]


def test_titles_do_not_act_on_the_terminal(run, report):
    evil = "\x1b[31mRED\x07"
    folder = run("a", [*points("one", title=evil), *points("t\x1bwo", 0.5)])
    status, _, told = report(folder)
    assert status == 0
    assert "\\x1b[31mRED" in told
    assert "\x1b" not in told
    assert "\x1b" not in report(folder, "--anchor", "x")[2]


def test_names_of_no_run_and_odd_names_are_told(run, report, capsys):
    a = run("runs/a", points("learned"))
    status, _, told = report(a, "--name", "runs/b=x")
    assert status == 2
    assert f"name must be RUN=LABEL with RUN one of {a}; got 'runs/b'" in told
    for wrong in ("a", "=x", "a=", "a= "):
        with pytest.raises(SystemExit):
            main(["report", str(a), "--name", wrong])
        assert "--name must be RUN=LABEL" in capsys.readouterr().err


def test_control_characters_in_the_path_do_not_reach_the_terminal(run, capsys):
    folder = run("a\x1b[31m", points("jpeg"))
    assert main(["report", str(folder)]) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith("a\\x1b[31m/report.html\n")
    assert "\x1b[31m" not in captured.err
