import json
from itertools import pairwise

import pytest
import torch
from PIL import Image

from vcm.data import (
    ClassFolderDataset,
    COCODataset,
    ImageDataModule,
    ImageFolderDataset,
    YOLOFolderDataset,
)
from vcm.errors import ArgumentError, DatasetError, ImageError


def make_images(folder, names, size=(60, 40)):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (number, 2 * number, 3 * number)).save(path)
    return folder


def coco(annotations, images=None):
    images = images or [{"id": 7, "file_name": "a.png", "width": 60, "height": 40}]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
    }


def box(x, y, w, h, category=18, image=7, **more):
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [x, y, w, h],
        "area": w * h,
        "iscrowd": 0,
        **more,
    }


@pytest.fixture
def open_coco(tmp_path):
    def open_coco(content, **options):
        make_images(tmp_path / "images", ["a.png", "b.png"])
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "ann.json").write_text(text)
        return COCODataset(tmp_path / "images", tmp_path / "ann.json", **options)

    return open_coco


class TestCOCO:
    def test_boxes_categories_and_crowds(self, open_coco):
        data = open_coco(coco([box(1, 2, 10, 20, area=77.5), box(5, 5, 9, 9, category=3, iscrowd=1)]))
        target = data[0].target
        assert data.categories == ("car", "dog")
        assert data.image_ids == ["7"]
        assert target.boxes.tolist() == [[1, 2, 11, 22], [5, 5, 14, 14]]
        assert target.labels.tolist() == [1, 0]
        assert target.is_crowd.tolist() == [False, True]
        assert target.area.tolist() == [77.5, 81]
        assert data.problems == []

    def test_equals_pycocotools_on_the_sample(self, asset_path):
        from pycocotools.coco import COCO

        file = asset_path("coco-sample", "instances.json")
        data = COCODataset(asset_path("coco-sample", "images"), file, unlabelled="keep")
        reference = COCO(str(file))
        assert len(data) == 95
        assert len(reference.imgs) == 65
        assert data.problems == []
        ids = sorted(reference.cats)
        for index in range(65):
            entries = reference.imgToAnns[int(data.image_ids[index])]
            target = data.target(index)
            expected = torch.tensor([e["bbox"] for e in entries], dtype=torch.float64).reshape(-1, 4)
            expected[:, 2:] += expected[:, :2]
            assert torch.equal(target.boxes, expected.float())
            assert target.labels.tolist() == [ids.index(e["category_id"]) for e in entries]
        assert [data.target(index) for index in range(65, 95)] == [None] * 30

    def test_boxes_outside_the_image_are_clipped_or_left_out_and_told(self, open_coco):
        data = open_coco(
            coco(
                [
                    box(-5, 0, 20, 20),
                    box(100, 0, 5, 5),
                    box(0, 0, 0, 5),
                    box(59.5, 39.5, 1, 1),
                    box(1, 1, 2, 2, category=99),
                ]
            )
        )
        target = data[0].target
        assert target.boxes.tolist() == [[0, 0, 15, 20], [59.5, 39.5, 60.5, 40.5]]
        assert target.area.tolist() == [300, 1]
        assert [
            "clipped" in data.problems[0],
            "skipped" in data.problems[1],
            "skipped" in data.problems[2],
        ] == [True] * 3
        assert "no category 99" in data.problems[3]
        assert len(data.problems) == 4

    def test_annotation_that_is_not_four_numbers_is_left_out(self, open_coco):
        broken = {"image_id": 7, "category_id": 18, "bbox": [1, 2, 3]}
        data = open_coco(coco([box(1, 1, 5, 5), broken, box(float("nan"), 1, 5, 5)]))
        assert len(data[0].target.boxes) == 1
        assert len(data.problems) == 2

    def test_missing_image_is_told_when_it_is_read(self, open_coco):
        images = [
            {"id": 7, "file_name": "a.png", "width": 60, "height": 40},
            {"id": 9, "file_name": "gone.png", "width": 60, "height": 40},
        ]
        data = open_coco(coco([box(1, 1, 5, 5)], images))
        assert len(data) == 2
        assert data[0].image.shape == (3, 40, 60)
        with pytest.raises(ImageError, match=r"gone\.png"):
            data[1]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "not in COCO's instances format"),
            ("[1, 2]", "not in COCO's instances format"),
            ("{}", "not in COCO's instances format"),
            (coco([]), "contains no boxes"),
            ({"images": [], "annotations": [], "categories": []}, "contains no images"),
        ],
    )
    def test_empty_or_foreign_annotations(self, open_coco, content, message):
        with pytest.raises(DatasetError, match=message):
            open_coco(content)

    def test_missing_files(self, tmp_path, open_coco):
        with pytest.raises(DatasetError, match="no folder"):
            COCODataset(tmp_path / "nowhere", tmp_path / "ann.json")
        open_coco(coco([box(1, 1, 5, 5)]))
        with pytest.raises(DatasetError, match="cannot be read"):
            COCODataset(tmp_path / "images", tmp_path / "other.json")

    def test_unlabelled_images_are_kept_on_demand(self, open_coco):
        assert open_coco(coco([box(1, 1, 5, 5)])).image_ids == ["7"]
        data = open_coco(coco([box(1, 1, 5, 5)]), unlabelled="keep")
        assert data.image_ids == ["7", "b.png"]
        assert data[1].target is None
        with pytest.raises(ArgumentError, match="unlabelled"):
            open_coco(coco([box(1, 1, 5, 5)]), unlabelled="all")

    def test_settings_change_with_images_and_labels(self, tmp_path, open_coco):
        first = open_coco(coco([box(1, 1, 5, 5)])).settings()
        assert open_coco(coco([box(1, 1, 5, 5)])).settings() == first
        assert open_coco(coco([box(1, 1, 5, 6)])).settings() != first
        data = open_coco(coco([box(1, 1, 5, 5)]))
        Image.new("RGB", (60, 40), "red").save(tmp_path / "images/a.png")
        assert data.settings() != first


