"""How fast the slimmable codec is: widths against each other and CompressAI, and the way to boxes.

Both sides of every comparison run in turns, in one run; a ratio is the median over the turns. Networks are of
the paper's size (128 and 192 channels) with random weights, whose values do not change the time.

    python benchmarks/slimmable_latency.py [--json FILE] [--rounds N] [--skip-memory]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from compressai.models import FactorizedPrior, ScaleHyperprior
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vcm.codecs import LearnedCodec, SlimmableFeatureCodec
from vcm.nn.coder import CodingTable, decode_symbols, encode_symbols
from vcm.nn.slimmable import FeatureMap, MultiTaskNetwork, SlimmableFactorized, SlimmableHyperprior
from vcm.tasks import YOLOTask
from vcm.types import Features

NARROW, FULL = 128, 192
WIDTHS = {"detection": NARROW, "reconstruction": FULL}
FEATURES = {"detection": FeatureMap(256, 8)}
SIZES = ((256, 256), (512, 512), (512, 768))
THREADS = (1, 2)
LARGE = (3072, 4096)


def in_turns(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round, after one round to warm up; the sides take turns."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, work in sides.items():
            start = time.perf_counter()
            work()
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], above: str, below: str) -> float:
    """Median over the rounds of one side's time by the other's."""
    return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))


def flops(encoder: nn.Module, x: Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        encoder(x)
    return int(counter.get_total_flops())


def build(kind: type[MultiTaskNetwork], seed: int = 0) -> MultiTaskNetwork:
    torch.manual_seed(seed)
    network = kind(WIDTHS, features=FEATURES).eval()  # type: ignore[call-arg]  # both kinds take these
    with torch.no_grad():
        for conv in network.g_a.convs:  # type: ignore[union-attr,operator]
            conv.weight *= 3
    return network


def compressai_encoder(kind: type[nn.Module], channels: int) -> nn.Module:
    """CompressAI's g_a (and h_a) of the same channel count."""
    model: Any = kind(channels, channels)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.g_a, self.h_a = model.g_a, getattr(model, "h_a", None)

        def forward(self, x: Tensor) -> object:
            y = self.g_a(x)
            return y if self.h_a is None else (y, self.h_a(y.abs()))

    return Encoder().eval()


def encoders(size: tuple[int, int], rounds: int) -> list[dict[str, Any]]:
    """Narrow against full, and both against CompressAI's."""
    rows = []
    x = torch.rand(1, 3, *size)
    for kind, theirs in ((SlimmableFactorized, FactorizedPrior), (SlimmableHyperprior, ScaleHyperprior)):
        network = build(kind)
        narrow, full = (network.at_width(task) for task in network.tasks)
        sides = {
            "narrow": narrow,
            "full": full,
            "narrow CompressAI": compressai_encoder(theirs, NARROW),
            "full CompressAI": compressai_encoder(theirs, FULL),
        }
        times = in_turns({name: (lambda e=e: e(x)) for name, e in sides.items()}, rounds)
        flop_ratio = flops(narrow, x) / flops(full, x)
        time_ratio = ratio(times, "narrow", "full")
        rows.append(
            {
                "network": kind.__name__,
                "full_ms": 1e3 * statistics.median(times["full"]),
                "time_ratio": time_ratio,
                "flop_ratio": flop_ratio,
                "time_by_flop": time_ratio / flop_ratio,
                "narrow_by_compressai": ratio(times, "narrow", "narrow CompressAI"),
                "full_by_compressai": ratio(times, "full", "full CompressAI"),
            }
        )
    return rows


def to_boxes(side: int, rounds: int) -> dict[str, Any]:
    """A stream's way to boxes: through features, and through the full width's image."""
    network = build(SlimmableHyperprior)
    torch.manual_seed(0)
    # With random weights every box would be found; a trained network finds few.
    task = YOLOTask("yolov3", None, input_size=side, score_threshold=0.99)
    features, whole = SlimmableFeatureCodec(model=network), LearnedCodec(model=network)
    image = (torch.rand(3, side, side) * 255).to(torch.uint8)
    narrow_stream = features.encode(task.prepare([image.float() / 255]).inputs, (side, side))
    full_stream = whole.encode(image)

    def through_features() -> object:
        decoded, size = features.decode(narrow_stream)
        return task.tail(Features({task.cut: decoded}, (size,)))

    def through_image() -> object:
        return task.predict([whole.decode(full_stream).float() / 255])

    times = in_turns({"features": through_features, "image": through_image}, rounds)
    return {
        "features_ms": 1e3 * statistics.median(times["features"]),
        "image_ms": 1e3 * statistics.median(times["image"]),
        "ratio": ratio(times, "features", "image"),
    }


