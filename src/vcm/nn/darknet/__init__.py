"""Darknet networks: cfg and weights files, layers of the YOLO family, partial execution."""

from vcm.nn.darknet.builtin import yolov3_cfg
from vcm.nn.darknet.cfg import Section, parse_cfg, read_cfg
from vcm.nn.darknet.head import HeadOutput, HeadSpec, decode_head
from vcm.nn.darknet.network import IMAGE, Darknet
from vcm.nn.darknet.weights import read_weights, write_weights

__all__ = [
    "IMAGE",
    "Darknet",
    "HeadOutput",
    "HeadSpec",
    "Section",
    "decode_head",
    "parse_cfg",
    "read_cfg",
    "read_weights",
    "write_weights",
    "yolov3_cfg",
]
