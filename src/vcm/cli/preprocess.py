"""`vcm preprocess`: filter images for any encoder."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcm.cli.bulk import Bulk, add_bulk_options
from vcm.cli.compress import add_output_options
from vcm.cli.marks import bears_mark, content_mark, png_info
from vcm.cli.overrides import FormerOption
from vcm.cli.paths import Batch, Input, Outputs, find_inputs, names_a_file, writing
from vcm.cli.work import Item, Outcome
from vcm.errors import ArgumentError, OutputError
from vcm.files import MAX_IMAGE_BYTES, read_bytes
from vcm.weights import QA_NPP_BPG, shipped

if TYPE_CHECKING:
    from torch import Tensor

    from vcm.data.metadata import Metadata
    from vcm.encoding.preprocessing import NPPPreprocessor
    from vcm.encoding.refinement import OnStep
    from vcm.tasks import SplitTask

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
    ".webp": ("WEBP", {"lossless": True}),
    ".bmp": ("BMP", {}),
    ".ppm": ("PPM", {}),
}
"""Lossless formats, with Pillow's name and options, by suffix."""
NO_MODEL = "none"
_WITHOUT_METADATA = ("BMP", "PPM")


def run(arguments: Sequence[str]) -> int:
    """Filter images; return 0 if all succeed, 1 if some fail, 2 if none could be started."""
    known = _parser().parse_args(arguments)
    bulk = Bulk(known, known.images)
    from vcm.data.reading import find_images

    one_name: Path | None = known.output if names_a_file(known.output, known.images) else None
    if one_name is not None and one_name.suffix.lower() not in FORMATS:
        raise ArgumentError(
            "--output",
            expected=f"a folder, or a name that ends in {', '.join(FORMATS)}",
            got=str(one_name),
            remedy="A lossy format would change the filtered pixels before your encoder sees them: write "
            "a lossless one, and encode that.",
        )
    batch = Batch("preprocess")
    inputs, problems = find_inputs(known.images, find_images, "images")
    for problem in problems:
        batch.tell(problem)
    if not inputs:
        return 2
    work = Preprocessing(known)
    model = work.prepare()  # raises errors about arguments before any image is read
    targets = output_names(inputs, known.output)
    read = [source.path for source in inputs]
    outputs = Outputs([model, *read] if model else read, overwrite=known.overwrite)

    def place(source: Input) -> Item:
        return Item(source.path, one_name or targets[source])

    def claim(item: Item, goes_on: bool) -> Item:
        del goes_on  # PNG files know by themselves what they were made of
        outputs.claim(
            item.target, item.source, lambda: bool(mark := work.mark(item)) and bears_mark(item.target, mark)
        )
        return item

    settings = {"command": "preprocess", "settings": work.settings}
    bulk.run(batch, inputs, place, claim, work, settings=settings, is_slow=bool(known.effort))
    return batch.finish()


