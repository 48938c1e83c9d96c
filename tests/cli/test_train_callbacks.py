"""A user's own callbacks beside vcm's, and batches in a Trainer that is not vcm's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from vcm.cli.main import main
from vcm.data import Batch, ImageFolderDataset
from vcm.data.datamodule import collate

STOPPING = "lightning.pytorch.callbacks.EarlyStopping"
CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"


class Counting(Callback):
    """Counts the epochs of every training of this process."""

    epochs = 0

    def on_train_epoch_end(self, trainer, pl_module):
        type(self).epochs += 1


def epochs_of(folder):
    return [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_users_callbacks_run_beside_vcms(training):
    Counting.epochs = 0
    target = f"{__name__}.Counting"
    assert main([*training, f"+trainer.callbacks=[{{_target_: {target}}}]"]) == 0
    assert Counting.epochs == 1
    assert epochs_of(Path("runs/small")) == [0]
    assert Path("runs/small/checkpoints/last.ckpt").exists()
    named = f"+trainer.callbacks={{one: {{_target_: {target}}}, none: null}}"
    assert main([a.replace("epochs=1", "epochs=3") for a in training] + [named]) == 0
    assert Counting.epochs == 3


def test_early_stopping_stops(training):
    stopping = (
        f"+trainer.callbacks=[{{_target_: {STOPPING}, monitor: val/loss, min_delta: 100, patience: 1}}]"
    )
    assert main([a.replace("epochs=1", "epochs=9") for a in training] + [stopping]) == 0
    assert epochs_of(Path("runs/small")) == [0, 1]


def test_early_stopping_on_what_is_not_measured_is_told(training, capsys):
    stopping = f"+trainer.callbacks=[{{_target_: {STOPPING}, monitor: val/nothing}}]"
    assert main([*training, stopping]) == 2
    said = capsys.readouterr().err
    assert "trainer.callbacks must be an EarlyStopping that monitors one of train/" in said
    assert "val/loss" in said
    assert "got 'val/nothing'" in said
    assert "Traceback" not in said


def test_lightnings_own_checkpoints_can_be_had_too(training):
    best = f"+trainer.callbacks=[{{_target_: {CHECKPOINT}, monitor: val/loss, filename: best}}]"
    assert main([*training, best]) == 0
    assert {path.name for path in Path("runs/small/checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("+trainer.callbacks=3", "trainer.callbacks must be a list of {_target_: …}; got 3"),
        (
            "+trainer.callbacks=[{_target_: pathlib.Path}]",
            "that creates a lightning.pytorch.callbacks.Callback; got PosixPath",
        ),
        (
            "+trainer.callbacks=[{_target_: lightning.pytorch.callbacks.LearningRateMonitor}]",
            "trainer: Cannot use `LearningRateMonitor` callback with `Trainer` that has no logger.",
        ),
        (
            f"+trainer.callbacks=[{{_target_: {CHECKPOINT}, monitor: val/nothing}}]",
            "trainer: `ModelCheckpoint(monitor='val/nothing')` could not find the monitored key",
        ),
    ],
)
def test_what_is_no_callback_or_cannot_run_is_told(training, given, message, capsys):
    assert main([*training, given]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_folder_and_bar_can_be_chosen(training, tmp_path):
    given = ["+trainer.enable_progress_bar=false", f"+trainer.default_root_dir={tmp_path}/logs"]
    logger = f"trainer.logger={{_target_: lightning.pytorch.loggers.CSVLogger, save_dir: {tmp_path}/csv}}"
    assert main([*training, *given, logger, "+trainer.log_every_n_steps=1"]) == 0
    assert list((tmp_path / "csv").rglob("metrics.csv"))


class Plain(LightningModule):
    """Somebody's own module, which takes vcm's batches."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 3, 1)
        self.seen = []

    def training_step(self, batch, batch_index):
        assert isinstance(batch, Batch)
        self.seen += batch.image_ids
        return self.layer(torch.stack(list(batch.images))).pow(2).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
@pytest.mark.filterwarnings("ignore:.*log_every_n_steps")
def test_batches_train_somebodys_own_module_in_a_plain_trainer(training, tmp_path):
    module = Plain()
    loader = DataLoader(ImageFolderDataset(tmp_path / "train"), batch_size=4, collate_fn=collate)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    assert module.seen == [f"{number}.png" for number in range(8)]


def test_a_batch_moves_its_images_and_keeps_the_rest():
    for images in (torch.zeros(2, 3, 4, 4), [torch.zeros(3, 4, 4), torch.zeros(3, 5, 4)]):
        batch = Batch(images=images, targets=[None, None], image_ids=["a", "b"])
        moved = batch.to("meta", non_blocking=True)
        assert {image.device.type for image in moved.images} == {"meta"}
        assert moved.image_ids == ["a", "b"]
