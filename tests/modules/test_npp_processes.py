"""A preprocessor's training in two processes: as in one, and without waiting for one whose codec fails."""

from pathlib import Path

import pytest
import torch

import programs

SCRIPT = '''
import os
import sys
from functools import partial
from pathlib import Path

import torch
from compressai.entropy_models.entropy_models import EntropyModel
from lightning import Trainer, seed_everything
from torch.utils.data import DataLoader, DistributedSampler

sys.path.insert(0, {here!r})
from test_npp_module import PAIRS, BatchTask
from test_task_module import CFG
from vcm.codecs import JPEGCodec
from vcm.data import ImageDataModule, ImageFolderDataset
from vcm.data.datamodule import collate
from vcm.errors import CodecError
from vcm.modules import (
    CodecLoop, NPPModule, ProxyCodecModule, ProxyImitationModule, TaskModule, optimization
)
from vcm.nn.preprocessor import QuantizationAdaptiveNPP
from vcm.nn.proxy import JPEGProxy, LearnedProxy
from vcm.tasks import YOLOTask

folder, processes, kind, fails = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]


class Data(ImageDataModule):
    def train_dataloader(self):
        torch.manual_seed(1)  # several processes seed themselves anew, one does not
        sampler = DistributedSampler(self.train_dataset, processes, self.trainer.global_rank, shuffle=False)
        return DataLoader(self.train_dataset, self.batch_size, sampler=sampler, collate_fn=collate)


class FailingThere(JPEGCodec):
    """Fails in the second process, from its second batch on."""

    count = 0

    def encode_array(self, pixels):
        type(self).count += 1
        if os.environ.get("LOCAL_RANK") == "1" and type(self).count > 2:
            raise CodecError("not here")
        return super().encode_array(pixels)


def preprocessor(loop):
    network = QuantizationAdaptiveNPP((4, 4, 4, 4))
    torch.nn.init.normal_(network.head[-1].weight, std=0.1)
    network.eval()  # or it would normalize by figures of the batch, of which half a batch has others
    return NPPModule(
        network, JPEGProxy(qualities=(10, 90)), BatchTask(), loop,
        pairs=PAIRS, supervision="features", task_weight=10.0, learning_rate=1e-3,
    )


def task(loop):
    (folder / "tiny.cfg").write_text(CFG)
    detector = YOLOTask(folder / "tiny.cfg", names=["a", "b"], cut="layer0")
    return TaskModule(detector, loop, qualities=[2, 30], supervision="features", learning_rate=1e-3)


def learned_proxy():
    return LearnedProxy("jpeg", (10, 90), channels=6, num_stages=3, steps=(100, 4))


def proxy_codec(loop):
    return ProxyCodecModule(learned_proxy(), (0.001, 0.1), learning_rate=1e-3)


def proxy_imitation(loop):
    return ProxyImitationModule(learned_proxy(), loop, learning_rate=1e-3)


if kind.startswith("proxy"):  # every image the same quality and noise, wherever it is processed
    plain = EntropyModel.quantize

    def quantize(self, inputs, mode, means=None):
        if mode == "noise":
            return inputs + 0.5 * torch.sin(7 * inputs.detach())
        return plain(self, inputs, mode, means)

    EntropyModel.quantize = quantize
    torch.rand = lambda number, **_: torch.full((number,), 0.3)
    torch.randint = lambda low, high, shape: torch.full(shape, (low + high) // 2)
# or steps of a gradient that is next to 0 would be steps of its rounding errors
optimization.Adam = partial(optimization.Adam, eps=1e-4)
seed_everything(0, verbose=False)
codec = JPEGCodec if fails == "never" else FailingThere
loop = CodecLoop(codec, max_failures=0.0 if fails == "often" else 1.0)
builders = (preprocessor, task, proxy_codec, proxy_imitation)
module = {{build.__name__: build for build in builders}}[kind](loop)
start = {{name: tensor.clone() for name, tensor in module.network.state_dict().items()}}
data = Data(
    train=ImageFolderDataset(folder / "train"),
    val=ImageFolderDataset(folder / "val"),
    batch_size=4 // processes,
)
trainer = Trainer(
    accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto", max_epochs=3,
    logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(module, data)
figures = {{n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val/")}}
torch.save(
    {{"start": start, "state": module.network.state_dict(), "figures": figures, "failed": loop.num_failures}},
    folder / f"{{processes}}.{{trainer.global_rank}}.pt",
)
'''


@pytest.fixture
def run(image_data, tmp_path):
    """`run(processes, kind, fails)`: what each process has at the end, or the error."""
    image_data()
    (tmp_path / "val" / "03.png").unlink()  # an odd number: one process has an image less
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parent)))

    def start(processes, kind="preprocessor", fails="never"):
        arguments = ["-W", "ignore", script, tmp_path, processes, kind, fails]
        together = programs.run_together(arguments, processes, timeout=200)
        if any(done.returncode for done in together):
            return "".join(done.stderr for done in together)
        files = [tmp_path / f"{processes}.{rank}.pt" for rank in range(processes)]
        return [torch.load(file, weights_only=True) for file in files]

    return start


@pytest.mark.parametrize(
    ("kind", "figure"),
    [
        ("preprocessor", "val/2@60/bpp"),
        ("task", "val/loss"),
        ("proxy_codec", "val/bpp"),
        ("proxy_imitation", "val/loss"),
    ],
)
def test_two_processes_train_as_one_with_the_doubled_batch(run, kind, figure):
    (one,), (two, other) = run(1, kind), run(2, kind)
    for name, value in one["figures"].items():
        near = 1e-2 if "map" in name else 1e-3  # of mAP, one box that changes sides is a step
        assert two["figures"][name] == pytest.approx(value, rel=near, nan_ok=True), name
    assert one["figures"][figure] > 0
    for name, tensor in one["state"].items():
        if "running_" in name:  # statistics of a process's own crops
            continue
        assert torch.equal(two["state"][name], other["state"][name]), name
        torch.testing.assert_close(two["state"][name], tensor, atol=1e-5, rtol=1e-4, msg=name)
    learned = [name for name, t in one["state"].items() if t.is_floating_point() and t.numel()]
    moved = [(one["state"][name] - one["start"][name]).abs().max() for name in learned]
    assert max(moved) > 1e-3


@pytest.mark.parametrize("kind", ["preprocessor", "task"])
def test_a_codec_that_fails_in_one_process_does_not_stop_the_other(run, kind):
    first, second = run(2, kind, "sometimes")
    assert (first["failed"], second["failed"] > 10) == (0, True)
    for name, tensor in first["state"].items():
        assert tensor.isfinite().all()
        assert torch.equal(second["state"][name], tensor), name
    assert any(not torch.equal(first["start"][name], tensor) for name, tensor in first["state"].items())


def test_a_codec_that_fails_too_often_in_one_process_ends_both(run):
    told = run(2, fails="often")
    assert isinstance(told, str)
    assert "jpeg failed on 2 of the last 4 images, more than max_failures=0" in told
