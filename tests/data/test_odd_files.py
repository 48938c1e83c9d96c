"""Label and image files as other programs, and careless or hostile people, write them."""

import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from vcm.data import ClassFolderDataset, COCODataset, ImageFolderDataset, YOLOFolderDataset, read_image
from vcm.data.reading import image_size
from vcm.errors import DatasetError, ImageError

FORMATS = ["jpg", "png", "tif", "webp", "avif"]


def save(path, size=(40, 30), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


class TestCOCO:
    @pytest.fixture
    def read(self, tmp_path):
        def read(image=None, annotation=None, **parts):
            save(tmp_path / "images/a/ä.jpg")
            save(tmp_path / "outside.jpg")
            content = {
                "images": [{"id": 1, "file_name": "a/ä.jpg", "height": 30, "width": 40, **(image or {})}],
                "annotations": [
                    {"image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 10], **(annotation or {})}
                ],
                "categories": [{"id": 1, "name": "人"}],
                **parts,
            }
            (tmp_path / "ann.json").write_text(json.dumps(content))
            return COCODataset(tmp_path / "images", tmp_path / "ann.json")

        return read

    def test_ids_as_text_and_names_with_folders(self, read):
        data = read({"id": "1"}, {"image_id": "1", "category_id": "1", "iscrowd": "0"})
        assert (data.image_ids, data.categories, data.problems) == (["1"], ("人",), [])
        assert data[0].target.boxes.tolist() == [[1, 2, 11, 12]]
        assert data[0].target.is_crowd.tolist() == [False]

    @pytest.mark.parametrize(
        ("stated", "area"), [(None, 100), (float("nan"), 100), (-3, 100), (0, 0), (float("inf"), 100)]
    )
    def test_impossible_areas_become_the_boxes_own(self, read, stated, area):
        assert read(annotation={"area": stated})[0].target.area.tolist() == [area]

    @pytest.mark.parametrize(
        "annotation",
        [{"bbox": [0, 0, float("inf"), 5]}, {"bbox": [0, 0, 10**400, 5]}, {"category_id": float("inf")}],
    )
    def test_what_is_not_finite_is_left_out_and_told(self, read, annotation):
        data = read(annotation=annotation)
        assert len(data[0].target.boxes) == 0
        assert len(data.problems) == 1

    @pytest.mark.parametrize("number", ["abc", 1.5, float("inf"), None])
    def test_ids_that_are_no_numbers_are_told(self, read, number):
        with pytest.raises(DatasetError, match="COCO's instances format"):
            read({"id": number})

    def test_an_id_given_twice_is_told(self, read):
        image = {"id": 1, "file_name": "a/ä.jpg", "height": 30, "width": 40}
        with pytest.raises(DatasetError, match="id 1 to two images"):
            read(images=[image, image])
        with pytest.raises(DatasetError, match="id 1 to two categories"):
            read(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}])

    def test_images_outside_the_folder_are_refused(self, read, tmp_path):
        for name in ("../outside.jpg", "a/../../outside.jpg", str(tmp_path / "outside.jpg")):
            with pytest.raises(DatasetError, match=r"outside the folder .*outside\.jpg"):
                read({"file_name": name})
        assert len(read({"file_name": "a/../a/ä.jpg"})) == 1

    @pytest.mark.parametrize("name", ["a\0.jpg", "a" * 3000 + ".jpg", "caf\udce9.jpg", "\ud800.jpg", ""])
    def test_names_that_no_file_has_fail_as_missing_images(self, read, name):
        data = read({"file_name": name})
        assert data.settings()["num_images"] == 1
        with pytest.raises(ImageError) as error:
            data[0]
        assert str(error.value).encode()  # a report can hold it

    def test_nesting_without_end_is_told(self, tmp_path):
        (tmp_path / "ann.json").write_text("[" * 100_000)
        with pytest.raises(DatasetError, match="COCO's instances format"):
            COCODataset(tmp_path, tmp_path / "ann.json")


