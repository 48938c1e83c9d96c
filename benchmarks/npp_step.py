"""How long a training step of the preprocessor takes with the real codec in the loop.

The step is `vcm train experiment=npp/small`'s, in Lightning's own loop, on 8 images of 256x256, with BPG at
x265's preset medium. The codec is exchanged from step to step, so that all sides take turns in one run:

- early: in process on threads, begun before the proxy and the task look at the originals, as NPPModule does;
- waiting: in process on threads, but the step waits for the codec before it goes on;
- files: as the published code does: one image after the other is written as PNG, encoded by a program,
  decoded by another and read from a PNG, while the step waits. The programs are those of file_route.py.

The proxy has random weights, whose values do not change the time. Ratios are medians over the turns.

    python benchmarks/npp_step.py [--json FILE] [--turns N] [--images FOLDER]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from file_route import file_codec, machine_facts, read_images
from vcm.cli.devices import keep_freed_memory
from vcm.cli.options import register_resolvers
from vcm.codecs import BPGCodec, Codec
from vcm.codecs.pool import Failure, RoundTrip
from vcm.data import Batch, ImageDataModule
from vcm.data.assets import asset_file
from vcm.errors import VCMError
from vcm.modules import NPPModule
from vcm.modules.codec_loop import CodecLoop, Coded

SIZE, COUNT, PRESET = 256, 8, "medium"
RATE, QUALITY = 1, 37
THREADS = (1, 2)
SETTINGS = (
    f"module.pairs=[[{RATE},{QUALITY}]]",
    "tasks.task.input_size=160",  # two thirds of the images' side, as the experiment has it
)


@dataclass
class Step:
    """Seconds of one training step.

    Attributes:
        step_s: All of it.
        waited_s: Of these, what the step waited for the codec.
        busy_s: What the codec worked, summed over its threads.
    """

    step_s: float
    waited_s: float
    busy_s: float


class TimedLoop(CodecLoop):
    """Takes the time of the codec in the loop, and may make the step wait for it."""

    def __init__(self, codec: Callable[..., Codec], *, workers: int | None = None, early: bool) -> None:
        super().__init__(codec, workers=workers)
        self.early, self.waited_s, self.busy_s = early, 0.0, 0.0

    def start(
        self, images: Tensor, qualities: float | Sequence[float], image_ids: Sequence[str]
    ) -> Callable[[], Coded]:
        begin = time.perf_counter()
        coded = super().start(images, qualities, image_ids)
        if not self.early:
            outcome = coded()
            self.waited_s = time.perf_counter() - begin
            return lambda: outcome
        begun_s = time.perf_counter() - begin

        def wait() -> Coded:
            begin = time.perf_counter()
            outcome = coded()
            self.waited_s = begun_s + time.perf_counter() - begin
            return outcome

        return wait

    def _collect(
        self, outcomes: Sequence[RoundTrip | Failure], images: Tensor, image_ids: Sequence[str]
    ) -> Coded:
        self.busy_s = sum(o.encode_s + o.decode_s for o in outcomes if isinstance(o, RoundTrip))
        return super()._collect(outcomes, images, image_ids)


class Turns(Callback):
    """Gives the module another codec at every step, and takes the steps' time, after one turn to warm up."""

    def __init__(self, loops: dict[str, TimedLoop]) -> None:
        self.loops = loops
        self.steps: dict[str, list[Step]] = {name: [] for name in loops}
        self._begin = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, NPPModule)
        pl_module.codec_loop = self.loops[self._side(batch_idx)]
        self._begin = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        step_s = time.perf_counter() - self._begin
        if batch_idx >= len(self.loops):
            name = self._side(batch_idx)
            loop = self.loops[name]
            self.steps[name].append(Step(step_s, loop.waited_s, loop.busy_s))

    def _side(self, batch_index: int) -> str:
        return list(self.loops)[batch_index % len(self.loops)]


class Batches(ImageDataModule):
    """Gives the module these batches."""

    def __init__(self, batches: list[Batch]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]  # a list will do


