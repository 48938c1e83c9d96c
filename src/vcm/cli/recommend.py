"""`vcm recommend`: find a codec and quality for a task network."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcm.cli.paths import find_inputs
from vcm.errors import ArgumentError, CodecError, VCMError
from vcm.files import printable

if TYPE_CHECKING:
    from torch import Tensor

    from vcm.evaluation.recommend import Measured, Search
    from vcm.tasks import SplitTask
    from vcm.types import Prediction

DEFAULT_CODECS = ("jpeg", "webp", "avif", "bpg")
_UNITS = {"": 1, "b": 1, "kb": 1000, "kib": 1024, "mb": 1000**2, "mib": 1024**2}


def run(arguments: Sequence[str]) -> int:
    """Print the recommendation. Returns 0 if a codec reaches the target, 1 if none does or inputs were
    skipped, 2 if nothing was measured.
    """
    known = _parser().parse_args(arguments)
    from vcm.cli.tasks import load_task
    from vcm.data.reading import find_images, read_image
    from vcm.evaluation.recommend import check_agreement

    target = None if known.target_size is None else parse_size(known.target_size)
    wanted = check_agreement(0.9 if known.agreement is None else known.agreement)
    if target is not None and known.agreement is not None:
        raise ArgumentError("--target-size", expected="used without --agreement", got=known.target_size)
    if known.limit < 1:
        raise ArgumentError("--limit", expected="a whole number of at least 1", got=known.limit)
    codecs = _codecs(known.codec)
    inputs, problems = find_inputs(known.images, find_images, "images")
    images: dict[Path, Tensor] = {}
    number = min(known.limit, len(inputs))
    for source in (inputs[place * len(inputs) // number] for place in range(number)):
        try:
            images[source.path] = read_image(source.path)
        except VCMError as error:
            problems.append(str(error))
    rows: list[dict[str, Any]] = []
    if images:
        task = load_task(known.reader, known.device, argument="--for")
        rows, left_out = recommend(task, codecs, images, wanted=wanted, target=target)
        problems += left_out
    for problem in problems:
        print(f"vcm recommend: skipped: {printable(problem)}", file=sys.stderr)
    if not rows:
        return 2
    text = json.dumps(rows, indent=2) if known.json else table(rows, len(images), wanted, target)
    print(text)
    return int(not any(row["reached"] for row in rows) or bool(problems))


def recommend(
    task: SplitTask,
    codecs: dict[str, Any],
    images: Mapping[Path, Tensor],
    *,
    wanted: float,
    target: float | None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure each codec and return one row per codec, best first, and the problems.

    Rows are sorted by size, or by agreement if there is a target size; codecs that reach the target come
    first.

    Args:
        task: Task network that reads the decoded images.
        codecs: Codec classes by name.
        images: RGB images (3, H, W), uint8, by path.
        wanted: Minimum share of the task's predictions to keep, in (0, 1].
        target: Maximum mean stream size in bytes; if None, `wanted` is the target instead.

    Raises:
        ArgumentError: If the task finds nothing in any of the images.
    """
    import torch

    from vcm.evaluation.pipelines import predict
    from vcm.evaluation.recommend import MIN_SCORE, Search
    from vcm.types import Detections

    torch.set_num_threads(1)
    originals = [predict(task, image) for image in images.values()]
    counts = [int((p.scores >= MIN_SCORE).sum()) if isinstance(p, Detections) else 1 for p in originals]
    if not sum(counts):
        raise ArgumentError(
            "images",
            expected=f"images with detections of {task.name} at {MIN_SCORE} or more",
            got="none",
        )
    rows, problems = [], []
    for name, kind in codecs.items():
        search = Search(kind.quality_scale, _encoder(kind, task, images), list(images.values()), originals)
        try:
            found = search.for_agreement(wanted) if target is None else search.for_bytes(target)
        except VCMError as error:  # an image that this codec cannot encode
            problems.append(f"{name}: {error}")
        else:
            rows.append(_row(name, search, found, smallest=target is not None))
    rank = (1, "bytes") if target is None else (-1, "agreement")
    return sorted(rows, key=lambda row: (not row["reached"], rank[0] * row[rank[1]])), problems


def _encoder(kind: Any, task: SplitTask, images: Mapping[Path, Tensor]) -> Any:  # noqa: ANN401  a codec class
    from vcm.evaluation.pipelines import predict

    codecs: dict[float, Any] = {}

    def encode(image: Tensor, quality: float) -> tuple[int, Prediction]:
        if quality not in codecs:
            codecs[quality] = kind(quality)
        try:
            data = codecs[quality].encode(image)
        except VCMError as error:
            path = next((path for path, other in images.items() if other is image), "")
            raise CodecError(f"{path}: {error}") from error
        return len(data), predict(task, codecs[quality].decode(data))

    return encode


