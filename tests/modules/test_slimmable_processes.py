"""Two processes against one, in programs of their own."""

from pathlib import Path

import pytest
import torch

import programs

SCRIPT = '''
import sys
from functools import partial
from pathlib import Path

import torch
from compressai.entropy_models.entropy_models import EntropyModel
from lightning import Trainer, seed_everything
from torch.utils.data import DataLoader, DistributedSampler

sys.path.insert(0, {here!r})
from mean_task import MeanTask
from vcm.data import ImageDataModule, ImageFolderDataset
from vcm.data.datamodule import collate
from vcm.modules import SlimmableModule, optimization
from vcm.nn.slimmable import FeatureMap, LatentScalable, SlimmableFactorized, SlimmableHyperprior

folder, processes = Path(sys.argv[1]), int(sys.argv[2])
plain = EntropyModel.quantize


def quantize(self, inputs, mode, means=None):
    """Noise that an image has wherever it is processed."""
    if mode == "noise":
        return inputs + 0.5 * torch.sin(7 * inputs.detach())
    return plain(self, inputs, mode, means)


class Data(ImageDataModule):
    def train_dataloader(self):
        sampler = DistributedSampler(self.train_dataset, processes, self.trainer.global_rank, shuffle=False)
        return DataLoader(self.train_dataset, self.batch_size, sampler=sampler, collate_fn=collate)


EntropyModel.quantize = quantize
# or steps of a gradient that is next to 0 would be steps of its rounding errors
optimization.Adam = partial(optimization.Adam, eps=1e-4)
seed_everything(0, verbose=False)
kinds = {{"s_bfm": SlimmableFactorized, "s_bhm": SlimmableHyperprior, "lss_bfm": LatentScalable}}
network = kinds[sys.argv[3]](
    {{"detection": 6, "reconstruction": 10}}, features={{"detection": FeatureMap(3, 8)}}
)
module = SlimmableModule(
    network, {{"detection": MeanTask()}}, {{"detection": 0.001, "reconstruction": 0.01}}, learning_rate=1e-3
)
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
if trainer.is_global_zero:
    figures = {{n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val/")}}
    torch.save({{"state": module.state_dict(), "figures": figures}}, folder / f"{{processes}}.pt")
'''


@pytest.mark.parametrize("kind", ["s_bfm", "s_bhm", "lss_bfm"])
def test_two_processes_train_as_one_with_the_doubled_batch(image_data, tmp_path, kind):
    image_data()
    (tmp_path / "val" / "03.png").unlink()  # an odd number: one process has an image less
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parent)))
    for processes in (1, 2):
        arguments = ["-W", "ignore", script, tmp_path, processes, kind]
        for done in programs.run_together(arguments, processes, timeout=300):
            assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in (1, 2))
    for name, value in one["figures"].items():
        assert two["figures"][name] == pytest.approx(value, rel=1e-4, nan_ok=True), name
    assert one["figures"]["val/detection/bpp"] > 0
    assert 0 < one["figures"]["val/detection/map"] < 1
    for name, tensor in one["state"].items():
        if tensor.is_floating_point():
            torch.testing.assert_close(two["state"][name], tensor, atol=5e-5, rtol=1e-4, msg=name)
