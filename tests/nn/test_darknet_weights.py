from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
import torch

from vcm.errors import ArgumentError, WeightsError
from vcm.nn.darknet import Darknet, parse_cfg, read_weights, write_weights

CFG = """
[net]
width=32
height=32
[convolutional]
batch_normalize=1
filters=4
size=3
pad=1
activation=leaky
[convolutional]
filters=6
size=1
activation=linear
[yolo]
mask=0
anchors=10,13
classes=1
num=1
"""
# 3 * 4 * 9 + 4 * 4 values in layer 0, 4 * 6 + 6 in layer 1.
VALUES = 124 + 30


@pytest.fixture
def network() -> Darknet:
    return Darknet(parse_cfg(CFG)).eval()


def save(path: Path, header: bytes, values: torch.Tensor) -> Path:
    path.write_bytes(header + values.numpy().astype("<f4").tobytes())
    return path


@pytest.mark.parametrize(
    "header", [struct.pack("<4i", 0, 1, 0, 77), struct.pack("<3iQ", 0, 2, 5, 77)], ids=["0.1", "0.2"]
)
def test_values_land_where_darknet_puts_them(network: Darknet, header: bytes, tmp_path: Path) -> None:
    """In the order of Darknet's load_convolutional_weights: biases, scales, means, variances, weights."""
    path = save(tmp_path / "w", header, torch.arange(VALUES).float())
    assert read_weights(network, path) == 77
    state = network.state_dict()
    assert state["layers.0.norm.bias"].tolist() == [0, 1, 2, 3]
    assert state["layers.0.norm.weight"].tolist() == [4, 5, 6, 7]
    assert state["layers.0.norm.running_mean"].tolist() == [8, 9, 10, 11]
    assert state["layers.0.norm.running_var"].tolist() == [12, 13, 14, 15]
    assert state["layers.0.conv.weight"][0, 0].tolist() == [[16, 17, 18], [19, 20, 21], [22, 23, 24]]
    assert state["layers.0.conv.weight"][3, 2, 2, 2] == 123
    assert state["layers.1.conv.bias"].tolist() == [124, 125, 126, 127, 128, 129]
    assert state["layers.1.conv.weight"][1, :, 0, 0].tolist() == [134, 135, 136, 137]


@pytest.mark.parametrize("version", [(0, 1, 0), (0, 2, 0), (1, 0, 0)])
def test_written_weights_read_back(network: Darknet, version: tuple[int, int, int], tmp_path: Path) -> None:
    write_weights(network, tmp_path / "w", seen=123, version=version)
    assert (tmp_path / "w").stat().st_size == (16 if version == (0, 1, 0) else 20) + 4 * VALUES
    other = Darknet(parse_cfg(CFG)).eval()
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(other(image)[0], network(image)[0])
        assert read_weights(other, tmp_path / "w") == 123
        assert torch.equal(other(image)[0], network(image)[0])


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, r"too short .* by 154 values: it holds 0 of 154 and ends within layer 0 \(convolutional\)"),
        (123, "too short .* by 31 values: it holds 123 of 154 and ends within layer 0"),
        (124, "too short .* by 30 values: .* ends within layer 1"),
        (153, "too short .* by 1 values: .* ends within layer 1"),
        (
            155,
            "too long .* by 1 values: it holds 155, and layer 1, the last convolutional, takes",
        ),
        (1154, "too long .* by 1000 values"),
    ],
)
def test_wrong_length(network: Darknet, count: int, message: str, tmp_path: Path) -> None:
    path = save(tmp_path / "w", struct.pack("<3iQ", 0, 2, 0, 0), torch.ones(count))
    with pytest.raises(WeightsError, match=message):
        read_weights(network, path)


def test_files_that_are_no_weights(network: Darknet, tmp_path: Path) -> None:
    header = struct.pack("<3iQ", 0, 2, 0, 0)
    (tmp_path / "odd").write_bytes(header + b"abc")
    (tmp_path / "short").write_bytes(header[:15])
    (tmp_path / "html").write_bytes(b"<!DOCTYPE html><html>not found</html>")
    for name, message in (
        ("odd", "23 bytes do not end on a whole float32"),
        ("short", "15 bytes are less than its header"),
        ("html", "its header says version"),
        ("missing", "cannot be read"),
    ):
        with pytest.raises(WeightsError, match=message):
            read_weights(network, tmp_path / name)


@pytest.mark.parametrize(
    ("position", "value", "what"),
    [(150, float("nan"), "weights in layer 1"), (13, -1.0, "running variances in layer 0")],
)
def test_impossible_values(network: Darknet, position: int, value: float, what: str, tmp_path: Path) -> None:
    values = torch.ones(VALUES)
    values[position] = value
    path = save(tmp_path / "w", struct.pack("<4i", 0, 1, 0, 0), values)
    with pytest.raises(WeightsError, match=f"impossible {what}"):
        read_weights(network, path)


def test_folded_networks_and_headers_that_cannot_hold_seen(network: Darknet, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="seen must be from 0 to what 4 bytes hold"):
        write_weights(network, tmp_path / "w", seen=2**31, version=(0, 1, 0))
    network.fold()
    with pytest.raises(ArgumentError, match="before fold"):
        write_weights(network, tmp_path / "w")


def test_what_is_no_regular_file_is_refused_unread(network: Darknet, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, size in (("sparse", 20 << 30), ("long", 4 << 30)):
        with (tmp_path / name).open("wb") as file:
            file.write(struct.pack("<3iQ", 0, 2, 0, 7))
            file.truncate(size)
    for path, message in (
        (tmp_path / "fifo", "it is a FIFO"),
        (Path("/dev/zero"), "it is a character device"),
        (tmp_path, "it is a folder"),
        (tmp_path / "sparse", "more than the limit"),
        (tmp_path / "long", "too long for this cfg by 10737"),
    ):
        with pytest.raises(WeightsError, match=message):
            read_weights(network, path)


def test_writing_follows_no_link(network: Darknet, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    write_weights(network, tmp_path / "link")
    assert (tmp_path / "other").read_bytes() == b"other"
    assert read_weights(network, tmp_path / "link") == 0
