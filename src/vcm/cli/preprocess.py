"""`vcm preprocess`: pictures in, pictures out, for an encoder of one's own."""

from __future__ import annotations

import argparse
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcm.cli.compress import add_output_options
from vcm.cli.files import Batch, Input, Outputs, find_inputs, names_a_file
from vcm.errors import ArgumentError, OutputError
from vcm.weights import QA_NPP_BPG, shipped

if TYPE_CHECKING:
    from torch import Tensor

    from vcm.data.metadata import Metadata

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
    ".webp": ("WEBP", {"lossless": True}),
    ".bmp": ("BMP", {}),
    ".ppm": ("PPM", {}),
}
"""Lossless formats, with Pillow's name and options, by suffix."""
_WITHOUT_METADATA = ("BMP", "PPM")


def run(arguments: Sequence[str]) -> int:
    """Filter each picture; returns 0 if all are done, 1 if some are, 2 if nothing could begin."""
    known = _parser().parse_args(arguments)
    from vcm.data.metadata import read_metadata
    from vcm.data.reading import find_pictures, read_picture

    one_name: Path | None = known.output if names_a_file(known.output, known.pictures) else None
    if one_name is not None and one_name.suffix.lower() not in FORMATS:
        raise ArgumentError(
            "--output",
            expected=f"a folder, or a name that ends in {', '.join(FORMATS)}",
            got=str(one_name),
            remedy="A lossy format would change the filtered pixels before your encoder sees them: write "
            "a lossless one, and encode that.",
        )
    batch = Batch("preprocess")
    inputs, problems = find_inputs(known.pictures, find_pictures, "pictures")
    for problem in problems:
        batch.tell(problem)
    if not inputs:
        return 2
    from vcm.cli.devices import choose_device
    from vcm.evaluation.preprocessing import NPPPreprocessor

    model = known.model or shipped(QA_NPP_BPG)
    preprocessor = NPPPreprocessor(model, rate=known.rate, device=str(choose_device(known.device)))
    model_time = model.stat().st_mtime_ns if known.model else 0
    targets = output_names(inputs, known.output)
    outputs = Outputs([model, *(source.path for source in inputs)], overwrite=known.overwrite)

    def preprocess(source: Input) -> tuple[int, int]:
        target = one_name or targets[source]
        outputs.claim(target, source.path, lambda: target.stat().st_mtime_ns >= model_time)
        image = read_picture(source.path)
        height, width = image.shape[1:]
        metadata = read_metadata(source.path, (height, width))
        data = encode(preprocessor(image), target.suffix, metadata)
        with outputs.write(target) as file:
            file.write(data)
        return len(data), height * width

    batch.run(inputs, preprocess)
    return batch.finish()


def output_names(inputs: Sequence[Input], folder: Path | None) -> dict[Input, Path]:
    """Each input's output: photo.jpg becomes photo.png, or photo.jpg.png where photo.webp is there too."""
    plain = {source: source.below(folder).with_suffix(".png") for source in inputs}
    counts = Counter(plain.values())
    return {
        source: path
        if counts[path] == 1 or path.name == source.path.name
        else path.with_name(f"{source.path.name}.png")
        for source, path in plain.items()
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vcm preprocess",
        description="Filter pictures by a trained preprocessor, so that an encoder of your own spends fewer "
        "bits on what a detector or classifier does not need. Writes PNG, or with -o NAME another lossless "
        "format. Pictures are written as a person sees them: EXIF's orientation is applied to the pixels "
        "and no longer noted, transparency is laid over white, of 16 bits the upper 8 are kept, of an "
        "animation the first frame. Colours are not converted: an ICC profile for RGB is kept, with what "
        "EXIF says of camera, time, place, author and copyright, wherever the format takes them (BMP and PPM "
        "take neither); XMP and thumbnails are not.",
    )
    parser.add_argument(
        "pictures", nargs="+", type=Path, metavar="IMG", help="pictures, and folders to search for pictures"
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="M",
        help="model.safetensors, as `vcm train` wrote it; without it, the one that comes with vcm, for BPG "
        "and detectors",
    )
    parser.add_argument(
        "--rate",
        type=float,
        metavar="λ",
        help="for a model for many rates: the larger, the more is kept for the task, at more bits",
    )
    add_output_options(
        parser,
        "the outputs' folder, which mirrors that of the pictures, or one output's name, which ends in "
        + ", ".join(FORMATS),
    )
    return parser


def encode(image: Tensor, suffix: str, metadata: Metadata) -> bytes:
    """A picture's file, without loss.

    Args:
        image: (3, H, W) uint8 RGB.
        suffix: One of `FORMATS`.
        metadata: What is written with it, if the format takes it.

    Raises:
        OutputError: If the format cannot hold this picture.
    """
    from PIL import Image

    kind, options = FORMATS[suffix.lower()]
    if kind not in _WITHOUT_METADATA:
        beside = {"exif": metadata.exif, "icc_profile": metadata.icc_profile}
        options = {**options, **{name: value for name, value in beside.items() if value}}
        if kind == "TIFF" and metadata.exif:  # of its own accord Pillow would turn text into ASCII
            exif = Image.Exif()
            exif.load(metadata.exif)
            exif.update(
                {tag: value.encode("latin-1") for tag, value in exif.items() if isinstance(value, str)}
            )
            options["tiffinfo"] = exif
    file = io.BytesIO()
    try:
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(file, kind, **options)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot be written as {kind}: {error}; write .png instead.") from error
    return file.getvalue()
