"""Reports on folders that came from someone else: damaged, huge, or made to reach beyond themselves."""

import json
import os
import time

import pytest
from PIL import Image
from runs import line, point, version, write_run

from vcm.errors import EvaluationError
from vcm.evaluation.report import build_report
from vcm.evaluation.results import Results

NESTED = "[" * 200_000


@pytest.fixture
def secret(tmp_path):
    """An image outside the run's folder."""
    Image.new("RGB", (20, 20), "blue").save(tmp_path / "secret.png")
    return tmp_path / "secret.png"


def below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ["map/../../../evil", "/tmp/vcm-evil", "..", "map\0", "a" * 300])
def test_names_of_accuracies_are_no_paths(tmp_path, name):
    points = [{**p, "accuracy": {name: 0.1 * q}} for q, p in enumerate(line("a"))]
    run = write_run(tmp_path / "x/y/run", points, originals={"pseudo": {name: 1.0}})
    html = build_report([run]).read_text()
    assert below(tmp_path / "x") == {"y", *(f"y/{path}" for path in below(tmp_path / "x/y"))}
    assert {path.split("/")[0] for path in below(tmp_path / "x/y")} == {"run"}
    assert len(list((run / "plots").glob("*.svg"))) == 3
    assert "evil" not in {path.stem for path in tmp_path.rglob("*") if "plots" not in path.parts}
    assert html.count("<figure id") == 3


@pytest.mark.parametrize("way", ["absolute", "parent", "link", "folder"])
def test_images_outside_the_folder_are_not_embedded(tmp_path, secret, way):
    run = write_run(tmp_path / "run", line("a"), {"a-1": version("x.png")})
    (run / "link.png").symlink_to(secret)
    (run / "linked").symlink_to(tmp_path)
    names = {
        "absolute": str(secret), "parent": "../secret.png", "link": "link.png", "folder": "linked/secret.png",
    }  # fmt: skip
    write_run(run, line("a"), {"a-1": version(names[way])})
    assert build_report([run]).read_text().count("data:image/webp") == 1
    inside = write_run(run, line("a"), {"a-1": version("examples/../examples/o.png")})
    assert build_report([inside]).read_text().count("data:image/webp") == 2


@pytest.mark.parametrize(
    "name", ["results.json", "provenance.json", "bootstrap.json", "examples/examples.json"]
)
def test_files_that_are_links_out_of_the_folder_are_not_read(tmp_path, name):
    run = write_run(tmp_path / "run", line("a"), {"a-1": version("examples/o.png")})
    (tmp_path / "private.json").write_text(json.dumps({"token": "SECRET", "a-1 pseudo": 3}))
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(tmp_path / "private.json")
    try:
        html = build_report([run]).read_text()
    except EvaluationError as error:
        assert f"{run / name} is damaged (it leads outside of {run}" in str(error)
    else:
        assert name == "examples/examples.json"
        assert "SECRET" not in html
        assert "it leads outside of" in html


def test_plots_that_is_a_link_is_not_written_through(tmp_path):
    run = write_run(tmp_path / "run", line("a"))
    (tmp_path / "elsewhere").mkdir()
    (run / "plots").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EvaluationError, match=r"plots cannot be written: it leads outside of .*--output"):
        build_report([run])
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_links_at_the_outputs_and_their_temporary_names_are_not_followed(tmp_path):
    run = write_run(tmp_path / "run", line("a"))
    (run / "plots").mkdir()
    (tmp_path / "victim").write_text("precious")
    names = ["report.html", "report.tmp", "plots/rate_psnr.svg", "plots/rate_psnr.png", "plots/rate_psnr.tmp"]
    for name in names:
        (run / name).symlink_to(tmp_path / "victim")
    html = build_report([run])
    assert (tmp_path / "victim").read_text() == "precious"
    assert not html.is_symlink()
    assert not (run / "plots/rate_psnr.png").is_symlink()


def test_thousands_of_systems_are_bounded_and_said(tmp_path):
    points = [p for number in range(2000) for p in line(f"s{number}")]
    run = write_run(tmp_path / "run", points, {f"s{n}-1": version("examples/o.png") for n in range(2000)})
    start = time.process_time()
    html = build_report([run], anchor="s1999").read_text()
    assert time.process_time() - start < 60
    assert "the report shows the first 32 of 2000 systems" in html
    assert html.count("data:image/webp") == 33
    assert "S1999" in html
    assert "S31<" not in html
    points = [point("a", q, 0.1 + 0.001 * q, 0.1) for q in range(2000)]
    html = build_report([write_run(tmp_path / "long", points)]).read_text()
    assert "the report shows the first 256 points of a" in html


