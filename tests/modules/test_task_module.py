"""Fine-tuning of a task on decoded images: what learns, what is saved, resuming, failures, bad input."""

import copy
from dataclasses import replace

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from mean_task import MeanTask
from resuming import SAFELY

from vcm.codecs import JPEGCodec
from vcm.data import ImageDataModule, ImageFolderDataset
from vcm.errors import ArgumentError, CodecError, WeightsError
from vcm.evaluation.records import settings_key
from vcm.modules import CodecLoop, TaskModule
from vcm.nn.preprocessor import NPP, QuantizationAdaptiveNPP, save_preprocessor
from vcm.nn.serialization import read_notes
from vcm.tasks import ClassificationTask, YOLOTask, fine_tuned
from vcm.tasks.fine_tuned import save_fine_tuned
from vcm.types import BoxTarget

CFG = """
[net]
width=64
height=64
channels=3
[convolutional]
batch_normalize=1
filters=6
size=8
stride=8
activation=leaky
[convolutional]
filters=7
size=1
activation=linear
[yolo]
mask=0
anchors=24,24
classes=2
num=1
"""
BOX = BoxTarget(
    torch.tensor([[20.0, 20, 44, 44]]), torch.tensor([1]), torch.zeros(1).bool(), torch.tensor([576.0])
)
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec",
    "ignore:.*log_every_n_steps",
    "ignore:.*in eval mode at the start of training",
    "ignore:Checkpoint directory",
)


class Labelled(ImageFolderDataset):
    """Every image has the same box."""

    def __getitem__(self, index):
        return replace(super().__getitem__(index), target=BOX)


class Never(JPEGCodec):
    """Fails always."""

    def encode_array(self, pixels):
        raise CodecError("never")


@pytest.fixture
def detector(tmp_path):
    """`detector(seed)`: a detector with random weights."""
    (tmp_path / "tiny.cfg").write_text(CFG)

    def build(seed=0, **settings):
        torch.manual_seed(seed)
        return YOLOTask(tmp_path / "tiny.cfg", **{"names": ["a", "b"], "cut": "layer0", **settings})

    return build


def make(task, codec=JPEGCodec, max_failures=0.1, **settings):
    seed_everything(3, verbose=False)
    loop = CodecLoop(codec, workers=2, max_failures=max_failures)
    defaults = {"qualities": [2, 30], "pseudo_score": 0.2, "learning_rate": 1e-3}
    return TaskModule(task, loop, **{**defaults, **settings})


def trainer(folder, **settings):
    return Trainer(
        default_root_dir=folder,
        **{
            "accelerator": "cpu",
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            **settings,
        },
    )


def state(network):
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def same(before, network):
    return all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("supervision", ["features", "pseudo", "labels"])
def test_the_loss_falls_and_the_task_stays_as_it_was(supervision, detector, image_data, tmp_path):
    data, task = image_data(), detector()
    if supervision == "labels":
        data = ImageDataModule(
            train=Labelled(tmp_path / "train"), val=Labelled(tmp_path / "val"), crop_size=64, batch_size=4
        )
    module = make(task, supervision=supervision, qualities=[1])
    before = state(task)
    run = trainer(tmp_path, max_epochs=20, check_val_every_n_epoch=20)
    (first,) = run.validate(module, data, verbose=False)
    run.fit(module, data)
    after = {name: float(value) for name, value in run.callback_metrics.items()}
    assert after["val/loss"] < 0.97 * first["val/loss"]
    assert {"val/1/bpp", "val/1/map", "val/1/loss"} <= set(after)
    assert same(before, task)
    assert not same(before, module.network)
    changed = {name for name, t in module.network.state_dict().items() if not torch.equal(t, before[name])}
    assert ("network.layers.1.conv.weight" in changed) == (supervision != "features")
    assert all(name.startswith(("network.", "figures.")) for name in module.state_dict())
    assert not any(p.requires_grad for p in task.parameters())


