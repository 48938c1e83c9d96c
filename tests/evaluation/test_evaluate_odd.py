"""Evaluations of what is odd: images, names, qualities, tasks and preprocessors that fail."""

import json

import pytest
from PIL import Image

from vcm.codecs import JPEG2000Codec, JPEGCodec
from vcm.data import ImageFolderDataset
from vcm.errors import CodecError, EvaluationError
from vcm.evaluation import evaluate
from vcm.evaluation.results import Results


def test_unreadable_images_are_left_out_and_told(build, tmp_path):
    (tmp_path / "images/02.png").write_bytes((tmp_path / "images/02.png").read_bytes()[:500])
    (tmp_path / "images/05.png").unlink()
    (tmp_path / "images/09.png").write_text("no image")
    results = build().run()
    assert not results.complete
    assert [failure.image_id for failure in results.failures] == ["2", "5", "09.png"]
    assert {point.num_images for point in results.points} == {6, 7}


class PickyCodec(JPEGCodec):
    """Fails on one width, when it is told to."""

    refuses = 173

    def encode_array(self, pixels):
        if pixels.shape[1] == self.refuses:
            raise CodecError("picky: does not like this one")
        return super().encode_array(pixels)


def test_codec_failure_leaves_the_image_out_of_every_curve(build):
    codecs = {"picky": [PickyCodec(quality=50)], "jpeg": [JPEGCodec(quality=50)]}
    results = build(codecs=codecs).run()
    assert [(f.image_id, f.point) for f in results.failures] == [("3", "picky-50")]
    assert "does not like" in results.failures[0].error
    picky, jpeg = (p for p in results.points if p.labels == "pseudo")
    assert picky.num_images == jpeg.num_images == 9
    assert picky.num_bytes == jpeg.num_bytes


def test_recorded_failure_is_tried_again(build, monkeypatch):
    codecs = {"picky": [PickyCodec(quality=50)]}
    build(codecs=codecs).run()
    monkeypatch.setattr(PickyCodec, "refuses", -1)
    again = build(codecs=codecs)
    results = again.run()
    assert again.task.predictions == 1
    assert results.complete
    assert results.points[0].num_images == 8


def test_point_at_which_all_fails_does_not_take_others_down(build):
    class Broken(JPEGCodec):
        def decode_array(self, data):
            raise CodecError("broken")

    results = build(codecs={"broken": [Broken(quality=50)], "jpeg": [JPEGCodec(quality=50)]}).run()
    assert {p.system for p in results.points} == {"jpeg"}
    assert len(results.failures) == 10
    with pytest.raises(EvaluationError, match="The first failure: decode failed: CodecError: broken"):
        build("other", codecs={"broken": [Broken(quality=50)]}).run()


def test_image_that_the_task_fails_on_does_not_lose_the_others(build, world):
    class Picky(world.task):
        def features(self, images):
            if images[0].shape[2] == 173:
                raise RuntimeError("too narrow for me")
            return super().features(images)

    results = build(task=Picky()).run()
    assert [(f.image_id, f.point) for f in results.failures] == [("3", "")]
    assert results.failures[0].error == "predict failed: RuntimeError: too narrow for me"
    assert {point.num_images for point in results.points} == {7, 9}

    class Broken(world.task):
        def features(self, images):
            raise RuntimeError("out of order")

    with pytest.raises(EvaluationError, match=r"none of the 10 images.*out of order"):
        build("broken", task=Broken()).run()


def test_preprocessor_that_fails_or_gives_another_size_is_recorded(build):
    class Odd:
        def __call__(self, image):
            if image.shape[2] == 173:
                raise ValueError("odd width")
            return image[:, :-1] if image.shape[2] == 174 else image

        def settings(self):
            return {"name": "odd"}

    results = build(codecs={"jpeg": [JPEGCodec(quality=80)]}, preprocessor=Odd()).run()
    failures = {failure.image_id: failure.error for failure in results.failures}
    assert set(failures) == {"3", "4"}
    assert failures["3"] == "preprocess failed: ValueError: odd width"
    assert "preprocessor must be" in failures["4"]
    assert results.points[1].num_images == 8


def test_images_with_like_names_keep_their_own_examples(build, world, tmp_path):
    root = tmp_path / "odd"
    names = ["a/b.png", "a_b.png", "x" * 200 + "/" + "y" * 200 + ".png"]
    for shade, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (60 * shade,) * 3).save(root / name)
    results = build(dataset=ImageFolderDataset(root), examples=3).run()
    assert results.examples == names
    versions = json.loads((tmp_path / "run/examples/examples.json").read_text())
    for shade, name in enumerate(names):
        with Image.open(tmp_path / "run" / versions[name]["originals"]["picture"]) as image:
            assert image.getpixel((0, 0)) == (60 * shade,) * 3


def test_qualities_that_differ_little_are_different_points(build, tmp_path):
    results = build(codecs={"jpeg2000": [JPEG2000Codec(quality=q) for q in (30, 30.0000001)]}).run()
    assert [point.quality for point in results.points] == [30, 30.0000001] * 2
    versions = json.loads((tmp_path / "run/examples/examples.json").read_text())
    assert set(versions[results.examples[0]]) == {"originals", "jpeg2000-30", "jpeg2000-30.0000001"}


def test_results_never_stand_beside_another_run_s_provenance(build, tmp_path, monkeypatch):
    build(codecs={"jpeg": [JPEGCodec(quality=80)]}, config={"run": 1}).run()
    path = tmp_path / "run/provenance.json"
    before = json.loads(path.read_text())
    assert before["config"] == {"run": 1}
    assert before["systems"][0]["codec"]["quality"] == 80

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "provenance", killed)
    with pytest.raises(KeyboardInterrupt):
        build(codecs={"jpeg": [JPEGCodec(quality=10)]}).run()
    assert json.loads(path.read_text()) == before
    with pytest.raises(EvaluationError, match="contains no results"):
        Results.read(tmp_path / "run")


def test_names_that_utf8_cannot_hold(build, tmp_path):
    evaluation = build(config={"root": "\udcff"})
    evaluation.name = "caf\udce9"
    results = evaluation.run()
    assert Results.read(tmp_path / "run") == results
