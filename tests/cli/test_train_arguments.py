"""What a module saves of its arguments can be read when a run is resumed."""

import sys
from pathlib import Path

import pytest

from vcm.cli.main import main

MODULE = """
import torch
from lightning import LightningModule


class Saving(LightningModule):
    def __init__(self, layers, options):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Conv2d(3, 1, 1)
        assert type(layers) is list and type(options) is dict

    def training_step(self, batch, index):
        return self.layer(batch.images).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Odd(Saving):
    def __init__(self, layers, options):
        super().__init__(layers, options)
        self.hparams["path"] = __import__("pathlib").PurePosixPath("a")
"""


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*val_dataloader", "ignore:.*LeafSpec"
)
@pytest.mark.parametrize("kind", ["Saving", "Odd"])
def test_a_module_of_a_users_own_resumes(kind, tmp_path, monkeypatch, write_image, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saving_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("saving_module", None)
    write_image(tmp_path / "photos/a.png", 64, 64)
    data = [f"data.{part}.{key}" for part in ("train", "val") for key in ("root=photos", "part=all")]
    module = [
        "~module",
        f"+module._target_=saving_module.{kind}",
        "+module.layers=[a,b]",
        "+module.options={c: 1}",
    ]
    sizes = [
        "data=photo_corpus_small",
        "data.crop_size=64",
        "data.batch_size=1",
        "trainer=cpu",
        "network.widths={reconstruction: 4}",
    ]
    command = ["train", *module, *data, *sizes, "trainer.precision=32-true", "name=own"]
    assert main([*command, "trainer.max_epochs=1"]) == 0, capsys.readouterr().err
    status = main([*command, "trainer.max_epochs=2"])
    error = capsys.readouterr().err
    if kind == "Saving":
        assert status == 0, error
    else:
        assert status == 2
        assert "contains objects other than tensors and plain values" in error
        assert "damaged" not in error
        assert "\x1b" not in error
    assert Path("runs/own/checkpoints/last.ckpt").is_file()
