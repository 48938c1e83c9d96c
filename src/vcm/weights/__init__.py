"""Trained weights that come with the package; beside each lies a model card, NAME.md."""

from __future__ import annotations

from pathlib import Path

from vcm.errors import ArgumentError

QA_NPP_BPG = "qa_npp_bpg_detection"
"""A quantization-adaptive preprocessor before BPG, for detectors."""
SLIMMABLE_YOLOV3_TINY = "slimmable_yolov3_tiny"
"""A slimmable codec for yolov3-tiny and for people, of five qualities."""


def shipped(name: str) -> Path:
    """The file of a model that comes with the package.

    Args:
        name: Its name, without ".safetensors".

    Raises:
        ArgumentError: If there is none of this name.
    """
    folder = Path(__file__).parent
    names = sorted(path.stem for path in folder.glob("*.safetensors"))
    if name not in names:
        raise ArgumentError("name", expected=f"one of the shipped models: {', '.join(names)}", got=name)
    return folder / f"{name}.safetensors"
