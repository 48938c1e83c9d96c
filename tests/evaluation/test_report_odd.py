"""Reports on what is odd: names, images, curves without numbers, damaged folders, several runs."""

import json
from dataclasses import replace

import pytest
from PIL import Image
from runs import line, write_run

from vcm.codecs import BPGCodec, JPEGCodec, WebPCodec
from vcm.data import ImageFolderDataset
from vcm.errors import EvaluationError
from vcm.evaluation.evaluate import Evaluation
from vcm.evaluation.pipelines import ImagePipeline
from vcm.evaluation.report import build_report
from vcm.evaluation.results import Results
from vcm.tasks.drawing import place_boxes
from vcm.types import Detections


def jpegs(*qualities, **options):
    return [JPEGCodec(quality=quality, **options) for quality in qualities]


def test_names_are_taken_literally(build, tmp_path):
    names = ["$\\frac{a$", "<img src=x onerror=alert(1)>", "_hidden", "压缩", 'a"b&c', "x" * 150]
    build(codecs={name: jpegs(20 + i) for i, name in enumerate(names)}).run()
    html = build_report([tmp_path / "run"]).read_text(encoding="utf-8")
    assert "<img src=x" not in html
    for text in ("JPEG ($\\frac{a$)", "JPEG (&lt;img src=x", "JPEG (_hidden)", "JPEG (压缩)"):
        assert html.count(text) >= 4, text  # legend, tooltips and tables


def test_nothing_found_and_nothing_finite_is_no_error(build, world, tmp_path):
    class Blind(world.task):
        threshold = 2.0

        def __init__(self):
            super().__init__(threshold=2.0)

    lossless = BPGCodec(quality=20, lossless=True, chroma="444", preset="ultrafast")
    build(codecs={"lossless": [lossless]}, task=Blind(), labels=["pseudo"]).run()
    html = build_report([tmp_path / "run"]).read_text()
    assert "no finite number to draw" in html
    assert "nothing found" in html
    build("mixed", codecs={"jpeg": jpegs(50)}, task=Blind()).run()
    html = build_report([tmp_path / "mixed"]).read_text()
    assert 'id="rate_psnr"' in html
    assert "rate_map_pseudo" not in html


def test_one_codec_at_one_quality_on_one_image(build, world, tmp_path):
    build(codecs={"jpeg": jpegs(50)}, dataset=world.dataset(limit=1)).run()
    html = build_report([tmp_path / "run"]).read_text()
    assert "1 image, 1 codec." in html
    assert 'id="bd"' not in html


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (17000, 2)])
def test_images_of_odd_shapes_are_shown_small(build, tmp_path, size):
    (tmp_path / "odd").mkdir()
    Image.new("RGB", size, "white").save(tmp_path / "odd/a.png")
    build(codecs={"jpeg": jpegs(50)}, dataset=ImageFolderDataset(tmp_path / "odd")).run()
    html = build_report([tmp_path / "run"]).read_text()
    assert f"aspect-ratio: {size[0]} / {size[1]}; width: min(100%, calc(420px" in html
    assert html.count("data:image/webp") == 2


def test_example_images_that_are_gone_or_damaged(build, tmp_path):
    build(codecs={"jpeg": jpegs(50)}).run()
    first, second = sorted((tmp_path / "run/examples").glob("*/jpeg-50*.png"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:50])
    html = build_report([tmp_path / "run"]).read_text()
    assert html.count("data:image/webp") == 2  # the originals
    (tmp_path / "run/examples/examples.json").write_text("{")
    assert "data:image/webp" not in build_report([tmp_path / "run"]).read_text()


def test_damaged_provenance_is_told(build, tmp_path):
    build(codecs={"jpeg": jpegs(50)}).run()
    (tmp_path / "run/provenance.json").write_text('{"started":')
    with pytest.raises(EvaluationError, match=r"provenance\.json is damaged"):
        build_report([tmp_path / "run"])
    (tmp_path / "run/provenance.json").unlink()
    assert ">Provenance<" not in build_report([tmp_path / "run"]).read_text()


def test_output_that_cannot_be_written(build, tmp_path):
    build(codecs={"jpeg": jpegs(50)}).run()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EvaluationError, match="cannot be written"):
        build_report([tmp_path / "run"], output=tmp_path / "file")


