import os

import pytest
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from vcm.categories import COCO_CATEGORIES, canonical, match_categories, read_names
from vcm.errors import ArgumentError

VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def test_names_are_those_that_torchvision_has():
    theirs = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert [name for name in theirs if name not in ("N/A", "__background__")] == list(COCO_CATEGORIES)
    assert len(set(COCO_CATEGORIES)) == 80


def test_darknets_names_are_the_same_in_its_own_words(asset_path):
    names = asset_path("yolov3-tiny", "coco.names").read_text().split("\n")[:80]
    assert {"motorbike", "aeroplane", "sofa", "tvmonitor", "pottedplant", "diningtable"} <= set(names)
    assert match_categories(names, COCO_CATEGORIES) == list(range(80))
    assert match_categories(COCO_CATEGORIES, names) == list(range(80))


def test_vocs_twenty_are_all_in_coco():
    matched = [COCO_CATEGORIES[index] for index in match_categories(VOC, COCO_CATEGORIES)]
    translated = {
        "aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle",
        "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv",
    }  # fmt: skip
    assert matched == [translated.get(name, name) for name in VOC]


@pytest.mark.parametrize("name", ["Traffic Light", "traffic-light", "traffic_light", "TrafficLight"])
def test_case_and_spaces_do_not_matter(name):
    assert canonical(name) == canonical("traffic light")


def test_unknown_names_and_no_names():
    assert match_categories(["unicorn", "cat"], ["dog", "cat"]) == [-1, 1]
    assert match_categories([], ["dog"]) == []
    assert match_categories(["dog"], []) == [-1]


def test_names_come_from_a_file_without_blank_lines(tmp_path):
    path = tmp_path / "my.names"
    path.write_bytes("\ufeffcat\r\n\n traffic light \nüzüm".encode())
    assert read_names(path) == read_names(str(path)) == ("cat", "traffic light", "üzüm")


@pytest.mark.parametrize("content", [None, b"", b" \n\n", b"\xff\xfe\x00\xd8"])
def test_a_file_that_holds_no_names_is_told(content, tmp_path):
    path = tmp_path / "my.names"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArgumentError, match=r"names must be .* one class name per line; got .*my\.names"):
        read_names(path)


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, message in ((tmp_path / "fifo", "it is a FIFO"), ("/dev/zero", "it is a character device")):
        with pytest.raises(ArgumentError, match=message):
            read_names(path)