class Preprocessing:
    """Filter single images, with networks loaded once per process.

    Args:
        known: The command's arguments.
    """

    def __init__(self, known: argparse.Namespace) -> None:
        self._known = known
        self._is_ready = False
        self._task: SplitTask | None = None
        self._refine: Callable[[Tensor, Tensor, OnStep | None], Tensor] | None = None
        self._preprocessor: NPPPreprocessor | None = None
        self.settings: list[object] = []

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without the networks."""
        return Preprocessing, (self._known,)

    def prepare(self) -> Path | None:
        """Load networks; return the preprocessor's file, or None.

        Raises:
            ArgumentError: If the arguments do not go together.
        """
        known = self._known
        self._task = _reader(known.reader, known.size, known.device)
        self._refine = _refinement(known.effort, known.quality, self._task)
        self._preprocessor, model = _preprocessor(known)
        self.settings = [known.size, None if self._task is None else self._task.settings()]
        self.settings += [None if self._preprocessor is None else self._preprocessor.settings()]
        self.settings += [known.effort, known.quality] if known.effort else []
        self._is_ready = True
        return model

    def mark(self, item: Item) -> str:
        """Return the mark of a PNG output; empty for other formats."""
        return _mark(item.source, self.settings) if item.target.suffix.lower() == ".png" else ""

    def __call__(self, item: Item, on_step: OnStep | None = None) -> Outcome:
        """Filter one image and write the output."""
        from vcm.data.metadata import read_metadata
        from vcm.data.reading import read_image

        if not self._is_ready:
            self.prepare()
        image = read_image(item.source)
        height, width = image.shape[1:]
        image = _scaled(image, self._known.size, self._task)
        metadata = read_metadata(item.source, (image.shape[1], image.shape[2]))
        filtered = image if self._preprocessor is None else self._preprocessor(image)
        if self._refine is not None:
            filtered = self._refine(image, filtered, on_step)
        data = encode(filtered, item.target.suffix, metadata, self.mark(item))
        with writing(item.target) as file:
            file.write(data)
        return Outcome(item, len(data), height * width)


def _reader(name: str | None, size: int | None, device: str) -> SplitTask | None:
    """Return the task of --for; None without --for."""
    if size is not None and name is not None:
        raise ArgumentError("--size", expected="given without --for, which states a size too", got=size)
    if size is not None and size < 1:
        raise ArgumentError("--size", expected="a longest side in pixels, from 1", got=size)
    if name is None:
        return None
    from vcm.cli.tasks import load_task

    return load_task(name, device, argument="--for")


def _scaled(image: Tensor, size: int | None, task: SplitTask | None) -> Tensor:
    """Scale an image to --size or to the input size of --for, if one is given."""
    from vcm.encoding.reader import scale_to_reader

    if size is not None:
        return scale_to_side(image, size)
    return image if task is None else scale_to_reader(image, task)


def _refinement(
    effort: int, quality: float | None, task: SplitTask | None
) -> Callable[[Tensor, Tensor, OnStep | None], Tensor] | None:
    """Return the search of --effort; None with --effort 0."""
    from vcm.codecs import BPGCodec
    from vcm.encoding.search import ImageSearch

    search = ImageSearch(effort)
    if not search.effort:
        return None
    if task is None or quality is None:
        missing = "--for TASK" if task is None else "--quality QP"
        raise ArgumentError(
            "--effort",
            expected=f"0 without {missing}",
            got=effort,
            remedy="A search needs --for TASK and the --quality at which BPG will encode the outputs.",
        )
    codec = BPGCodec(quality)
    return lambda image, start, on_step: search.run(image, start, codec, task, on_step=on_step).image


def scale_to_side(image: Tensor, side: int) -> Tensor:
    """Scale (3, H, W) uint8 to a longest side in pixels, never up, as YOLO's letterbox does."""
    import torch

    from vcm.tasks.letterbox import Letterbox

    height, width = image.shape[1:]
    if max(height, width) <= side:
        return image
    box = Letterbox((height, width), (side, side))
    return box.scale(image.float()).clamp(0, 255).round().to(torch.uint8)


def _preprocessor(known: argparse.Namespace) -> tuple[NPPPreprocessor | None, Path | None]:
    """Return the preprocessor and its file; (None, None) for `--model none`."""
    from vcm.cli.devices import choose_device
    from vcm.codecs import BPGCodec
    from vcm.encoding.preprocessing import NPPPreprocessor

    if known.quality is not None:
        BPGCodec.quality_scale.check(known.quality)
    if known.lmbda is not None and known.quality is not None:
        raise ArgumentError("--lmbda", expected="given without --quality, which sets λ too", got=known.lmbda)
    if str(known.model) == NO_MODEL:
        if known.size is None and known.reader is None:
            raise ArgumentError(
                "--model", expected="a model's file, or none with --size or --for", got=NO_MODEL
            )
        if known.lmbda is not None:
            raise ArgumentError(
                "--lmbda", expected="given with a model, not with --model none", got=known.lmbda
            )
        if known.quality is not None and not known.effort:
            raise ArgumentError(
                "--quality", expected="given with a model, or with --effort", got=known.quality
            )
        return None, None
    path = known.model or shipped(QA_NPP_BPG)
    device = str(choose_device(known.device))
    codec = None if known.quality is None else "bpg"
    quality = known.quality
    return NPPPreprocessor(path, lmbda=known.lmbda, codec=codec, quality=quality, device=device), path