def test_normalization_stays_in_evaluation_mode(image_data, tmp_path):
    torch.manual_seed(0)
    task = ClassificationTask("mobilenet_v2", None, categories=["a", "b"], crop_size=64)
    module = make(task, supervision="features")
    trainer(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(module, image_data())
    before = task.state_dict()
    statistics = [name for name in before if "running" in name or "num_batches" in name]
    assert statistics
    assert all(torch.equal(module.network.state_dict()[name], before[name]) for name in statistics)
    assert not same(state(task), module.network)


def test_what_is_saved_predicts_the_same_and_has_records_of_its_own(detector, image_data, tmp_path):
    module = make(detector())
    trainer(tmp_path, limit_val_batches=0).fit(module, image_data())
    file = tmp_path / "model.safetensors"
    module.save_model(file, made="here")
    assert read_notes(file) == {"made": "here"}
    images = [torch.rand(3, 50, 70), torch.rand(3, 64, 64)]
    loaded = fine_tuned(detector(1), file)  # whatever weights it had
    module.network.to(memory_format=torch.contiguous_format)  # training laid channels last
    for got, expected in zip(loaded.predict(images), module.network.predict(images), strict=True):
        assert len(got.boxes)
        for name in ("boxes", "scores", "labels"):
            torch.testing.assert_close(getattr(got, name), getattr(expected, name))
    before = detector()
    assert loaded.settings()["weights_sha256"] != before.settings()["weights_sha256"]
    assert {**loaded.settings(), "weights_sha256": ""} == {**before.settings(), "weights_sha256": ""}
    assert settings_key(loaded.settings()) != settings_key(before.settings())
    assert settings_key(loaded.settings()) == settings_key(fine_tuned(before, file).settings())
    assert not any(p.requires_grad for p in loaded.parameters())
    other = fine_tuned(detector(score_threshold=0.5, input_size=128), file)  # used in another way
    assert same(state(loaded), other)
    again = make(detector(1))
    again.start_from(file)
    assert same(state(loaded), again.network)
    assert all(p.requires_grad for p in again.network.parameters())


def test_files_that_do_not_fit_are_told(detector, tmp_path):
    file = tmp_path / "model.safetensors"
    save_fine_tuned(detector(), file)
    many = ClassificationTask("mobilenet_v2", None, categories=list("abcdef"))
    with pytest.raises(WeightsError, match=r"task must be one with task YOLOTask.*got 'ClassificationTask'"):
        fine_tuned(many, file)
    with pytest.raises(WeightsError, match=r"one with categories \['a', 'b'\], .*; got \['c', 'd'\]"):
        fine_tuned(detector(names=["c", "d"]), file)
    save_fine_tuned(many, tmp_path / "many.safetensors")
    five = ClassificationTask("mobilenet_v2", None, categories=list("abcde"))
    with pytest.raises(WeightsError, match=r"with categories 6: a, b, c, …, like .*; got .5: a, b, c, …"):
        fine_tuned(five, tmp_path / "many.safetensors")
    save_preprocessor(NPP((2, 2, 2, 2)), tmp_path / "npp.safetensors")
    with pytest.raises(WeightsError, match="weights must be those of a task; got 'NPP'"):
        fine_tuned(detector(), tmp_path / "npp.safetensors")
    with pytest.raises(WeightsError, match="cannot be read as a model"):
        fine_tuned(detector(), tmp_path / "nothing.safetensors")
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\1\0")
    with pytest.raises(WeightsError, match="is damaged"):
        fine_tuned(detector(), file)
    save_fine_tuned(MeanTask(), file)
    with pytest.raises(ArgumentError, match=r"task must be a task with weights_sha256 in its settings\(\)"):
        fine_tuned(MeanTask(), file)


def fit(folder, task, data, epochs, resume=None):
    torch.manual_seed(0)
    module, losses = make(task), []
    plain = module.training_step

    def kept(batch, batch_idx):
        loss = plain(batch, batch_idx)
        losses.append(float(loss.detach()))
        return loss

    module.training_step = kept
    checkpoints = ModelCheckpoint(folder / "checkpoints", save_last=True, save_top_k=0)
    run = trainer(folder, max_epochs=epochs, enable_checkpointing=True, callbacks=[checkpoints])
    run.fit(module, data(), ckpt_path=resume, **SAFELY)
    return losses, state(module.network)


def test_an_interrupted_training_resumes_to_the_same_losses(detector, image_data, tmp_path):
    whole, expected = fit(tmp_path / "a", detector(), image_data, 4)
    first, _ = fit(tmp_path / "b", detector(), image_data, 2)
    torch.rand(7)
    rest, got = fit(tmp_path / "b", detector(), image_data, 4, tmp_path / "b" / "checkpoints" / "last.ckpt")
    assert first + rest == whole
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())


