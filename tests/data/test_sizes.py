"""Annotated sizes that differ from the image files': what becomes of the boxes, and what is said of it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from vcm.data import COCODataset, read_image
from vcm.data.reading import Header
from vcm.data.sizes import Placement
from vcm.errors import DatasetError

RED = (255, 0, 0)


def save(path, size, box, orientation=1):
    """A black image of `size` (width, height) with a red `box` (x, y, width, height), stored as such."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    x, y, w, h = box
    pixels[y : y + h, x : x + w] = RED
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


def red_box(path):
    """x1, y1, x2, y2 of what is red in the image as it is read."""
    ys, xs = torch.nonzero(read_image(path)[0] > 128, as_tuple=True)
    return [int(value) for value in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]


@pytest.fixture
def read(tmp_path):
    """`read((name, stated (width, height), box, more), …)`: the dataset of such annotations."""

    def read(*entries, **options):
        images, annotations = [], []
        for number, (name, stated, box, *more) in enumerate(entries, start=1):
            size = dict(zip(("width", "height"), stated, strict=True)) if stated else {}
            images.append({"id": number, "file_name": name, **size})
            annotations.append({"image_id": number, "category_id": 1, "bbox": box, **dict(*more)})
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "red"}],
        }
        (tmp_path / "ann.json").write_text(json.dumps(content))
        return COCODataset(tmp_path / "images", tmp_path / "ann.json", **options)

    return read


def test_equal_sizes_change_nothing_and_say_nothing(read, tmp_path):
    save(tmp_path / "images/a.png", (60, 40), (10, 5, 20, 10))
    data = read(("a.png", (60, 40), [10, 5, 20, 10], {"area": 123}))
    assert data.target(0).boxes.tolist() == [[10, 5, 30, 15]]
    assert data.target(0).area.tolist() == [123]
    assert data.problems == []


def test_boxes_and_areas_follow_an_image_that_was_downscaled(read, tmp_path):
    save(tmp_path / "images/a.png", (60, 40), (10, 5, 20, 10))
    data = read(("a.png", (240, 160), [40, 20, 80, 40], {"area": 1600}))
    assert data.target(0).boxes.tolist() == [red_box(tmp_path / "images/a.png")]
    assert data.target(0).area.tolist() == [100]
    assert data.problems == ["a.png: annotated for 240×160, the file has 60×40: boxes scaled by 0.25"]


@pytest.mark.parametrize(("stated", "size"), [((640, 427), (320, 213)), ((1000, 667), (300, 200))])
def test_sides_rounded_to_pixels_are_still_one_scale(read, tmp_path, stated, size):
    save(tmp_path / "images/a.png", size, (0, 0, *size))
    data = read(("a.png", stated, [0, 0, *stated]))
    assert data.target(0).boxes.tolist() == [pytest.approx([0, 0, *size])]
    assert "boxes scaled by" in data.problems[0]


def test_boxes_that_fit_the_file_but_not_the_stated_size_are_the_files(read, tmp_path):
    save(tmp_path / "images/a.png", (240, 160), (150, 20, 80, 40))
    data = read(("a.png", (60, 40), [150, 20, 80, 40]))
    assert data.target(0).boxes.tolist() == [[150, 20, 230, 60]]
    assert "the boxes fit the file, whose size is used" in data.problems[0]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_in_the_stored_orientation_are_rotated_as_the_image_is(read, tmp_path, orientation):
    save(tmp_path / "images/a.png", (60, 40), (10, 5, 20, 10), orientation)
    data = read(("a.png", (60, 40), [10, 5, 20, 10], {"area": 150}))
    assert data.target(0).boxes.tolist() == [red_box(tmp_path / "images/a.png")]
    assert data.target(0).area.tolist() == [150]
    assert "annotated for 60×40, the file has 40×60 by EXIF orientation" in data.problems[0]
    scaled = read(("a.png", (120, 80), [20, 10, 40, 20], {"area": 600}))
    assert scaled.target(0).boxes.tolist() == data.target(0).boxes.tolist()
    assert scaled.target(0).area.tolist() == [150]
    assert "rotated as the image is, and scaled by 0.5" in scaled.problems[0]


