"""`vcm recommend`, on real images and a real detector."""

import json

import pytest
from PIL import Image

from vcm.cli.main import main
from vcm.cli.recommend import parse_size
from vcm.errors import ImageError


@pytest.fixture
def recommend(capsys, asset_path, coco_images):
    asset_path("yolov3-tiny", "yolov3-tiny.weights")

    def run(*arguments, images=coco_images[:3]):
        status = main(["recommend", *map(str, images), *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_a_table_and_json_say_the_same(recommend):
    arguments = ("--codec", "jpeg", "--codec", "webp", "--agreement", "0.8")
    status, out, err = recommend(*arguments)
    assert (status, err) == (0, "")
    rows = json.loads(recommend(*arguments, "--json")[1])
    assert {row["codec"] for row in rows} == {"jpeg", "webp"}
    assert [row["bytes"] for row in rows] == sorted(row["bytes"] for row in rows)
    for row in rows:
        assert row["reached"]
        assert row["agreement"] >= 0.8
        assert f"{row['codec']:8} {'quality ' + format(row['quality'], 'g'):>14}" in out
    assert f"Recommended: {rows[0]['codec']} at quality {rows[0]['quality']}" in out


def test_a_target_size_is_kept(recommend):
    status, out, _ = recommend("--codec", "jpeg", "--target-size", "12kB", "--json")
    (row,) = json.loads(out)
    assert (status, row["reached"], row["bytes"] <= 12000) == (0, True, True)
    status, out, _ = recommend("--codec", "jpeg", "--target-size", "1kB")
    assert status == 1
    assert "target not reached" in out
    rows = json.loads(recommend("--codec", "jpeg", "--target-size", "1kB", "--json")[1])
    assert [row["quality"] for row in rows] == [1]  # the smallest that there is
    assert f"the smallest mean size is {rows[0]['bytes']:,} bytes" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--agreement", "0"], "--agreement must be a share in (0, 1], such as 0.9; got 0.0"),
        (["--agreement", "1.5"], "--agreement must be a share in (0, 1]"),
        (["--target-size", "big"], "--target-size must be a size such as 40kB"),
        (["--target-size", "1kB", "--agreement", "0.5"], "--target-size must be used without --agreement"),
        (["--codec", "learned"], "--codec must be one of"),
        (["--for", "nothing"], "--for must be one of detection, classification"),
        (["--limit", "0"], "--limit must be a whole number of at least 1"),
    ],
)
def test_wrong_arguments_are_told(recommend, arguments, message):
    status, _, err = recommend(*arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_images_in_which_nothing_is_found_are_told(recommend, write_image, tmp_path):
    status, _, err = recommend(images=[write_image(tmp_path / "noise.png", 64, 64)])
    assert status == 2
    assert "images must be images with detections of yolov3-tiny at 0.3 or more; got 'none'" in err


def test_an_image_that_one_codec_cannot_take_leaves_the_others(recommend, coco_images, tmp_path):
    wide = tmp_path / "wide.png"
    Image.new("RGB", (17_000, 4)).save(wide)
    status, out, err = recommend("--codec", "webp", "--codec", "jpeg", images=[coco_images[0], wide])
    assert status == 1
    assert "skipped: webp" in err
    assert "wide.png" in err
    assert "jpeg" in out
    assert "webp " not in out


def test_sizes():
    assert [parse_size(text) for text in ("40kB", "2000", "1.5 MiB", "3b")] == [40_000, 2000, 1.5 * 2**20, 3]


def test_the_images_that_are_tried_are_spread_evenly(capsys, coco_images, tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr("vcm.data.reading.read_image", lambda path: tried.append(path) or _stop())
    for number, image in enumerate(coco_images[:7]):
        (tmp_path / f"{number}.jpg").write_bytes(image.read_bytes())
    assert main(["recommend", str(tmp_path), "--limit", "4"]) == 2
    assert [path.name for path in tried] == ["0.jpg", "1.jpg", "3.jpg", "5.jpg"]


def _stop():
    raise ImageError("enough")