def test_hundreds_of_examples_are_bounded_and_said(tmp_path):
    run = write_run(tmp_path / "run", line("a"), {"a-1": version("examples/o.png")})
    versions = json.loads((run / "examples/examples.json").read_text())["1"]
    (run / "examples/examples.json").write_text(json.dumps({f"{n}": versions for n in range(300)}))
    html = build_report([run]).read_text()
    assert html.count("data:image/webp") == 24
    assert "the report shows the first 12 of 300 example images" in html


def test_thousands_of_resamples_are_bounded_and_said(tmp_path):
    run = write_run(tmp_path / "run", [*line("a"), *line("b", 0.8)])
    figures = {
        f"{p['system']}-{p['quality']} pseudo": {
            "draws": "x", "figures": {"bpp": [p["bpp"]] * 5000, "psnr": [p["psnr"]] * 5000},
        }
        for p in (*line("a"), *line("b", 0.8))
    }  # fmt: skip
    (run / "bootstrap.json").write_text(json.dumps(figures))
    html = build_report([run]).read_text()
    assert "intervals of BD-rates are from the first 2000 of 5000 resamples" in html
    assert "over 2000 resamples" in html


def test_hostile_names_are_escaped_everywhere(tmp_path):
    evil = "<script>alert(1)</script>\"'>"
    points = [{**p, "title": evil, "accuracy": {evil: 0.1 * (1 + p["quality"])}} for p in line("a")]
    run = write_run(
        tmp_path / "run",
        points,
        {"a-1": version("examples/o.png")},
        originals={"pseudo": {evil: 1.0}},
        name=evil,
        task={"name": evil},
        categories=[evil],
        notes=[evil],
        problems=[evil],
        failures=[{"image_id": evil, "point": evil, "error": evil}],
    )
    (run / "provenance.json").write_text(json.dumps({"started": evil, "python": evil, evil: evil}))
    html = build_report([run]).read_text()
    assert "<script" not in html
    assert html.count("&lt;script&gt;") > 8


WRONG = [
    ("points", [3]), ("points", []), ("points", {}), ("points", [[]]), ("failures", {}), ("failures", [3]),
    ("originals", []), ("originals", {}), ("originals", {"pseudo": {}}),
    ("originals", {"pseudo": {"map": ""}}),
    ("originals", {"evil": {"map": 1.0}}), ("task", []), ("task", {}), ("task", None), ("data", 3),
    ("data", {"num_images": "many"}), ("categories", "cat"), ("categories", [3]), ("notes", [[]]),
    ("problems", None), ("pseudo_score", None), ("pseudo_score", float("nan")), ("pseudo_score", "x"),
    ("name", []), ("kind", "other"), ("more", 1), ("failures", [{"image_id": 1, "point": "", "error": ""}]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_results_of_wrong_types_are_one_sentence(tmp_path, name, value):
    run = write_run(tmp_path / "run", **{"points": line("a"), name: value})
    with pytest.raises(EvaluationError, match=r"results\.json is damaged \(.+\)\. Run `vcm evaluate` again"):
        Results.read(run)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bpp", float("nan")), ("bpp", 10**400), ("bpp", "x"), ("bpp", None), ("bpp", [1]), ("quality", None),
        ("system", 3), ("title", None), ("labels", "evil"), ("labels", []), ("accuracy", []),
        ("accuracy", {"map": []}), ("accuracy", {"map": 10**400}), ("psnr", "x"), ("psnr", {}),
        ("ms_ssim", "x"), ("num_images", 1.5), ("intervals", {"bpp": [1]}), ("intervals", {"bpp": 3}),
        ("intervals", []), ("intervals", {"bpp": [None, 1]}),
    ],
)  # fmt: skip
def test_points_of_wrong_types_are_one_sentence(tmp_path, name, value):
    run = write_run(tmp_path / "run", [*line("a"), point("a", 9, 3.0, 0.5, **{name: value})])
    with pytest.raises(EvaluationError, match=r"results\.json is damaged"):
        Results.read(run)


