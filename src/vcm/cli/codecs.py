"""`vcm codecs`: list the codecs. Does not import torch."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from importlib import import_module, resources

import yaml

from vcm.codecs.base import Codec


def run(arguments: Sequence[str]) -> int:
    """Print one line per codec."""
    parser = argparse.ArgumentParser(
        prog="vcm codecs", description="List the codecs and their quality scales."
    )
    parser.parse_args(arguments)
    rows = [("NAME", "CODEC", "QUALITY", "RANGE", "BETTER", "DEFAULT", "HERE")]
    for name, codec in installed_codecs():
        scale = codec.quality_scale
        better = "higher" if scale.higher_is_better else "lower"
        here = codec.unavailable() or "yes"
        rows.append((name, codec.title, scale.name, str(scale), better, f"{scale.default:g}", here))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + "  " + row[6])
    return 0


def standard_codecs() -> dict[str, type[Codec]]:
    """Return the codecs that need no trained model, by name."""
    from vcm.codecs import CompressAICodec, LearnedCodec, SlimmableFeatureCodec

    learned = (CompressAICodec, SlimmableFeatureCodec, LearnedCodec)
    return {name: kind for name, kind in installed_codecs() if kind not in learned}


def installed_codecs() -> Iterator[tuple[str, type[Codec]]]:
    """Yield the config name (in conf/curve) and the class of every codec."""
    files = resources.files("vcm.conf").joinpath("curve").iterdir()
    for file in sorted(files, key=lambda file: file.name):
        plan = yaml.safe_load(file.read_text()) if file.name.endswith(".yaml") else {}
        if "codec" in plan:
            module, _, attribute = plan["codec"]["_target_"].rpartition(".")
            yield file.name.removesuffix(".yaml"), getattr(import_module(module), attribute)