def output_names(inputs: Sequence[Input], folder: Path | None, suffix: str = ".png") -> dict[Input, Path]:
    """Return the output of each input: photo.png for photo.jpg, or photo.jpg.png if there is a photo.webp."""
    plain = {source: source.below(folder).with_suffix(suffix) for source in inputs}
    counts = Counter(plain.values())
    return {
        source: path
        if counts[path] == 1 or path.name == source.path.name
        else path.with_name(f"{source.path.name}{suffix}")
        for source, path in plain.items()
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vcm preprocess",
        description="Filter images with a trained preprocessor, so that any encoder spends fewer bits on "
        "what a detector or classifier does not need. Output is PNG, or another lossless "
        "format with -o NAME. EXIF orientation is applied to the pixels, transparency is laid "
        "over white, 16-bit images are reduced to 8 bits, and only the first frame of an "
        "animation is used. Colours are not converted: RGB ICC profiles and EXIF data on "
        "camera, time, place, author and copyright are kept if the format supports them (BMP "
        "and PPM do not); XMP and thumbnails are dropped.",
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMG", help="images or folders of images")
    parser.add_argument(
        "--model",
        type=Path,
        metavar="M",
        help="model file of `vcm train`; default: the one shipped with vcm, for BPG and detectors; none, "
        "with --size or --for, only scales images",
    )
    parser.add_argument(
        "--lmbda",
        type=float,
        metavar="L",
        help="λ of a quantization-adaptive model; a larger λ keeps more for the task, at more bits",
    )
    parser.add_argument(
        "--rate",
        dest="lmbda",
        type=float,
        help=argparse.SUPPRESS,
        action=FormerOption,
        present="--lmbda",
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="N",
        help="scale larger images down to a longest side of N pixels before filtering (bilinear, like YOLO's "
        "letterbox)",
    )
    parser.add_argument(
        "--for",
        dest="reader",
        metavar="TASK",
        help="scale larger images down to the input size of a task: detection (yolov3_tiny), classification "
        "(mobilenet_v2), or another task of `vcm evaluate task=…`",
    )
    parser.add_argument(
        "--quality",
        type=float,
        metavar="QP",
        help="QP at which BPG will encode the outputs: sets λ instead of --lmbda; required by --effort",
    )
    parser.add_argument(
        "--effort",
        type=int,
        default=0,
        metavar="N",
        help="steps of a search for better pixels for TASK through BPG, with --for and --quality; default: "
        "0. `vcm encode --effort` writes BPG files with QPs per block",
    )
    add_output_options(
        parser,
        "output folder, which mirrors that of the images, or the name of a single output, ending in "
        + ", ".join(FORMATS),
    )
    add_bulk_options(parser)
    return parser


def _mark(source: Path, settings: Sequence[object]) -> str:
    """Return the mark of an image with these settings; "" if it cannot be read."""
    try:
        data = read_bytes(source, limit=MAX_IMAGE_BYTES)
    except OSError:
        return ""
    return content_mark(hashlib.sha256(data).hexdigest(), json.dumps(settings, default=str, sort_keys=True))


def encode(image: Tensor, suffix: str, metadata: Metadata, mark: str = "") -> bytes:
    """Encode an image losslessly.

    Args:
        image: (3, H, W) uint8 RGB.
        suffix: One of `FORMATS`.
        metadata: Metadata to write, if the format supports it.
        mark: Provenance of the output, for PNG; see `vcm.cli.marks`.

    Raises:
        OutputError: If the format cannot hold this image.
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
    if kind == "PNG" and mark:
        options = {**options, "pnginfo": png_info(mark)}
    file = io.BytesIO()
    try:
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(file, kind, **options)
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot be written as {kind}: {error}; write .png instead.") from error
    return file.getvalue()