def build() -> NPPModule:
    """experiment=npp/small's module, with the small proxy untrained."""
    seed_everything(0, verbose=False)
    register_resolvers()
    with initialize_config_module("vcm.conf", version_base="1.3"):
        config = compose("train", ["experiment/train=npp/small", *SETTINGS])
        config.proxy = compose("train", ["network=proxy_small"]).network
    module: NPPModule = instantiate(config.module)
    return module


def measure(images: list[Tensor], files: Codec, turns: int, threads: int) -> dict[str, Any]:
    """Take turns, with that many threads for the networks."""
    torch.set_num_threads(threads)
    in_process = partial(BPGCodec, preset=PRESET)
    callback = Turns(
        {
            "early": TimedLoop(in_process, early=True),
            "waiting": TimedLoop(in_process, early=False),
            "files": TimedLoop(lambda **_: files, workers=1, early=False),
        }
    )
    batch_images = torch.stack(images).float() / 255
    batch = Batch(batch_images, [None] * len(images), [str(number) for number in range(len(images))])
    batches = [batch] * (len(callback.loops) * (turns + 1))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=1,
            default_root_dir=folder,
            callbacks=[callback],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )
        trainer.fit(build(), Batches(batches))
    return {"threads": threads, **summary(callback.steps)}


def summary(steps: dict[str, list[Step]]) -> dict[str, Any]:
    """Medians over the turns."""
    early, waiting, files = (steps[name] for name in ("early", "waiting", "files"))
    ratios = by_turn(lambda slow, fast: slow.step_s / fast.step_s, files, early)
    return {
        "step_ms": {name: 1e3 * statistics.median(s.step_s for s in side) for name, side in steps.items()},
        "waited_ms": {
            name: 1e3 * statistics.median(s.waited_s for s in side) for name, side in steps.items()
        },
        "busy_ms": {name: 1e3 * statistics.median(s.busy_s for s in side) for name, side in steps.items()},
        "waited_share": {
            name: statistics.median(s.waited_s / s.step_s for s in side) for name, side in steps.items()
        },
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "ratio_codec": statistics.median(
            by_turn(lambda slow, fast: slow.waited_s / fast.waited_s, files, waiting)
        ),
        "ratio_overlap": statistics.median(
            by_turn(lambda slow, fast: slow.step_s / fast.step_s, waiting, early)
        ),
    }


def by_turn(
    compare: Callable[[Step, Step], float], above: Sequence[Step], below: Sequence[Step]
) -> list[float]:
    return [compare(a, b) for a, b in zip(above, below, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--turns", type=int, default=15, help="turns (default: %(default)s)")
    parser.add_argument("--images", type=Path, help="folder of images; those of coco-sample by default")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    keep_freed_memory()  # as `vcm train` does
    torch.set_num_threads(1)
    try:
        folder = arguments.images or asset_file("coco-sample", "images")
        images = read_images(folder, SIZE, COUNT)
        files = file_codec(QUALITY, PRESET, images)
        facts = {**machine_facts(QUALITY), "torch": torch.__version__, "files_route": repr(files)}
        for key, value in facts.items():
            print(f"{key}: {value}")
        rows = []
        for threads in THREADS:
            row = measure(images, files, arguments.turns, threads)
            rows.append(row)
            print(f"\nnetworks on {threads} thread{'s' * (threads > 1)}, the codec on every core")
            print("  side      step ms  waits for the codec         codec busy ms, over its threads")
            for side in row["step_ms"]:
                print(
                    f"  {side:<8} {row['step_ms'][side]:>8.0f} {row['waited_ms'][side]:>8.0f} ms, "
                    f"{row['waited_share'][side]:>4.0%} of the step {row['busy_ms'][side]:>8.0f}"
                )
            print(
                f"  files by early: {row['ratio']:.2f} "
                f"({row['ratio_lowest']:.2f}-{row['ratio_highest']:.2f}); the codec alone: "
                f"{row['ratio_codec']:.2f}; waiting by early: {row['ratio_overlap']:.2f}",
                flush=True,
            )
    except VCMError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
