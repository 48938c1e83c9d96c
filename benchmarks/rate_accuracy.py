"""What the preprocessor that comes with vcm saves before BPG, as networks see it: the README's second table.

Evaluates BPG with and without it on the 95 pictures of the COCO sample, which no training saw, from real
bytes, against true labels (65 pictures) and pseudo-labels (95), as yolov3-tiny sees them, for which it was
trained, and yolov4-tiny, which it never saw. Prints BD-rates against BPG alone as a Markdown table, in
parentheses with their 95 % intervals over resamples of the pictures, and the curves' points. The figures go
to benchmarks/results/rate_accuracy.json, the plot to docs/rate_accuracy.svg. Interrupted, it goes on where it
stopped.

    vcm fetch yolov3-tiny yolov4-tiny coco-sample
    python benchmarks/rate_accuracy.py [--model MODEL] [--folder runs/rate_accuracy] [--limit N]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from standard_codecs import ANCHOR, evaluate, keep, print_table, rows
from vcm.evaluation.results import Results
from vcm.weights import QA_NPP_BPG, shipped

TASKS = ("yolov3_tiny", "yolov4_tiny")
QUALITIES = [44, 40, 37, 34, 31, 28, 25]
"""The QPs that the preprocessor was trained with."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="another preprocessor than the one that comes with vcm")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/rate_accuracy"), help="of records and reports"
    )
    parser.add_argument(
        "--limit", type=int, help="evaluate on the first so many pictures, and keep no results"
    )
    known = parser.parse_args()
    settings = [f"npp_model={known.model or shipped(QA_NPP_BPG)}"]
    found = evaluate(
        TASKS, {ANCHOR: QUALITIES, "npp_bpg": QUALITIES}, known.folder, limit=known.limit, settings=settings
    )
    table = rows(found)
    print_table(table)
    print_points(found)
    if not (known.limit or known.model):
        keep("rate_accuracy", table, found, known.folder)
    return 0


def print_points(found: dict[str, Results]) -> None:
    """Every point's rate and figures."""
    for task, results in found.items():
        print(f"\n{task}")
        for point in results.points:
            figures = ", ".join(
                f"{name} {value:.3f}" for name, value in point.accuracy.items() if value is not None
            )
            print(
                f"  {point.title:<12} {point.quality:g}, {point.labels}: {point.bpp:.4f} bpp, {figures}, "
                f"PSNR {point.psnr:.2f} dB, MS-SSIM {point.ms_ssim:.4f}"
            )


if __name__ == "__main__":
    sys.exit(main())