def test_boxes_in_the_shown_orientation_stay(read, tmp_path):
    save(tmp_path / "images/a.png", (60, 40), (10, 5, 20, 10), 6)
    x1, y1, x2, y2 = red_box(tmp_path / "images/a.png")
    data = read(("a.png", (40, 60), [x1, y1, x2 - x1, y2 - y1]))
    assert data.target(0).boxes.tolist() == [[x1, y1, x2, y2]]
    assert data.problems == []


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_turns_that_keep_the_size_follow_the_rest_of_the_dataset(read, tmp_path, orientation):
    save(tmp_path / "images/a.png", (60, 40), (10, 5, 20, 10), orientation)
    save(tmp_path / "images/b.png", (60, 40), (10, 5, 20, 10), 6)
    data = read(("a.png", (60, 40), [10, 5, 20, 10]), ("b.png", (60, 40), [10, 5, 20, 10]))
    for index, name in enumerate(("a.png", "b.png")):
        assert data.target(index).boxes.tolist() == [red_box(tmp_path / "images" / name)]
    assert "like others of this dataset" in data.problems[0]
    data = read(("a.png", (60, 40), [10, 5, 20, 10]), ("b.png", (40, 60), [10, 5, 20, 10]))
    assert data.target(0).boxes.tolist() == [[10, 5, 30, 15]]
    assert data.problems == []
    data = read(("a.png", (60, 40), [10, 5, 20, 10]))
    assert data.target(0).boxes.tolist() == [[10, 5, 30, 15]]
    assert "its size does not tell whether its boxes are: taken as they are" in data.problems[0]


def test_swapped_width_and_height_are_replaced_by_the_files(read, tmp_path):
    save(tmp_path / "images/a.png", (60, 40), (30, 5, 25, 10))
    data = read(("a.png", (40, 60), [30, 5, 25, 10]))
    assert data.target(0).boxes.tolist() == [[30, 5, 55, 15]]
    assert data.problems == [
        "a.png: annotated for 40×60, the file has 60×40: width and height are swapped; the file's are used"
    ]


def test_a_tool_that_swaps_is_known_by_the_images_that_exif_does_not_turn(read, tmp_path):
    save(tmp_path / "images/a.png", (60, 40), (30, 5, 25, 10))
    save(tmp_path / "images/b.png", (60, 40), (10, 5, 20, 10), 6)
    x1, y1, x2, y2 = red_box(tmp_path / "images/b.png")
    data = read(("a.png", (40, 60), [30, 5, 25, 10]), ("b.png", (60, 40), [x1, y1, x2 - x1, y2 - y1]))
    assert data.target(1).boxes.tolist() == [[x1, y1, x2, y2]]
    assert "swapped" in data.problems[1]


@pytest.mark.parametrize(
    "stated", [None, (0, 40), (60, 0), (-60, 40), (None, None), ("x", "y"), ([60], 40), (float("inf"), 40)]
)
def test_missing_sizes_are_the_files(read, tmp_path, stated):
    save(tmp_path / "images/a.png", (60, 40), (10, 5, 20, 10))
    data = read(("a.png", stated, [10, 5, 60, 10]))
    assert data.target(0).boxes.tolist() == [[10, 5, 60, 15]]
    assert data.problems[0] == "a.png: no width and height are annotated: the file's 60×40 are used"
    assert "clipped to the 60×40 image" in data.problems[1]


def test_boxes_without_a_size_that_fit_only_the_stored_orientation_are_rotated(read, tmp_path):
    save(tmp_path / "images/a.png", (60, 40), (30, 5, 25, 10), 8)
    data = read(("a.png", None, [30, 5, 25, 10]))
    assert data.target(0).boxes.tolist() == [red_box(tmp_path / "images/a.png")]
    assert "boxes rotated as the image is" in data.problems[0]


