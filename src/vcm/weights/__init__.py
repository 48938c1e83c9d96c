"""Trained weights that come with the package; beside each lies a model card, NAME.md."""

from __future__ import annotations

import re
from pathlib import Path

from vcm.errors import ArgumentError

QA_NPP_BPG = "qa_npp_bpg_detection"
"""A quantization-adaptive preprocessor before BPG, for detectors."""
SLIMMABLE_YOLOV3_TINY = "slimmable_yolov3_tiny_{quality}"
"""Slimmable codecs for yolov3-tiny and for people: a family, one model for each of `SLIMMABLE_QUALITIES`."""
SLIMMABLE_QUALITIES = (1, 4)
"""By what each model's λ were multiplied: the larger, the more bits."""


def shipped(name: str) -> Path:
    """The file of a model that comes with the package.

    Args:
        name: Its name, without ".safetensors". In a family's name "{quality}" stands for each model's number,
            as in the codecs' `model`, and in what is returned, too.

    Raises:
        ArgumentError: If there is none of this name.
    """
    folder = Path(__file__).parent
    names = sorted(path.stem for path in folder.glob("*.safetensors"))
    pattern = re.escape(name).replace(re.escape("{quality}"), r"[0-9.]+")
    if not any(re.fullmatch(pattern, known) for known in names):
        raise ArgumentError("name", expected=f"one of the shipped models: {', '.join(names)}", got=name)
    return folder / f"{name}.safetensors"
