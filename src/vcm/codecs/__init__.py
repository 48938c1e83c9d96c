"""Image and feature codecs.

This package imports neither torch nor NumPy, Pillow or PyAV, so that codecs can be listed quickly. Codecs
import what they need when they run.
"""

from vcm.codecs.base import ArrayCodec, Codec
from vcm.codecs.bpg.codec import BPGCodec
from vcm.codecs.bpg.offsets import qp_offsets
from vcm.codecs.bpg.subprocess import BPGSubprocessCodec
from vcm.codecs.features import FeatureCodec
from vcm.codecs.jpegxl import JPEGXLCodec
from vcm.codecs.learned import CompressAICodec, LearnedCodec, SlimmableFeatureCodec
from vcm.codecs.pillow import AVIFCodec, JPEG2000Codec, JPEGCodec, WebPCodec
from vcm.codecs.pool import CodecPool, Failure, RoundTrip, Timed, raise_failures
from vcm.deprecation import former_names

__all__ = [
    "AVIFCodec",
    "ArrayCodec",
    "BPGCodec",
    "BPGSubprocessCodec",
    "Codec",
    "CodecPool",
    "CompressAICodec",
    "Failure",
    "FeatureCodec",
    "JPEG2000Codec",
    "JPEGCodec",
    "JPEGXLCodec",
    "LearnedCodec",
    "RoundTrip",
    "SlimmableFeatureCodec",
    "Timed",
    "WebPCodec",
    "qp_offsets",
    "raise_failures",
]

__getattr__ = former_names(__name__, {"Encoded": "Timed", "Decoded": "Timed"})