@pytest.mark.parametrize(("stated", "box"), [((60, 60), [1, 1, 9, 9]), ((40, 60), [1, 45, 9, 9])])
def test_what_nothing_explains_is_skipped_and_said(read, tmp_path, stated, box):
    save(tmp_path / "images/a.png", (60, 40), (10, 5, 20, 10))
    save(tmp_path / "images/b.png", (60, 40), (10, 5, 20, 10))
    entries = (("a.png", stated, box), ("b.png", (60, 40), [10, 5, 20, 10]))
    data = read(*entries)
    assert data.image_ids == ["2"]
    assert (
        f"a.png: image skipped: annotated for {stated[0]}×{stated[1]}, the file has 60×40" in data.problems[0]
    )
    kept = read(*entries, unlabelled="keep")
    assert kept.image_ids == ["1", "2"]
    assert kept.target(0) is None
    with pytest.raises(DatasetError, match=r"no image of .* can be used.*a\.png: image skipped"):
        read(entries[0])


def test_mended_boxes_are_other_labels(read, tmp_path):
    save(tmp_path / "images/a.png", (60, 40), (10, 5, 20, 10))
    before = read(("a.png", (120, 80), [10, 5, 20, 10])).settings()
    images = before["pictures_sha256"]
    save(tmp_path / "images/a.png", (120, 80), (10, 5, 20, 10))
    after = read(("a.png", (120, 80), [10, 5, 20, 10])).settings()
    assert before["labels_sha256"] != after["labels_sha256"]
    assert images != after["pictures_sha256"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_placement_moves_boxes_as_pillow_moves_pixels(orientation):
    pixels = np.zeros((7, 11), np.uint8)
    pixels[1:3, 4:9] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.info["exif"] = exif.tobytes()
    turned = np.asarray(ImageOps.exif_transpose(image))
    ys, xs = np.nonzero(turned)
    header = Header(turned.shape, orientation)
    assert header.stored_size == (7, 11)
    moved = Placement(header.size, orientation=orientation)((4, 1, 9, 3))
    assert moved == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_one_file_under_two_ids_counts_once_with_the_boxes_of_both(read, tmp_path):
    save(tmp_path / "images/a.png", (60, 40), (10, 5, 20, 10))
    (tmp_path / "images/link.png").symlink_to("a.png")
    entries = [
        (name, (60, 40), box)
        for name, box in (
            ("a.png", [10, 5, 20, 10]), ("./a.png", [1, 1, 5, 5]), ("link.png", [10, 5, 20, 10])
        )
    ]  # fmt: skip
    data = read(*entries, unlabelled="keep")
    assert data.image_ids == ["1"]
    assert data.target(0).boxes.tolist() == [[10, 5, 30, 15], [1, 1, 6, 6]]
    assert data.problems == [
        "./a.png: image ids 1 and 2 name the same file: counted once, as 1, with 1 more boxes of 2",
        "link.png: image ids 1 and 3 name the same file: counted once, as 1, with 0 more boxes of 3",
    ]


def test_one_file_under_two_ids_of_different_sizes_has_each_box_in_its_place(read, tmp_path):
    save(tmp_path / "images/a.png", (50, 40), (10, 10, 5, 5))
    large, small = ("a.png", (100, 80), [20, 20, 10, 10]), ("a.png", (50, 40), [30, 20, 10, 10])
    for entries in ((large, small), (small, large)):
        data = read(*entries, unlabelled="keep")
        assert data.image_ids == ["1"]
        assert sorted(data.target(0).boxes.tolist()) == [[10, 10, 15, 15], [30, 20, 40, 30]]
        assert sorted(data.target(0).area.tolist()) == [25, 100]
        assert any("ids 1 and 2 name the same file: counted once" in problem for problem in data.problems)
    again = ("a.png", (50, 40), [10, 10, 5, 5])  # the same box, stated for another size
    assert read(large, again).target(0).boxes.tolist() == [[10, 10, 15, 15]]


def test_one_file_under_two_ids_of_which_one_fits_has_the_boxes_of_that_one(read, tmp_path):
    save(tmp_path / "images/a.png", (50, 40), (10, 10, 5, 5))
    odd, right = ("a.png", (70, 13), [1, 1, 5, 5]), ("a.png", (50, 40), [10, 10, 5, 5])
    for entries in ((odd, right), (right, odd)):
        data = read(*entries)
        assert data.target(0).boxes.tolist() == [[10, 10, 15, 15]]
        assert any("70×13" in problem and "skipped" in problem for problem in data.problems)
