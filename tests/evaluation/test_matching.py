"""Example images at about the same rate: which streams are shown, and which are made for it."""

import json
import re

import pytest
from runs import line, version, write_run

from vcm.codecs import JPEG2000Codec, JPEGCodec, WebPCodec
from vcm.errors import ArgumentError
from vcm.evaluation.matching import is_near, matched_bytes, quality_between
from vcm.evaluation.pipelines import ImagePipeline
from vcm.evaluation.report import build_report

WHOLE, ANY = JPEGCodec.quality_scale, JPEG2000Codec.quality_scale


def test_the_rate_is_that_of_the_stream_most_systems_come_near():
    assert matched_bytes({"a": [100, 1000], "b": [104, 5000], "c": [900, 7000]}) == 100
    assert matched_bytes({"a": [100, 1000], "b": [104, 990], "c": [900, 7000]}) == 900
    assert matched_bytes({"a": [100], "b": [300], "c": [900]}) == 100
    assert matched_bytes({"a": [100, 1000], "b": [300]}, between=True) == 300
    assert matched_bytes({"a": [100, 1000], "b": [300]}) == 100
    assert matched_bytes({}) == 1
    assert is_near(115, 100)
    assert is_near(100, 115)
    assert not is_near(4085, 12273)


@pytest.mark.parametrize(
    ("known", "target", "scale", "quality"),
    [
        ({10: 100, 50: 10_000}, 1000, WHOLE, 30),
        ({50: 100, 10: 10_000}, 1000, WHOLE, 30),
        ({10: 100, 12: 10_000}, 101, WHOLE, 11),
        ({10: 100, 11: 10_000}, 1000, WHOLE, None),
        ({10: 100, 50: 500}, 1000, WHOLE, None),
        ({30: 100, 31: 10_000}, 1000, ANY, 30.5),
        ({30: 100, 30.0625: 10_000}, 1000, ANY, None),
        ({10: 100}, 1000, WHOLE, None),
    ],
)
def test_qualities_between(known, target, scale, quality):
    assert quality_between(known, target, scale) == quality


def test_examples_are_encoded_at_a_quality_between_where_no_stream_is_near(build, tmp_path):
    codecs = {"jpeg": [JPEGCodec(quality=10), JPEGCodec(quality=80)], "webp": [WebPCodec(quality=30)]}
    build(codecs=codecs).run()
    versions = json.loads((tmp_path / "run/examples/examples.json").read_text())
    for image_id, of_image in versions.items():
        (name,) = set(of_image) - {"originals", "jpeg-10", "jpeg-80", "webp-30"}
        between, webp = of_image[name], of_image["webp-30"]["num_bytes"]
        assert between["system"] == "jpeg"
        assert 10 < between["quality"] < 80
        assert is_near(between["num_bytes"], webp)
        assert not any(is_near(of_image[point]["num_bytes"], webp) for point in ("jpeg-10", "jpeg-80"))
        assert (tmp_path / "run" / between["picture"]).is_file()
        assert image_id in build().dataset.image_ids
    html = build_report([tmp_path / "run"]).read_text()
    assert html.count("data:image/webp") == 2 * 3
    assert html.count("(between its points)") == 2 * 2  # in the caption and the alt text
    sizes = [int(size.replace(",", "")) for size in re.findall(r"</b> quality .* ([\d,]+) bytes", html)]
    assert len(sizes) == 4
    assert is_near(sizes[0], sizes[1])
    assert is_near(sizes[2], sizes[3])
    again = build(codecs=codecs)
    again.run()
    assert again.task.predictions == 0
    assert json.loads((tmp_path / "run/examples/examples.json").read_text()) == versions


def test_systems_without_other_qualities_stay_as_they_are(world):
    class Odd(JPEGCodec):
        def __init__(self, quality, table):
            super().__init__(quality=quality)

    class Rated:
        rate = 2.0

        def __call__(self, image):
            return image

        def settings(self):
            return {}

    task = world.task()
    assert ImagePipeline("a", JPEGCodec(quality=5, chroma="444"), task).at(7).codec.chroma == "444"
    assert ImagePipeline("a", JPEGCodec(quality=5), task).scale is JPEGCodec.quality_scale
    assert ImagePipeline("a", Odd(5, "x"), task).scale is None
    assert ImagePipeline("a", JPEGCodec(quality=5), task, preprocessor=Rated()).scale is None
    with pytest.raises(ArgumentError):
        ImagePipeline("a", JPEGCodec(quality=5), task).at(500)


def test_each_image_has_its_own_rate_and_systems_far_from_it_are_left_out(tmp_path):
    """What the report once showed side by side: 4,085 bytes and 12,273."""
    run = write_run(tmp_path / "run", [*line("a"), *line("b"), *line("c")], {})
    image = "examples/o.png"
    content = {
        "1": {
            "a-0": version(image, 4085), "b-0": version(image, 12_273), "b-1": version(image, 40_000),
            "c-2": version(image, 4500),
        },
        "2": {
            "a-0": version(image, 90_000), "b-0": version(image, 80_000), "c-0": version(image, 20_000),
        },
    }  # fmt: skip
    (run / "examples/examples.json").write_text(json.dumps(content))
    html = build_report([run]).read_text()
    shown = re.findall(r"<b>([ABC])</b> quality (\d) · ([\d,]+) bytes", html)
    assert shown == [
        ("A", "0", "4,085"), ("C", "2", "4,500"), ("A", "0", "90,000"), ("B", "0", "80,000"),
    ]  # fmt: skip
    assert "Not shown, without a stream within 15 % of 4,085 bytes: B." in html
    assert "Not shown, without a stream within 15 % of 80,000 bytes: C." in html
