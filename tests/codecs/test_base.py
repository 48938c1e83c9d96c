"""What every codec shares: cheap imports, settings, configuration."""

from __future__ import annotations

import copy
import importlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vcm.codecs
from vcm.codecs import (
    AVIFCodec,
    BPGCodec,
    BPGSubprocessCodec,
    Codec,
    JPEG2000Codec,
    JPEGCodec,
    WebPCodec,
)
from vcm.errors import ArgumentError

CONF = Path(__file__).parents[2] / "conf" / "codec"
NAMES = ["avif", "bpg", "bpgenc", "jpeg", "jpeg2000", "jxl", "webp"]
NEED_A_MODEL = ["compressai", "features", "learned"]  # built in their own tests


def test_listing_codecs_loads_nothing_heavy() -> None:
    code = (
        "import sys, vcm.codecs as c\n"
        "for n in c.__all__:\n"
        "    k = getattr(c, n)\n"
        "    if isinstance(k, type) and issubclass(k, c.Codec) and hasattr(k, 'title'):\n"
        "        print(k.name, k.title, k.suffix, k.quality_scale)\n"
        "print(sorted({'torch', 'numpy', 'av', 'PIL', 'pillow_jxl', 'lightning'} & set(sys.modules)))"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    *codecs, heavy = lines.splitlines()
    assert heavy == "[]"
    assert sorted(line.split()[0] for line in codecs) == sorted([*NAMES, "compressai", "learned"])


@pytest.mark.parametrize("name", NAMES)
def test_each_configuration_builds_its_codec_with_its_defaults(
    name: str, curve_plan: Callable[[str], dict[str, Any]]
) -> None:
    entry = curve_plan(name)
    module, _, attribute = entry["codec"].pop("_target_").rpartition(".")
    kind = getattr(importlib.import_module(module), attribute)
    assert kind.name == name
    assert len(entry["qualities"]) >= 4
    for quality in entry["qualities"]:
        codec = kind(quality=quality, **entry["codec"])
        assert codec.settings() == kind(quality=quality).settings()
    assert set(entry["codec"]) | {"quality"} == set(codec.settings()) - {"name", "implementation"}


def test_every_configuration_is_tested() -> None:
    every = {path.stem for path in CONF.glob("*.yaml")}
    # Those with a preprocessor, the reader's size, importance or effort: tests/cli/test_evaluate_*.py.
    endings = ("_at_reader", "_importance", "_importance_network", "_effort10")
    composed = {name for name in every if name.startswith("npp_") or name.endswith(endings)}
    assert every - composed == {*NAMES, *NEED_A_MODEL}


@pytest.mark.parametrize(
    "codec", [JPEGCodec(30), WebPCodec(), AVIFCodec(), BPGCodec(40), BPGSubprocessCodec(40)]
)
def test_codecs_are_plain_values(codec: Codec) -> None:
    assert json.loads(json.dumps(codec.settings())) == codec.settings()
    for twin in (
        copy.deepcopy(codec),
        pickle.loads(pickle.dumps(codec)),
        eval(repr(codec), vars(vcm.codecs)),
    ):
        assert twin.settings() == codec.settings()


def test_repr_is_what_one_writes() -> None:
    assert repr(WebPCodec(30, method=2)) == "WebPCodec(quality=30, method=2)"


def test_only_bytes_are_decoded() -> None:
    codec = JPEGCodec()
    image = torch.full((3, 5, 9), 77, dtype=torch.uint8)
    data = codec.encode(image)
    for same in (bytearray(data), memoryview(data)):
        assert torch.equal(codec.decode(same), codec.decode(data))  # type: ignore[arg-type]
    for other in (None, "", "abc", 5, [], np.frombuffer(data, np.uint8)):
        with pytest.raises(
            ArgumentError, match=f"data must be bytes from encode; got '{type(other).__name__}'"
        ):
            codec.decode(other)  # type: ignore[arg-type]


def test_numpys_numbers_are_numbers() -> None:
    """Sweeps are written with np.arange; settings stay plain JSON."""
    codec = WebPCodec(np.int64(50), method=np.int32(3))
    assert codec.settings() == WebPCodec(50, method=3).settings()
    assert json.loads(json.dumps(codec.settings()))["quality"] == 50
    assert JPEG2000Codec(np.float32(27.5)).quality == 27.5
    for wrong in (np.bool_(True), np.float64("nan"), np.int64(101), "50", None, 10**400):
        with pytest.raises(ArgumentError, match="quality"):
            WebPCodec(wrong)  # type: ignore[arg-type]
