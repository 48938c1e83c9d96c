"""`vcm recommend`: find codec and quality for a detector."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcm.cli.files import find_inputs
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
    """Print the recommendation; returns 0 if a codec reaches what was asked for, 1 if none does, 2 if nothing
    could begin.
    """
    known = _parser().parse_args(arguments)
    from vcm.cli.tasks import load_task
    from vcm.data.reading import find_images, read_image
    from vcm.evaluation.recommend import check_agreement

    target = None if known.target_size is None else parse_size(known.target_size)
    wanted = check_agreement(0.9 if known.agreement is None else known.agreement)
    if target is not None and known.agreement is not None:
        raise ArgumentError("--target-size", expected="given without --agreement", got=known.target_size)
    if known.limit < 1:
        raise ArgumentError("--limit", expected="a whole number from 1", got=known.limit)
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
        print(f"vcm recommend: left out: {printable(problem)}", file=sys.stderr)
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
    """One row a codec, the smallest first (or with a target size the one that keeps most), and problems.

    Args:
        task: What reads the decoded images.
        codecs: Classes of codecs, by name.
        images: (3, H, W) uint8 RGB, by path.
        wanted: Share of the task's findings to keep.
        target: Largest mean stream in bytes; None looks for `wanted` instead.

    Raises:
        ArgumentError: If the task finds nothing in any of the images.
    """
    import torch

    from vcm.evaluation.recommend import MIN_SCORE, Search
    from vcm.evaluation.systems import predict
    from vcm.types import Detections

    torch.set_num_threads(1)
    originals = [predict(task, image) for image in images.values()]
    counts = [int((p.scores >= MIN_SCORE).sum()) if isinstance(p, Detections) else 1 for p in originals]
    if not sum(counts):
        raise ArgumentError(
            "images", expected=f"some in which {task.name} finds anything at score {MIN_SCORE}", got="none"
        )
    rows, problems = [], []
    for name, kind in codecs.items():
        search = Search(kind.quality_scale, _encoder(kind, task, images), list(images.values()), originals)
        try:
            found = search.for_agreement(wanted) if target is None else search.for_bytes(target)
        except VCMError as error:  # an image that this codec cannot take
            problems.append(f"{name}: {error}")
        else:
            rows.append(_row(name, search, found, smallest=target is not None))
    rank = (1, "bytes") if target is None else (-1, "agreement")
    return sorted(rows, key=lambda row: (not row["reached"], rank[0] * row[rank[1]])), problems


def _encoder(kind: Any, task: SplitTask, images: Mapping[Path, Tensor]) -> Any:  # noqa: ANN401  a codec's class; a function
    from vcm.evaluation.systems import predict

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
    """What was found for a codec; where nothing was, the smallest stream, or the one that keeps most."""
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
    """The rows for a person, and a sentence that says what to do."""
    asked = f"{wanted:.1%} of what it finds" if target is None else f"at most {target:,.0f} bytes an image"
    lines = [f"{'CODEC':8} {'QUALITY':>14} {'KEPT':>6} {'BYTES':>10}   {num_images} images, {asked}"]
    for row in rows:
        quality = f"{row['scale']} {row['quality']:g}"
        note = "" if row["reached"] else "   out of reach; the nearest that it has"
        cells = f"{row['codec']:8} {quality:>14} {row['agreement']:>6.1%} {row['bytes']:>10,}{note}"
        lines.append(cells)
    best = rows[0]
    if best["reached"]:
        lines.append(
            f"Recommended: {best['codec']} at {best['scale']} {best['quality']:g}, about {best['bytes']:,} "
            f"bytes an image, keeps {best['agreement']:.1%}."
        )
    else:
        reach = f"{max(row['agreement'] for row in rows):.1%} is the most that one keeps"
        if target is not None:
            reach = f"{min(row['bytes'] for row in rows):,} bytes are the fewest that one takes"
        lines.append(f"None of these codecs reaches that; {reach} here.")
    return "\n".join(lines)


def parse_size(text: str) -> float:
    """A size such as 40kB or 1.5MiB, in bytes.

    Raises:
        ArgumentError: If it is none.
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
            raise ArgumentError("--codec", expected="one that can run here", got=f"{name}: {reason}")
    return {name: kinds[name] for name in chosen}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vcm recommend",
        description="Find the codec and quality that keep a share of what a detector or classifier finds in "
        "your images, in the fewest bytes. Each codec is tried at a few qualities, on real bytes; the "
        "coarsest that keeps the share is printed. A detection of a score of 0.3 or more is kept if one of "
        "the same class, of 0.2 or more, overlaps it by half after decoding.",
    )
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMG", help="images, and folders to search for images"
    )
    parser.add_argument("--agreement", type=float, metavar="A", help="share to keep, up to 1; 0.9 by default")
    parser.add_argument(
        "--target-size", metavar="SIZE", help="instead: the most an image may take on average, such as 40kB"
    )
    parser.add_argument(
        "--codec", action="append", help=f"may be repeated; {', '.join(DEFAULT_CODECS)} by default"
    )
    parser.add_argument(
        "--for",
        dest="reader",
        default="detection",
        metavar="TASK",
        help="the reader: detection (yolov3_tiny, by default), classification (mobilenet_v2), or another "
        "name of `vcm evaluate task=…`",
    )
    parser.add_argument("--limit", type=int, default=24, help="images to try, spread evenly; 24 by default")
    parser.add_argument("--json", action="store_true", help="print a list of objects, one a codec")
    parser.add_argument(
        "--device", default="cpu", help="where the network runs: cpu, cuda, or auto; cpu by default"
    )
    return parser