def test_runs_are_shown_side_by_side_with_all_kinds_of_labels(build, tmp_path):
    build("a", codecs={"jpeg": jpegs(20, 60)}, labels=["truth"]).run()
    build("b", codecs={"webp": [WebPCodec(quality=q) for q in (20, 60)]}).run()
    html = build_report([tmp_path / "a", tmp_path / "b"], output=tmp_path / "both").read_text()
    assert "rate_map_truth" in html
    assert "rate_map_pseudo" in html
    assert html.count('<div class="views') == 2  # two examples, each with one codec: no rates are near
    assert html.count("data:image/webp") == 2 * 2
    assert html.count("Not shown, without a stream within 15 %") == 2
    build("c", codecs={"other": jpegs(30)}, pseudo_score=0.5).run()
    with pytest.raises(EvaluationError, match="against different pseudo-labels"):
        build_report([tmp_path / "b", tmp_path / "c"])


def test_runs_that_passed_different_images_say_so(build, world, tmp_path):
    class Fails(JPEGCodec):
        def encode_array(self, pixels):
            if pixels.shape[1] == 173:
                raise ValueError("no")
            return super().encode_array(pixels)

    build("a", codecs={"jpeg": jpegs(20)}).run()
    build("b", codecs={"picky": [Fails(quality=20)]}).run()
    html = build_report([tmp_path / "a", tmp_path / "b"]).read_text()
    assert "different numbers of images with truth labels: 7 and 8" in html


def test_chosen_accuracy_is_in_the_table(build, tmp_path):
    build(codecs={"jpeg": jpegs(20)}).run()
    html = build_report([tmp_path / "run"], accuracy="mar_100").read_text()
    assert '<th scope="col">mAR 100 (%)</th>' in html


def test_long_lists_of_failures_are_cut(build, tmp_path):
    build(codecs={"jpeg": jpegs(20)}).run()
    path = tmp_path / "run/results.json"
    content = json.loads(path.read_text())
    content["failures"] = [
        {"image_id": f"{i}", "point": point, "error": "bad"} for i in range(60) for point in ("a-1", "a-2")
    ]
    path.write_text(json.dumps(content))
    html = build_report([tmp_path / "run"]).read_text()
    assert html.count("skipped: ") == 50
    assert "skipped: 7 at a-1, a-2 – bad" in html
    assert "and 10 more images skipped" in html


def test_labels_of_boxes_do_not_cover_each_other():
    import torch

    boxes = torch.tensor([[10.0, 40.0, 60.0, 90.0]]).repeat(8, 1)
    found = Detections(boxes, torch.linspace(0.2, 0.9, 8), torch.zeros(8, dtype=torch.int64))
    placed, counts = place_boxes(found, ["thing"], {}, min_score=0.3, size=(100, 100), letter=8.0)
    assert [count.count for count in counts] == [7]
    assert [box.caption for box in placed][:2] == ["thing 0.90", "thing 0.80"]
    areas = [box.label for box in placed if box.label]
    assert len(areas) == 3
    for i, (x, y, w, h) in enumerate(areas):
        assert x >= 0
        assert 0 <= y <= 100 - h
        for other in areas[i + 1 :]:
            assert y + h <= other[1] or other[1] + other[3] <= y or x + w <= other[0]


def test_results_of_another_shape_are_damaged_results(build, tmp_path):
    build(codecs={"jpeg": jpegs(50)}).run()
    for wrong in ("[]", "null", '{"points": 3}', '{"name": "a", "points": [], "failures": []}'):
        (tmp_path / "run/results.json").write_text(wrong)
        with pytest.raises(EvaluationError, match="damaged"):
            Results.read(tmp_path / "run")


def test_results_are_read_from_a_path_as_text(tmp_path):
    run = write_run(tmp_path / "run", line("a"))
    assert Results.read(str(run)) == Results.read(run)
    with pytest.raises(EvaluationError, match="contains no results"):
        Results.read(str(tmp_path))


def test_system_that_sends_no_image_is_shown_over_the_original(build, world, pool, tmp_path):
    class Features(ImagePipeline):
        def run(self, images, pool):
            return [replace(answer, image=None) for answer in super().run(images, pool)]

        def settings(self):
            return {"system": "features"}

    task = world.task()
    systems = [
        Features("features", JPEGCodec(quality=30), task),
        ImagePipeline("jpeg", JPEGCodec(quality=30), task),
    ]
    folder = tmp_path / "run"
    Evaluation("test", task, world.dataset(), systems, folder=folder, pool=pool, examples=1).run()
    html = build_report([folder]).read_text()
    assert html.count("data:image/webp") == 3
    assert html.count("sends no image; over the original") == 2  # in the caption and the alt text