class TestYOLOFolder:
    @pytest.fixture
    def folder(self, tmp_path):
        make_images(tmp_path / "images", ["x/a.png", "b.png", "c.png"])
        (tmp_path / "labels/x").mkdir(parents=True)
        (tmp_path / "labels/x/a.txt").write_text("1 0.5 0.5 0.5 0.25\n\n")
        (tmp_path / "labels/b.txt").write_text("")
        (tmp_path / "names").write_text("cat\ndog\n")
        return tmp_path

    def test_reads_darknets_layout(self, folder):
        data = YOLOFolderDataset(folder / "images", folder / "labels", folder / "names")
        targets = {image_id: data.target(index) for index, image_id in enumerate(data.image_ids)}
        assert data.categories == ("cat", "dog")
        assert targets["x/a.png"].boxes.tolist() == [[15, 15, 45, 25]]
        assert targets["x/a.png"].labels.tolist() == [1]
        assert len(targets["b.png"].boxes) == 0
        assert targets["c.png"] is None

    def test_bad_lines_are_left_out_and_told(self, folder):
        (folder / "labels/b.txt").write_text(
            "0 0.5 0.5\n0 a b c d\n5 0.5 0.5 0.1 0.1\n0 3 3 0.1 0.1\n0 0.5 0.5 0.1 0.1\n"
        )
        data = YOLOFolderDataset(folder / "images", folder / "labels", folder / "names")
        assert len(data.target(data.image_ids.index("b.png")).boxes) == 1
        assert len(data.problems) == 4

    def test_rotated_image_counts_with_its_shown_size(self, folder):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (60, 40)).save(folder / "images/x/a.png", exif=exif)
        data = YOLOFolderDataset(folder / "images", folder / "labels", folder / "names")
        index = data.image_ids.index("x/a.png")
        assert data.image(index).shape == (3, 60, 40)
        assert data.target(index).boxes.tolist() == [[10, 22.5, 30, 37.5]]

    def test_no_labels_at_all(self, folder):
        (folder / "empty").mkdir()
        with pytest.raises(DatasetError, match="no label file"):
            YOLOFolderDataset(folder / "images", folder / "empty", folder / "names")
        with pytest.raises(DatasetError, match="no folder"):
            YOLOFolderDataset(folder / "images", folder / "nowhere", folder / "names")
        (folder / "names").write_text("\n")
        with pytest.raises(ArgumentError, match="which contains no names"):
            YOLOFolderDataset(folder / "images", folder / "labels", folder / "names")