def test_a_preprocessor_comes_before_the_codec_at_the_qualitys_own_rate(detector, image_data, tmp_path):
    torch.manual_seed(0)
    preprocessor = QuantizationAdaptiveNPP((2, 2, 4, 4))
    torch.nn.init.normal_(preprocessor.head[-1].weight, std=0.3)
    torch.nn.init.normal_(preprocessor.gains["first"].mlp[2].weight, std=0.3)
    before = copy.deepcopy(preprocessor).eval()
    module = make(detector(), preprocessor=preprocessor, lmbda=[0.25, 16])
    seen, given = [], []
    plain = module.codec_loop.start
    module.codec_loop.start = lambda x, quality, ids: (given.append((quality, x)), plain(x, quality, ids))[1]
    guides = module.guide.guides
    module.guide.guides = lambda images, targets: (seen.append(torch.stack(images)), guides(images, targets))[
        1
    ]
    trainer(tmp_path, max_epochs=3, limit_val_batches=0).fit(module, image_data())
    assert {quality for quality, _ in given} == {2, 30}
    for (quality, filtered), x in zip(given, seen, strict=True):
        expected = before(x, {2: 0.25, 30: 16}[quality])
        torch.testing.assert_close(filtered, expected, atol=1e-5, rtol=1e-5)
        assert (filtered - x).abs().max() > 0.01
    assert same(state(before), preprocessor)


def test_a_batch_on_which_the_codec_fails_altogether_changes_nothing(detector, image_data, tmp_path):
    task = detector()
    module = make(task, Never, max_failures=1.0)
    trainer(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(module, image_data())
    assert same(state(task), module.network)
    assert module.codec_loop.num_failures == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"qualities": []}, "qualities must be a list of at least one quality"),
        ({"qualities": [300]}, "quality must be a whole number from"),
        ({"lmbda": [1, 2]}, "lmbda must be null without a quantization-adaptive preprocessor"),
        ({"preprocessor": QuantizationAdaptiveNPP((2, 2, 2, 2))}, "lmbda must be one λ for each of the 2"),
        (
            {"preprocessor": QuantizationAdaptiveNPP((2, 2, 2, 2)), "lmbda": [1]},
            "lmbda must be one λ for each of the 2 qualities",
        ),
        (
            {"preprocessor": QuantizationAdaptiveNPP((2, 2, 2, 2)), "lmbda": [1, 99]},
            "lmbda must be a number from 0.25 to 16",
        ),
        ({"supervision": "love"}, "supervision must be labels, pseudo, features or heads"),
        ({"pseudo_score": 2}, "pseudo_score must be"),
        ({"learning_rate": 0}, "learning_rate must be"),
    ],
)
def test_settings_that_cannot_be_are_told(settings, message, detector):
    with pytest.raises(ArgumentError, match=message):
        make(detector(), **settings)


def test_labels_that_are_not_there_are_told(detector, image_data, tmp_path):
    with pytest.raises(
        ArgumentError, match="supervision must be pseudo, features or heads for images without"
    ):
        trainer(tmp_path).fit(make(detector(), supervision="labels"), image_data())
