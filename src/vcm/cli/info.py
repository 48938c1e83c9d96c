"""`vcm info`: describe bitstreams. Does not import torch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vcm.cli.paths import STREAM_SUFFIX, find_inputs, read_stream_file, shown_task
from vcm.codecs.learned.container import read_stream
from vcm.errors import BitstreamError
from vcm.files import find_files, printable


def run(arguments: Sequence[str]) -> int:
    """Describe each file. Returns 1 if any of them is not an intact stream, otherwise 0."""
    parser = argparse.ArgumentParser(prog="vcm info", description="Describe streams; needs no model.")
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="streams written by `vcm compress`, or folders searched for *.vcm",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list with one object per file")
    known = parser.parse_args(arguments)
    entries: list[dict[str, Any]] = []
    inputs, problems = find_inputs(
        known.files, lambda folder, skipped: find_files(folder, [STREAM_SUFFIX], skipped), "streams"
    )
    for problem in problems:
        path, _, message = problem.partition(": ")
        entries.append({"file": path, "error": message})
    for source in inputs:
        try:
            entries.append(describe(source.path))
        except BitstreamError as error:
            message = str(error).removeprefix(f"{source.path}: ")
            entries.append({"file": str(source.path), "error": message})
    for entry in entries:
        if "error" in entry:
            print(printable(f"vcm info: {entry['file']}: {entry['error']}"), file=sys.stderr)
    if known.json:
        print(json.dumps(entries, indent=2))
    else:
        print("\n\n".join(_text(entry) for entry in entries if "error" not in entry))
    return int(any("error" in entry for entry in entries))


def describe(path: Path) -> dict[str, Any]:
    """Return the header fields, size and rate of a stream as plain JSON values.

    Raises:
        BitstreamError: If the file is not an intact stream; the message says what it is.
    """
    data = read_stream_file(path)
    stream = read_stream(data)
    header = stream.header
    return {
        "file": str(path),
        "purpose": shown_task(header.purpose),
        "fingerprint": header.fingerprint.hex(),
        "channels": header.channels,
        "quality": header.quality,
        "height": header.size[0],
        "width": header.size[1],
        "coded_height": header.coded_size[0],
        "coded_width": header.coded_size[1],
        "num_bytes": len(data),
        "header_bytes": stream.overhead,
        "bpp": 8 * len(data) / (header.size[0] * header.size[1]),
    }


def _text(entry: dict[str, Any]) -> str:
    return "\n".join(
        (
            printable(entry["file"]),
            f"  task         {entry['purpose']}",
            f"  image        {entry['width']} × {entry['height']} pixels (width × height)",
            f"  coded size   {entry['coded_width']} × {entry['coded_height']} pixels",
            f"  channels     {entry['channels']}",
            f"  quality      {entry['quality']:g}",
            f"  fingerprint  {entry['fingerprint']} (of the model, for this task)",
            f"  bytes        {entry['num_bytes']:,}, {entry['header_bytes']} of them header and checksum",
            f"  rate         {entry['bpp']:.4f} bpp",
        )
    )
