"""Weights that come with the package, each with a model card NAME.md."""

from __future__ import annotations

from pathlib import Path

from vcm.errors import ArgumentError

QA_NPP_BPG = "qa_npp_bpg_detection"
"""A quantization-adaptive preprocessor before BPG, for detectors."""
IMPORTANCE_YOLOV3_TINY = "importance_yolov3_tiny"
"""A network that predicts yolov3-tiny's importance maps."""
SLIMMABLE_YOLOV3_TINY = "slimmable_yolov3_tiny"
"""A slimmable codec for yolov3-tiny and for people, of five qualities."""


def shipped(name: str) -> Path:
    """Return the path of a model file that comes with the package.

    Args:
        name: Name of the model, without ".safetensors".

    Raises:
        ArgumentError: If there is no such model.
    """
    folder = Path(__file__).parent
    names = sorted(path.stem for path in folder.glob("*.safetensors"))
    if name not in names:
        raise ArgumentError("name", expected=f"one of the shipped models: {', '.join(names)}", got=name)
    return folder / f"{name}.safetensors"