class TestYOLOFolder:
    @pytest.fixture
    def read(self, tmp_path):
        def read(label, names=b"person\r\ncar\r\n", image="a.jpg", **options):
            save(tmp_path / "images" / image, **options)
            for file, content in (("labels/a.txt", label), ("names", names)):
                (tmp_path / file).parent.mkdir(exist_ok=True)
                (tmp_path / file).write_bytes(content)
            return YOLOFolderDataset(tmp_path / "images", tmp_path / "labels", tmp_path / "names")

        return read

    def test_windows_line_ends_and_byte_order_marks(self, read):
        data = read(b"\xef\xbb\xbf0 .5 .5 .5 .5\r\n1 .5 .5 .1 .1\r\n", b"\xef\xbb\xbfperson\r\ncar\r\n")
        assert data.categories == ("person", "car")
        assert data.target(0).labels.tolist() == [0, 1]
        assert data.problems == []

    @pytest.mark.parametrize(
        "line", [b"# caf\xe9", b"inf .5 .5 .5 .5", b"0.7 .5 .5 .5 .5", b"-0.5 .5 .5 .5 .5", b"\xff\xfe"]
    )
    def test_only_the_bad_line_is_left_out(self, read, line):
        data = read(b"0 .5 .5 .5 .5\n" + line + b"\n1 .5 .5 .5 .5\n")
        assert data.target(0).labels.tolist() == [0, 1]
        assert len(data.problems) == 1

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_boxes_fit_turned_images_of_every_format(self, read, suffix):
        data = read(b"0 .5 .5 1 1\n", image=f"a.{suffix}", exif=turned(6))
        assert data.image(0).shape == (3, 40, 30)
        assert data.target(0).boxes.tolist() == [[0, 0, 30, 40]]

    def test_of_a_polygon_the_enclosing_box_is_used(self, read):
        data = read(
            b"1 .25 .5 .75 .25 .5 1\n0 .1 .1 .9 .1 .9 .9 .1 .9\n0 .5 .5 .5 .5 .5 .5 .5\n0 .1 .1 .9 .9 .5\n"
        )
        assert data.target(0).boxes.tolist()[0] == [10, 7.5, 30, 30]
        assert data.target(0).labels.tolist() == [1, 0]
        assert data.target(0).boxes[1].tolist() == pytest.approx([4, 3, 36, 27])
        assert len(data.problems) == 2
        assert "neither a box (5 numbers) nor a polygon" in data.problems[1]

    def test_a_image_too_large_to_read_does_not_take_the_others_down(self, read, tmp_path, monkeypatch):
        read(b"0 .5 .5 1 1\n")
        save(tmp_path / "images/b.jpg", size=(100, 100))
        (tmp_path / "labels/b.txt").write_text("0 .5 .5 1 1\n")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        data = read(b"0 .5 .5 1 1\n")
        assert data.target(0).labels.tolist() == [0]
        with pytest.raises(ImageError, match="more than 2000 pixels"):
            data[1]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are always UTF-8")
def test_file_names_that_are_not_utf8(tmp_path):
    path = save(tmp_path / "dog/ok.jpg")
    path.rename(os.fsdecode(os.fsencode(path.parent) + b"/caf\xe9.jpg"))
    for data in (ImageFolderDataset(tmp_path), ClassFolderDataset(tmp_path)):
        assert data.image_ids == ["dog/caf\\udce9.jpg"]
        assert data[0].image.shape == (3, 30, 40)
        assert data.settings()["num_images"] == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", FORMATS)
def test_size_from_the_header_is_that_of_the_image(tmp_path, suffix, orientation):
    path = save(tmp_path / f"a.{suffix}", exif=turned(orientation))
    assert image_size(path) == tuple(read_image(path).shape[1:])


@pytest.mark.parametrize("suffix", [*FORMATS, "gif", "bmp", "jp2", "ppm"])
def test_random_damage_is_a_image_error_or_a_image(tmp_path, suffix):
    data = save(tmp_path / f"a.{suffix}").read_bytes()
    random = np.random.default_rng(7)
    path, refused = tmp_path / f"b.{suffix}", 0
    for _ in range(150):
        damaged = bytearray(data)
        for position in random.integers(0, min(len(data), 400), random.integers(1, 9)):
            damaged[position] = random.integers(256)
        path.write_bytes(damaged)
        try:
            assert read_image(path).shape[0] == 3
        except ImageError:
            refused += 1
    assert refused > 0