class TestClassFolder:
    def test_folder_names_are_categories(self, tmp_path):
        root = make_images(tmp_path / "root", ["dog/1.png", "cat/1.png", "cat/deep/2.png"])
        data = ClassFolderDataset(root)
        assert data.categories == ("cat", "dog")
        assert {i: data.target(n).label for n, i in enumerate(data.image_ids)} == {
            "cat/1.png": 0,
            "cat/deep/2.png": 0,
            "dog/1.png": 1,
        }

    def test_names_replace_folder_names_in_sorted_order(self, tmp_path):
        root = make_images(tmp_path / "root", ["n02/1.png", "n01/1.png"])
        (tmp_path / "names").write_text("tench\ngoldfish\n")
        assert ClassFolderDataset(root, names=tmp_path / "names").categories == ("tench", "goldfish")
        (tmp_path / "names").write_text("tench\n")
        with pytest.raises(DatasetError, match="1 names"):
            ClassFolderDataset(root, names=tmp_path / "names")

    def test_stray_images_are_told_and_flat_folders_refused(self, tmp_path):
        root = make_images(tmp_path / "root", ["dog/1.png", "stray.png"])
        assert ClassFolderDataset(root).problems == ["stray.png: skipped: it is not in a class folder"]
        flat = make_images(tmp_path / "flat", ["1.png"])
        with pytest.raises(DatasetError, match="class folders"):
            ClassFolderDataset(flat)


class TestImageFolder:
    def test_parts_divide_the_images(self, tmp_path):
        root = make_images(tmp_path / "root", [f"{n}.png" for n in range(120)], size=(2, 2))
        parts = {part: set(ImageFolderDataset(root, part=part).image_ids) for part in ("all", "train", "val")}
        assert parts["train"] | parts["val"] == parts["all"]
        assert not parts["train"] & parts["val"]
        assert 2 <= len(parts["val"]) <= 30
        moved = root.rename(tmp_path / "moved")
        assert set(ImageFolderDataset(moved, part="val").image_ids) == parts["val"]

    def test_bad_folders_and_arguments(self, tmp_path):
        with pytest.raises(DatasetError, match="no such folder"):
            ImageFolderDataset(tmp_path / "nowhere")
        (tmp_path / "notes.txt").write_text("x")
        with pytest.raises(DatasetError, match="contains no images"):
            ImageFolderDataset(tmp_path)
        root = make_images(tmp_path / "root", ["1.png"])
        for limit in (0, -1, 1.5, True):
            with pytest.raises(ArgumentError, match="limit"):
                ImageFolderDataset(root, limit=limit)
        with pytest.raises(ArgumentError, match="part"):
            ImageFolderDataset(root, part="test")


class TestDataModule:
    def test_batches(self, tmp_path):
        root = make_images(tmp_path / "root", [f"{n}.png" for n in range(5)])
        data = ImageFolderDataset(root)
        module = ImageDataModule(train=data, val=data, test=data, crop_size=16, batch_size=2)
        batches = list(module.train_dataloader())
        assert [batch.images.shape for batch in batches] == [(2, 3, 16, 16)] * 2
        assert all(batch.images.min() >= 0 and batch.images.max() <= 1 for batch in batches)
        wholes = list(module.test_dataloader())
        assert [batch.image_ids for batch in wholes] == [[image_id] for image_id in data.image_ids]
        assert wholes[3].images[0, 2, 0, 0].item() == pytest.approx(9 / 255)
        assert all(a.image_ids != b.image_ids for a, b in pairwise(wholes))

    def test_missing_part_and_bad_numbers(self, tmp_path):
        with pytest.raises(DatasetError, match="no train dataset"):
            ImageDataModule().train_dataloader()
        for wrong in ({"crop_size": 4}, {"batch_size": 0}, {"num_workers": -1}):
            with pytest.raises(ArgumentError, match=next(iter(wrong))):
                ImageDataModule(**wrong)
