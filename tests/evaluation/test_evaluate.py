import json
import math

import pytest
import torch

from vcm.codecs import BPGCodec, CodecPool, JPEGCodec, WebPCodec
from vcm.codecs.base import Codec
from vcm.errors import ArgumentError, EvaluationError
from vcm.evaluation.results import RESULTS_CSV, RESULTS_JSON, Results
from vcm.metrics.distortion import ms_ssim, psnr


def content(folder):
    """Everything an evaluation leaves, but what tells times."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "timings" not in path.name and path.name not in (".lock", "provenance.json")
    }


def test_points_are_what_codec_and_metrics_say(build, world):
    results = build().run()
    data = world.dataset()
    images = [data.image(index) for index in range(10)]
    for kind, count in (("truth", 8), ("pseudo", 10)):
        for name, codec in (("jpeg", JPEGCodec(quality=80)), ("webp", WebPCodec(quality=30))):
            point = next(
                p for p in results.points if (p.system, p.quality, p.labels) == (name, codec.quality, kind)
            )
            streams = [codec.encode(image) for image in images[:count]]
            pixels = [image[0].numel() for image in images[:count]]
            assert point.num_images == count
            assert point.num_bytes == sum(map(len, streams))
            assert point.bpp == 8 * sum(map(len, streams)) / sum(pixels)
            rates = [8 * len(s) / n for s, n in zip(streams, pixels, strict=True)]
            assert point.mean_bpp == pytest.approx(sum(rates) / count)
            decoded = [codec.decode(stream) for stream in streams]
            pairs = list(zip(decoded, images[:count], strict=True))
            assert point.psnr == pytest.approx(sum(psnr(*pair) for pair in pairs) / count)
            assert point.ms_ssim == pytest.approx(sum(ms_ssim(*pair) for pair in pairs) / count)
    assert results.originals["pseudo"]["map"] == 1
    assert results.complete


def test_files_say_the_same(build, tmp_path):
    results = build().run()
    low, high = (
        next(p for p in results.points if (p.system, p.quality, p.labels) == ("jpeg", quality, "pseudo"))
        for quality in (1, 80)
    )
    assert low.bpp < high.bpp
    assert low.psnr < high.psnr
    assert Results.read(tmp_path / "run") == results
    rows = (tmp_path / "run" / RESULTS_CSV).read_text().splitlines()
    assert len(rows) == 1 + 6
    assert rows[0].startswith(
        "system,quality,labels,num_images,num_bytes,num_pixels,bpp,mean_bpp,psnr,ms_ssim,map,"
    )


@pytest.mark.parametrize("after", [0, 1, 4, 11, 14, 25])
def test_killed_and_restarted_gives_the_same_bytes(build, world, tmp_path, after):
    unbroken = build("whole")
    unbroken.run()

    class Killed(BaseException):
        pass

    class MortalTask(world.task):
        lives = 10 + after

        def features(self, images):
            if self.lives == 0:
                raise Killed
            self.lives -= 1
            return super().features(images)

    with pytest.raises(Killed):
        build("broken", task=MortalTask()).run()
    assert not (tmp_path / "broken" / RESULTS_JSON).exists()
    for path in (tmp_path / "broken/records").glob(
        "*.jsonl"
    ):  # a line that was being written when the kill came
        with path.open("a") as file:
            file.write('{"image_id":"9","hei')
    again = build("broken")
    again.run()
    assert content(tmp_path / "broken") == content(tmp_path / "whole")
    assert len(content(tmp_path / "whole")) > 8
    assert {"bootstrap.json", "results.json", "results.csv"} < set(content(tmp_path / "whole"))
    # Work is picked up at the last whole chunk of four images.
    total = unbroken.task.predictions
    assert total >= 10 + 3 * 10
    assert again.task.predictions <= total - (10 + after) + 3


def test_number_of_threads_has_no_influence(build, tmp_path):
    build("one").run()
    with CodecPool(workers=3) as three:
        build("three", pool=three).run()
    assert content(tmp_path / "one") == content(tmp_path / "three")
    assert "bootstrap.json" in content(tmp_path / "one")


def test_second_run_predicts_nothing(build, tmp_path):
    build().run()
    before = content(tmp_path / "run")
    again = build()
    again.run()
    assert again.task.predictions == 0
    assert content(tmp_path / "run") == before


def test_changed_settings_never_meet_old_records(build, world, tmp_path):
    build(examples=0).run()
    stricter = world.task(threshold=0.7)
    build(task=stricter, examples=0).run()
    assert stricter.predictions == 40
    (tmp_path / "images/03.png").write_bytes((tmp_path / "images/04.png").read_bytes())
    evaluation = build(examples=0)
    evaluation.run()
    assert evaluation.task.predictions == 40
    other_codec = {
        "jpeg": [JPEGCodec(quality=1, chroma="444"), JPEGCodec(quality=80)],
        "webp": [WebPCodec(quality=30)],
    }
    evaluation = build(codecs=other_codec, examples=0)
    evaluation.run()
    assert evaluation.task.predictions == 10
    implementation = JPEGCodec.implementation
    JPEGCodec.implementation = lambda self: "another Pillow"
    try:
        evaluation = build(examples=0)
        evaluation.run()
    finally:
        JPEGCodec.implementation = implementation
    assert evaluation.task.predictions == 20


def test_added_quality_costs_only_itself(build):
    build().run()
    more = build(codecs={"jpeg": [JPEGCodec(quality=q) for q in (1, 40, 80)]})
    results = more.run()
    assert more.task.predictions == 10
    assert [(p.quality, p.labels) for p in results.points] == [
        (q, k) for k in ("truth", "pseudo") for q in (1, 40, 80)
    ]


def test_preprocessor_is_part_of_the_system(build):
    class Darken:
        def __call__(self, image):
            return image // 2

        def settings(self):
            return {"name": "darken"}

    plain = build(codecs={"jpeg": [JPEGCodec(quality=80)]}).run()
    evaluation = build(codecs={"jpeg": [JPEGCodec(quality=80)]}, preprocessor=Darken())
    dark = evaluation.run()
    assert evaluation.task.predictions == 10
    assert dark.points[0].bpp < plain.points[0].bpp
    assert dark.points[0].psnr < plain.points[0].psnr - 5  # against the original, not the preprocessed image
    assert dark.points[1].accuracy["map"] == 0


def test_lossless_has_infinite_psnr_and_strict_json(build, tmp_path):
    results = build(
        codecs={"lossless": [BPGCodec(quality=20, lossless=True, chroma="444", preset="ultrafast")]}
    ).run()
    assert results.points[0].psnr == math.inf
    assert json.loads((tmp_path / "run" / RESULTS_JSON).read_text(), parse_constant=pytest.fail)
    assert Results.read(tmp_path / "run") == results


def test_labels_can_be_chosen(build, world):
    assert {p.labels for p in build(labels=["pseudo"]).run().points} == {"pseudo"}
    assert {p.labels for p in build(labels=["truth"]).run().points} == {"truth"}
    for wrong in (["true"], [], ["pseudo", "pseudo"]):
        with pytest.raises(ArgumentError, match="labels"):
            build(labels=wrong)


def test_bad_arguments(build, world):
    with pytest.raises(ArgumentError, match="pseudo_score"):
        build(pseudo_score=1.5)
    with pytest.raises(ArgumentError, match="examples"):
        build(examples=-1)
    with pytest.raises(ArgumentError, match="unique within each system"):
        build(codecs={"jpeg": [JPEGCodec(quality=1), JPEGCodec(quality=1)]})


def test_categories_without_a_common_name(build, world):
    class Other(world.task):
        categories = ("zebra",)

    with pytest.raises(EvaluationError, match="no name in common"):
        build(task=Other())
    assert {p.labels for p in build(task=Other(), labels=["pseudo"]).run().points} == {"pseudo"}


def test_folder_in_use(build, tmp_path):
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run/.lock"), pytest.raises(EvaluationError, match="Another evaluation"):
        build().run()


def test_full_disk_loses_nothing(build, tmp_path, monkeypatch):
    import os

    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 6:
            raise OSError(28, "No space left on device")
        real(descriptor)

    build("whole").run()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EvaluationError, match=r"No space left on device.*run the same command"):
        build().run()
    build().run()
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_examples_are_kept_also_when_asked_for_later(build, tmp_path):
    codecs = {"jpeg": [JPEGCodec(quality=80)], "webp": [WebPCodec(quality=30)]}
    results = build(examples=0, codecs=codecs).run()
    assert results.examples == []
    later = build(examples=2, codecs=codecs)
    results = later.run()
    assert len(results.examples) == 2
    assert later.task.predictions == 2 * 2
    for image_id in results.examples:
        kept = sorted(path.stem[:-17] for path in (tmp_path / "run/examples" / image_id).iterdir())
        assert kept == ["jpeg-80", "originals", "webp-30"]


def test_codec_may_be_anyones(build):
    class Raw(Codec):
        name, title, suffix = "raw", "Raw", ".raw"
        quality_scale = JPEGCodec.quality_scale

        def __init__(self, quality=1):
            self.quality = quality

        def encode(self, image):
            return bytes(image.shape[1:]) + image.numpy().tobytes()

        def decode(self, data):
            return torch.frombuffer(bytearray(data[2:]), dtype=torch.uint8).reshape(3, data[0], data[1])

    results = build(codecs={"raw": [Raw()]}).run()
    assert results.points[0].bpp == pytest.approx(24, abs=0.01)
    assert results.points[0].accuracy == results.originals["truth"]
