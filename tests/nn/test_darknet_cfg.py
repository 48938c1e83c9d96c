from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from vcm.errors import ArgumentError
from vcm.nn.darknet import Darknet, parse_cfg, read_cfg, yolov3_cfg

HEAD = "[yolo]\nmask=0\nanchors=10,13\nclasses=1\nnum=1\n"
CONV = "[convolutional]\nfilters=6\nsize=1\nactivation=linear\n"
NET = "[net]\nwidth=32\nheight=32\n"


def build(layers: str) -> Darknet:
    return Darknet(parse_cfg(NET + layers))


def test_comments_blanks_and_lines() -> None:
    sections = parse_cfg("# a\n[net]\n width = 64 \n\n; b\n[route] # c\nlayers = -1, 8\n")
    assert [(s.name, s.line) for s in sections] == [("net", 2), ("route", 6)]
    assert sections[0].options == {"width": "64"}
    assert sections[1].integers("layers") == (-1, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no section at all"),
        ("[convolutional]\nfilters=1\n", r"\[convolutional\] in line 1"),
        ("[net]\nwidth=32\n", "alone"),
        ("<!DOCTYPE html>\n<p>", "cfg line 1 must be"),
        ("[net]\nwidth\n", "cfg line 2"),
        ("[net]\nwidth=32\nwidth=64\n", r"line 1, \[net\] width must be given once"),
    ],
)
def test_text_that_is_not_a_cfg(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        parse_cfg(text)


def test_files_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(range(256)))
    with pytest.raises(ArgumentError, match="readable Darknet cfg"):
        read_cfg(tmp_path / "weights")
    with pytest.raises(ArgumentError, match="No such file"):
        read_cfg(tmp_path / "missing.cfg")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("[reorg]\nstride=2\n", r"line 4, \[reorg\] layer must be one of \[convolutional\]"),
        ("[convolutional]\nactivation=selu\n", r"line 4, \[convolutional\] activation must be one of linear"),
        ("[convolutional]\nfilters=x\n", r"filters must be a number; got 'x'"),
        ("[convolutional]\nfilters=0\n", r"filters must be whole numbers >= 1; got '0'"),
        ("[convolutional]\nfilters=2.5\n", "filters must be whole numbers"),
        ("[convolutional]\ndilation=2\n", "got 'dilation=2'"),
        ("[convolutional]\nfilters=4\ngroups=2\n", "groups must be a divisor of filters=4 and of 3 channels"),
        ("[route]\nlayers=-1\n", "layers before this one, which is layer 0"),
        (CONV + "[maxpool]\nsize=2\nstride=2\n[route]\nlayers=0,1\n", "layers of one resolution"),
        (CONV + "[route]\nlayers=-1\ngroups=2\ngroup_id=2\n", "group_id must be below groups=2"),
        (
            CONV + "[convolutional]\nfilters=4\n[shortcut]\nfrom=-2\n",
            "from must be one layer with 4 channels",
        ),
        (CONV, r"at least one \[yolo\]"),
        (CONV + HEAD.replace("classes=1", "classes=2"), "the 6 channels of the layer before"),
        (CONV + HEAD.replace("10,13", "10"), "anchors must be num=1 pairs"),
        (CONV + HEAD.replace("mask=0", "mask=1"), "mask must be indices below num=1"),
        (CONV + HEAD + "new_coords=1\n", "new_coords must be 0, the only value supported"),
        (CONV + HEAD + "iou_loss=siou\n", "iou_loss must be one of mse"),
        (CONV + HEAD.replace("classes=1\n", ""), r"\[yolo\] classes must be given; got 'nothing'"),
    ],
)
def test_layers_that_are_refused(layers: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        build(layers)


def test_net_sizes_and_channels_are_checked() -> None:
    with pytest.raises(ArgumentError, match="width must be a multiple of the network's stride, 4"):
        Darknet(parse_cfg("[net]\nwidth=30\nheight=32\n" + CONV.replace("size=1", "size=1\nstride=4") + HEAD))
    with pytest.raises(ArgumentError, match=r"channels must be 3 \(RGB\); got 1"):
        Darknet(parse_cfg("[net]\nchannels=1\n" + CONV + HEAD))


def test_builtin_cfgs_are_the_published_networks() -> None:
    """Layer numbers from the published cfgs, value counts from the published files (248,007,048 bytes)."""
    published = ((False, (82, 94, 106), 62_001_757), (True, (89, 101, 113), 63_052_381))
    for spp, heads, values in published:
        network = Darknet(parse_cfg(yolov3_cfg(spp=spp)))
        running = sum(b.numel() for n, b in network.named_buffers() if "running" in n)
        assert network.head_layers == heads
        assert len(network) == heads[-1] + 1
        assert sum(p.numel() for p in network.parameters()) + running == values
        assert (network.layer(36).out_channels, network.layer(36).stride) == (256, 8)
        assert network.live_after(15) == (15,)
    assert (248_007_048 - 20) // 4 == 62_001_757
    with pytest.raises(ArgumentError, match="num_classes must be at least 1"):
        yolov3_cfg(0)


def test_a_cfg_of_too_many_layers_is_refused_at_once() -> None:
    start = time.process_time()
    with pytest.raises(ArgumentError, match="within the first 1024 layers"):
        parse_cfg("[net]\n" + "[maxpool]\n" * 100_000)
    assert time.process_time() - start < 1
    assert len(parse_cfg("[net]\n" + "[maxpool]\n" * 1024)) == 1025


@pytest.mark.parametrize(
    "options", ["filters=4000000\nsize=9", "filters=9\nsize=1000000", "filters=100000000000000000000"]
)
def test_a_cfg_of_too_many_weights_is_refused_at_once(options: str) -> None:
    start = time.process_time()
    with pytest.raises(ArgumentError, match=r"at most 268435456 weights|one that torch can build"):
        Darknet(parse_cfg(f"[net]\n[convolutional]\n{options}\n[convolutional]\n{options}\n"))
    assert time.process_time() - start < 1


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(20 << 30)
    for path, message in (
        (tmp_path / "fifo", "it is a FIFO"),
        (Path("/dev/zero"), "it is a character device"),
        (tmp_path / "sparse", "more than the limit"),
    ):
        with pytest.raises(ArgumentError, match=message):
            read_cfg(path)