@pytest.mark.parametrize("name", ["results.json", "bootstrap.json", "provenance.json"])
@pytest.mark.parametrize("text", [NESTED, "[]", "3", "null", '"text"', "", "\udcff", "1" * 5000])
def test_damaged_files_are_one_sentence(tmp_path, name, text):
    run = write_run(tmp_path / "run", line("a"))
    (run / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(EvaluationError, match=rf"{name} is damaged \(.+\)"):
        build_report([run])


@pytest.mark.parametrize(
    "text",
    [NESTED, "[]", "3", '{"1": 3}', '{"1": [1]}', '{"1": {"originals": 3}}', '{"1": {"a-1": {}}}', "\udcff"],
)
def test_damaged_examples_are_left_out_and_noted(tmp_path, text):
    run = write_run(tmp_path / "run", line("a"), {"a-1": version("examples/o.png")})
    (run / "examples/examples.json").write_bytes(text.encode(errors="surrogateescape"))
    html = build_report([run]).read_text()
    assert "data:image" not in html
    assert "examples.json is damaged" in html


@pytest.mark.parametrize(
    "changes",
    [
        {"height": "20"}, {"width": 0}, {"width": 10**30}, {"num_bytes": -1}, {"num_bytes": 0},
        {"num_bytes": None},
        {"picture": 3}, {"prediction": None}, {"prediction": []}, {"prediction": {}},
        {"prediction": {"boxes": [[1, 2]], "labels": [0], "scores": [1]}},
        {"prediction": {"boxes": [[1, 2, 3, 4]], "labels": [7], "scores": [1]}},
        {"prediction": {"boxes": [[1, 2, 3, 4]], "labels": [-1], "scores": [1]}},
        {"prediction": {"boxes": [[1, 2, 3, 4]], "labels": [], "scores": [1]}},
        {"prediction": {"boxes": [[1, 2, 3, float("nan")]], "labels": [0], "scores": [1]}},
        {"prediction": {"logits": [1, 2, 3]}}, {"prediction": {"logits": "abc"}},
    ],
)  # fmt: skip
def test_damaged_versions_are_left_out_and_noted(tmp_path, changes):
    run = write_run(tmp_path / "run", line("a"), {"a-1": version("examples/o.png", **changes)})
    html = build_report([run]).read_text()
    assert html.count("data:image") == 1
    assert "a-1 of 1 is left out" in html


def test_images_that_are_fifos_or_bombs_are_left_out(tmp_path, monkeypatch):
    versions = {f"a-{n}": version(f"examples/{n}.png") for n in (1, 2)}
    run = write_run(tmp_path / "run", line("a"), versions)
    os.mkfifo(run / "examples/1.png")
    Image.new("RGB", (300, 300)).save(run / "examples/2.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert build_report([run]).read_text().count("data:image") == 1


def test_results_that_are_a_fifo_or_a_device(tmp_path):
    run = write_run(tmp_path / "run", line("a"))
    (run / "results.json").unlink()
    os.mkfifo(run / "results.json")
    with pytest.raises(EvaluationError, match=r"it is a FIFO, not a regular file"):
        Results.read(run)


@pytest.mark.parametrize("accuracy", [{}, {"map_50": 0.5}, {"map": 0.5, "map_50": 0.5, "more": 0.5}])
def test_points_with_other_accuracies_than_the_originals_are_damage(tmp_path, accuracy):
    points = line("a")
    points[1]["accuracy"] = accuracy
    run = write_run(tmp_path / "run", points)
    odd = "'more' is unexpected" if "more" in accuracy else "'map' is missing"
    with pytest.raises(EvaluationError, match=f"damaged .a at quality 1 against pseudo: the accuracy {odd}"):
        build_report([run], accuracy="map_50")


@pytest.mark.parametrize("first", ["truth", "pseudo"])
def test_originals_with_an_accuracy_for_one_kind_of_labels_are_damage(tmp_path, first):
    second = "pseudo" if first == "truth" else "truth"
    figures = {"map": 1.0, "map_50": 1.0}
    run = write_run(tmp_path / "run", line("a"), originals={first: {**figures, "more": 1.0}, second: figures})
    with pytest.raises(
        EvaluationError, match=f"damaged .the originals against {second}: .*'more' is missing"
    ):
        build_report([run], accuracy="more")


def test_runs_of_versions_with_other_accuracies_are_reported_together(tmp_path):
    points = [{**p, "accuracy": {**p["accuracy"], "map_75": 0.5}} for p in line("a")]
    new = write_run(
        tmp_path / "new", points, originals={"pseudo": {"map": 1.0, "map_50": 1.0, "map_75": 1.0}}
    )
    old = write_run(tmp_path / "old", line("b"))
    assert "mAP@75" in build_report([new, old], accuracy="map_75").read_text()