def entropy_coder(rounds: int) -> list[dict[str, Any]]:
    """Symbols a second, against CompressAI's compress() and decompress() with the same tables and symbols."""
    rows = []
    network = build(SlimmableHyperprior)
    network.update()
    task, size = "reconstruction", (512, 768)
    latents = network.at_width(task)(torch.rand(1, 3, *size))
    symbols = network.quantize(latents, task)
    for section, latent in (("y", latents[0]), ("z", latents[1])):
        model: Any = network.table(task, section)
        indexes = network.indexes(task, section, symbols, size)
        table = CodingTable.of(model)
        data = encode_symbols(symbols[section], indexes, table)
        if section == "y":
            coded = (latent.round(), indexes[None])
            (theirs,) = model.compress(*coded)
            decompress = lambda m=model, d=theirs, i=indexes: m.decompress([d], i[None])  # noqa: E731
            compress = lambda m=model, c=coded: m.compress(*c)  # noqa: E731
        else:
            (theirs,) = model.compress(latent)
            decompress = lambda m=model, d=theirs, s=latent.shape[-2:]: m.decompress([d], s)  # noqa: E731
            compress = lambda m=model, c=latent: m.compress(c)  # noqa: E731
        assert theirs == data, "both sides code the same bytes"
        times = in_turns(
            {
                "encode": lambda s=symbols[section], i=indexes, t=table: encode_symbols(s, i, t),
                "compress": compress,
                "decode": lambda d=data, i=indexes, t=table: decode_symbols(d, i, t),
                "decompress": decompress,
            },
            rounds,
        )
        count = symbols[section].numel()
        rows.append(
            {
                "section": section,
                "symbols": count,
                "encode_per_s": count / statistics.median(times["encode"]),
                "decode_per_s": count / statistics.median(times["decode"]),
                "encode_speedup": ratio(times, "compress", "encode"),
                "decode_speedup": ratio(times, "decompress", "decode"),
            }
        )
    return rows


def peak_memory() -> dict[str, float]:
    """Peak resident memory in GB of a process that encodes and decodes one large image."""
    folder = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {folder!r}); import slimmable_latency as s; s.large()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@torch.no_grad()
def large() -> None:
    """What `peak_memory` runs."""
    torch.set_num_threads(2)
    network = build(SlimmableHyperprior)
    codec = LearnedCodec(model=network)
    image = (torch.rand(3, *LARGE) * 255).to(torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    data = codec.encode(image)
    encoded = time.perf_counter()
    codec.decode(data)
    decoded = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "before_gb": before / 1e6,
                "peak_gb": peak / 1e6,
                "encode_s": encoded - start,
                "decode_s": decoded - encoded,
                "image_gb": image.numel() / 1e9,
            }
        )
    )


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=9, help="turns a comparison (default: 9)")
    parser.add_argument("--skip-memory", action="store_true", help="leave the large image out")
    arguments = parser.parse_args()
    machine = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
    }
    print("  ".join(f"{name}: {value}" for name, value in machine.items()), end="\n\n")
    found: dict[str, Any] = {"machine": machine, "encoders": [], "to_boxes": []}
    print(
        "encoders: narrow (128 channels) by full (192), beside the FLOP ratio; each by CompressAI's own (CAI)"
    )
    print("network              threads  size      full ms   time   FLOP  time/FLOP  narrow/CAI  full/CAI")
    for threads in THREADS:
        torch.set_num_threads(threads)
        for size in SIZES:
            for row in encoders(size, arguments.rounds):
                found["encoders"].append({"threads": threads, "size": size, **row})
                print(
                    f"{row['network']:<20} {threads:>7}  {size[1]}x{size[0]} {row['full_ms']:>9.1f} "
                    f"{row['time_ratio']:>6.3f} {row['flop_ratio']:>6.3f} {row['time_by_flop']:>10.3f} "
                    f"{row['narrow_by_compressai']:>11.3f} {row['full_by_compressai']:>9.3f}",
                    flush=True,
                )
    print("\nstream to boxes, YOLOv3 (random weights) at 416: through features / the full width's image")
    for threads in THREADS:
        torch.set_num_threads(threads)
        row = to_boxes(416, max(arguments.rounds // 2, 3))
        found["to_boxes"].append({"threads": threads, **row})
        print(
            f"  {threads} thread{'s' * (threads > 1)}: {row['features_ms']:.0f} ms / "
            f"{row['image_ms']:.0f} ms = {row['ratio']:.3f}",
            flush=True,
        )
    torch.set_num_threads(1)
    found["entropy_coder"] = entropy_coder(arguments.rounds)
    print("\nentropy coder, symbols a second; times CompressAI's compress() and decompress()")
    for row in found["entropy_coder"]:
        print(
            f"  {row['section']} ({row['symbols']}): encode {row['encode_per_s'] / 1e6:.2f} M/s "
            f"({row['encode_speedup']:.2f}x), decode {row['decode_per_s'] / 1e6:.2f} M/s "
            f"({row['decode_speedup']:.2f}x)",
            flush=True,
        )
    if not arguments.skip_memory:
        memory = found["peak_memory"] = peak_memory()
        print(
            f"\n4096x3072 at full width, tiled: peak {memory['peak_gb']:.2f} GB "
            f"(before: {memory['before_gb']:.2f} GB), encode {memory['encode_s']:.1f} s, "
            f"decode {memory['decode_s']:.1f} s"
        )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