def _row(name: str, search: Search, found: Measured | None, *, smallest: bool) -> dict[str, Any]:
    """Return the row of a codec; if it misses the target, with its smallest or most faithful stream."""
    tried = search.tried.values()
    by_size, by_share = (
        min(tried, key=lambda measured: measured.num_bytes),
        max(tried, key=lambda measured: (measured.agreement, -measured.num_bytes)),
    )
    shown = found or (by_size if smallest else by_share)
    return {
        "codec": name,
        "quality": shown.quality,
        "scale": search.scale.name,
        "agreement": round(shown.agreement, 4),
        "bytes": round(shown.num_bytes),
        "reached": found is not None,
        "evaluations": len(tried),
    }


def table(rows: Sequence[dict[str, Any]], num_images: int, wanted: float, target: float | None) -> str:
    """Format the rows as a table with a concluding sentence."""
    asked = f"target: {wanted:.1%} kept" if target is None else f"target: {target:,.0f} bytes per image"
    lines = [f"{'CODEC':8} {'QUALITY':>14} {'KEPT':>6} {'BYTES':>10}   {num_images} images, {asked}"]
    for row in rows:
        quality = f"{row['scale']} {row['quality']:g}"
        note = "" if row["reached"] else "   target not reached; this is the closest setting"
        cells = f"{row['codec']:8} {quality:>14} {row['agreement']:>6.1%} {row['bytes']:>10,}{note}"
        lines.append(cells)
    best = rows[0]
    if best["reached"]:
        lines.append(
            f"Recommended: {best['codec']} at {best['scale']} {best['quality']:g}, about {best['bytes']:,} "
            f"bytes per image, keeps {best['agreement']:.1%}."
        )
    else:
        reach = f"the highest share kept is {max(row['agreement'] for row in rows):.1%}"
        if target is not None:
            reach = f"the smallest mean size is {min(row['bytes'] for row in rows):,} bytes"
        lines.append(f"None of these codecs reaches the target; {reach}.")
    return "\n".join(lines)


def parse_size(text: str) -> float:
    """Convert a size such as 40kB or 1.5MiB to bytes.

    Raises:
        ArgumentError: If the text is not a positive size with a known unit.
    """
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = _UNITS.get(parts[2].lower()) if parts else None
    if parts is None or unit is None or float(parts[1]) <= 0:
        raise ArgumentError("--target-size", expected="a size such as 40kB, 0.5MB or 2000", got=text)
    return float(parts[1]) * unit


def _codecs(names: Sequence[str] | None) -> dict[str, Any]:
    from vcm.cli.codecs import standard_codecs

    kinds = standard_codecs()
    chosen = list(dict.fromkeys(names or DEFAULT_CODECS))
    for name in chosen:
        if name not in kinds:
            raise ArgumentError("--codec", expected=f"one of {', '.join(kinds)}", got=name)
        if reason := kinds[name].unavailable():
            raise ArgumentError("--codec", expected="a codec that can run here", got=f"{name}: {reason}")
    return {name: kinds[name] for name in chosen}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vcm recommend",
        description="Find the codec and quality that keep a given share of a detector's or classifier's "
        "results on your images in the fewest bytes. Each codec is measured on real streams at a few "
        "qualities; the coarsest one that keeps the share is printed. A detection with a score of at least "
        "0.3 counts as kept if, after decoding, one of the same class with a score of at least 0.2 overlaps "
        "it by half.",
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMG", help="images, or folders of images")
    parser.add_argument("--agreement", type=float, metavar="A", help="share to keep, in (0, 1]; default: 0.9")
    parser.add_argument(
        "--target-size",
        metavar="SIZE",
        help="mean size per image to reach, such as 40kB; replaces --agreement",
    )
    parser.add_argument(
        "--codec", action="append", help=f"codec to try; repeatable; default: {', '.join(DEFAULT_CODECS)}"
    )
    parser.add_argument(
        "--for",
        dest="reader",
        default="detection",
        metavar="TASK",
        help="task network that reads the images: detection (yolov3_tiny, default), classification "
        "(mobilenet_v2), or any other name of `vcm evaluate task=…`",
    )
    parser.add_argument("--limit", type=int, default=24, help="images to try, spread evenly; default: 24")
    parser.add_argument("--json", action="store_true", help="print a JSON list with one object per codec")
    parser.add_argument(
        "--device", default="cpu", help="device of the network: cpu, cuda or auto; default: cpu"
    )
    return parser
