"""The preprocessor's training: straight-through values and gradients, failures, resuming, bad input."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from mean_task import MeanTask
from resuming import SAFELY

from vcm.codecs import BPGCodec, JPEGCodec
from vcm.data.datamodule import Batch
from vcm.encoding import Importance
from vcm.errors import ArgumentError, CodecError
from vcm.losses.proxy import straight_through
from vcm.modules import CodecLoop, NPPModule
from vcm.nn.importance import ImportanceNetwork
from vcm.nn.preprocessor import NPP, QuantizationAdaptiveNPP, load_preprocessor
from vcm.nn.proxy import IdentityProxy, JPEGProxy, LearnedProxy, TransformProxy
from vcm.nn.serialization import read_notes
from vcm.types import BoxTarget, Features, Prepared

PAIRS = [(0.5, 20), (2.0, 60)]
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec",
    "ignore:.*log_every_n_steps",
    "ignore:Checkpoint directory",
)


class BatchTask(MeanTask):
    """Several images of one size, and a loss."""

    def prepare(self, images):
        return Prepared(torch.stack(list(images)), tuple(tuple(x.shape[1:]) for x in images))

    def encode(self, prepared):
        means = torch.nn.functional.avg_pool2d(prepared.inputs, 8)
        return Features({"pool": self.gain * means}, prepared.image_sizes)

    def loss(self, images, targets):
        lights = [image.mean() for image in images]
        boxes = [len(target.boxes) for target in targets]
        return torch.stack([(1 + n) * light for n, light in zip(boxes, lights, strict=True)]).mean()


class FailingJPEG(JPEGCodec):
    """Fails on every third image."""

    count = 0

    def encode_array(self, pixels):
        type(self).count += 1
        if type(self).count % 3 == 0:
            raise CodecError("this one does not work")
        return super().encode_array(pixels)


def make(codec=JPEGCodec, network=None, proxy=None, seed=3, max_failures=0.1, workers=2, **settings):
    seed_everything(seed, verbose=False)
    network = QuantizationAdaptiveNPP((2, 2, 4, 4), lmbda_range=(0.25, 16)) if network is None else network
    proxy = JPEGProxy(qualities=(10, 90)) if proxy is None else proxy
    loop = CodecLoop(codec, workers=workers, max_failures=max_failures)
    defaults = {"pairs": PAIRS, "supervision": "features", "task_weight": 10.0, "learning_rate": 3e-3}
    return NPPModule(network, proxy, BatchTask(), loop, **{**defaults, **settings})


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


def crops(count=3, size=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("kind", ["jpeg", "learned"])
def test_values_are_the_codecs_and_gradients_the_proxys(kind):
    torch.manual_seed(0)
    proxy = JPEGProxy(qualities=(10, 90)) if kind == "jpeg" else LearnedProxy("jpeg", (10, 90), channels=4)
    proxy.eval()
    x = crops().requires_grad_()
    coded = CodecLoop(JPEGCodec).start(x, 30, ["a", "b", "c"])()
    direct = proxy(x, 30.0)
    weight = torch.rand_like(x)
    (expected,) = torch.autograd.grad((direct.x_hat * weight).sum() + 3 * direct.bpp.sum(), x)
    through = proxy(x, 30.0)
    joined, bpp = straight_through(coded.decoded, through.x_hat), straight_through(coded.bpp, through.bpp)
    for index, image in enumerate(x.detach()):
        pixels = (image * 255).round().to(torch.uint8)
        data = JPEGCodec(quality=30).encode(pixels)
        assert torch.equal(joined[index], JPEGCodec(quality=30).decode(data).float() / 255)
        assert bpp[index] == torch.tensor(8 * len(data) / 40**2)
    (got,) = torch.autograd.grad((joined * weight).sum() + 3 * bpp.sum(), x)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)
    assert got.abs().sum() > 0


def test_straight_through_wants_one_shape():
    with pytest.raises(
        ArgumentError, match=r"value must be of shape \(3,\), like the proxy's output; got \(2,\)"
    ):
        straight_through(torch.zeros(2), torch.zeros(3))


@pytest.mark.parametrize("supervision", ["features", "pseudo", "labels"])
def test_the_loss_falls(supervision, image_data, tmp_path):
    box = BoxTarget(
        torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0]), torch.zeros(1).bool(), torch.tensor([81.0])
    )
    data = image_data()
    if supervision == "labels":
        for part in (data.train_dataset, data.val_dataset):
            part.target = lambda *_: box
            part.__class__ = type(
                "Labelled", (type(part),), {"__getitem__": lambda self, i: labelled(self, i, box)}
            )
    module = make(supervision=supervision, task_weight=10.0 if supervision == "features" else 0.1)
    run = trainer(tmp_path, max_epochs=20, check_val_every_n_epoch=20)
    (before,) = run.validate(module, data, verbose=False)
    run.fit(module, data)
    after = {name: float(value) for name, value in run.callback_metrics.items()}
    assert after["val/loss"] < before["val/loss"] - 0.001
    assert {"val/0.5@20/bpp", "val/2@60/map", "val/2@60/psnr", "val/0.5@20/task_loss"} <= set(after)
    assert before["val/2@60/psnr"] > 60  # a new network gives the image back


def labelled(dataset, index, box):
    from dataclasses import replace

    return replace(super(type(dataset), dataset).__getitem__(index), target=box)


def test_only_the_preprocessor_learns(image_data, tmp_path):
    module = make(proxy=LearnedProxy("jpeg", (10, 90), channels=4))
    proxy, task = module._parts
    before = [p.detach().clone() for part in (proxy, task) for p in part.parameters()]
    network = {n: p.detach().clone() for n, p in module.network.named_parameters()}
    trainer(tmp_path, limit_val_batches=0).fit(module, image_data())
    after = [p for part in (proxy, task) for p in part.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert any(not torch.equal(p, network[n]) for n, p in module.network.named_parameters())
    assert all(name.startswith(("network.", "figures.")) for name in module.state_dict())


def test_frozen_networks_go_to_the_trainers_device():
    module = make(proxy=LearnedProxy("jpeg", (10, 90), channels=4))
    strategy = SimpleNamespace(root_device=torch.device("meta"))
    module.trainer = SimpleNamespace(precision="32-true", strategy=strategy)
    module.setup("fit")
    assert {p.device.type for part in module._parts for p in part.parameters()} == {"meta"}


def test_images_that_the_codec_fails_on_are_left_out(image_data, tmp_path, caplog):
    FailingJPEG.count = 0
    module = make(FailingJPEG, max_failures=0.5, workers=1)
    trainer(tmp_path, limit_val_batches=0).fit(module, image_data())
    assert (module.codec_loop.num_images, module.codec_loop.num_failures) == (12, 4)
    told = [r.getMessage() for r in caplog.records if "is skipped: " in r.getMessage()]
    assert len(told) == 4
    assert "jpeg failed to encode it: this one does not work" in told[0]
    assert ".png" in told[0]


def test_a_codec_that_fails_too_often_stops_the_training(image_data, tmp_path):
    FailingJPEG.count = 0
    module = make(FailingJPEG, max_failures=0.02, workers=1)
    with pytest.raises(
        CodecError, match=r"jpeg failed on 5 of the last \d+ images, more than max_failures=0.02"
    ):
        trainer(tmp_path, max_epochs=9, limit_val_batches=0).fit(module, image_data())


def test_a_batch_on_which_the_codec_fails_altogether_changes_nothing(image_data, tmp_path):
    class Later(JPEGCodec):
        broken = False

        def encode_array(self, pixels):
            if self.broken:
                raise CodecError("no more")
            return super().encode_array(pixels)

    module, weights = make(Later, max_failures=1.0), []

    def keep(*_):
        weights.append([p.detach().clone() for p in module.network.parameters()])
        Later.broken = True  # Adam has seen gradients by now

    module.on_train_batch_end = keep
    trainer(tmp_path, limit_train_batches=3, limit_val_batches=0).fit(module, image_data())
    first, *others = weights
    assert len(others) == 2
    assert all(torch.equal(a, b) for other in others for a, b in zip(other, first, strict=True))


def test_one_crop_too_small_to_normalize_is_told(image_data, tmp_path):
    run = trainer(tmp_path, limit_val_batches=0, limit_train_batches=1)
    with pytest.raises(
        ArgumentError, match=r"batch must be at least two crops, or crops larger than 16×16 pix"
    ):
        run.fit(make(), image_data(batch_size=1, crop_size=16))
    run.fit(make(), image_data(batch_size=1, crop_size=17))


def test_losses_that_are_not_finite_stop_the_training(image_data, tmp_path):
    module = make()
    with torch.no_grad():
        module.network.head[0].weight.fill_(float("inf"))
    with pytest.raises(ArgumentError, match=r"images must be finite before the codec; .*the batch was .*png"):
        trainer(tmp_path, limit_val_batches=0).fit(module, image_data())


def fit(folder, data, epochs, resume=None):
    torch.manual_seed(0)
    module = make(proxy=LearnedProxy("jpeg", (10, 90), channels=4))
    losses = []
    plain = module.training_step

    def kept(batch, batch_idx):
        loss = plain(batch, batch_idx)
        losses.append(float(loss.detach()))
        return loss

    module.training_step = kept
    checkpoints = ModelCheckpoint(folder / "checkpoints", save_last=True, save_top_k=0)
    run = trainer(folder, max_epochs=epochs, enable_checkpointing=True, callbacks=[checkpoints])
    run.fit(module, data(), ckpt_path=resume, **SAFELY)
    return losses, module.network.state_dict()


def test_an_interrupted_training_resumes_to_the_same_losses(image_data, tmp_path):
    whole, state = fit(tmp_path / "a", image_data, 4)
    first, _ = fit(tmp_path / "b", image_data, 2)
    torch.rand(7)
    rest, resumed = fit(tmp_path / "b", image_data, 4, tmp_path / "b" / "checkpoints" / "last.ckpt")
    assert first + rest == whole
    assert all(torch.equal(resumed[name], tensor) for name, tensor in state.items())


def test_a_training_is_not_resumed_with_another_proxy(image_data, tmp_path):
    run, last = trainer(tmp_path, limit_val_batches=0), tmp_path / "last.ckpt"
    run.fit(make(proxy=LearnedProxy("jpeg", (10, 90), channels=4)), image_data())
    run.save_checkpoint(last, weights_only=False)
    other = make(proxy=LearnedProxy("jpeg", (10, 90), channels=4), seed=4)
    with pytest.raises(
        ArgumentError, match=r"run_dir must be .* same frozen weights \(LearnedProxy, BatchTask\)"
    ):
        trainer(tmp_path, max_epochs=2).fit(other, image_data(), ckpt_path=last, **SAFELY)


def test_the_model_file_knows_its_pairs(tmp_path):
    module = make()
    module.save_model(tmp_path / "m.safetensors", made="here")
    notes = read_notes(tmp_path / "m.safetensors")
    assert json.loads(notes["pairs"]) == {"codec": "jpeg", "pairs": [[0.5, 20], [2.0, 60]]}
    assert notes["made"] == "here"
    loaded = load_preprocessor(tmp_path / "m.safetensors")
    x = crops()
    torch.testing.assert_close(loaded(x, 1.0), module.network.eval()(x, 1.0))
    other = make(seed=5)
    other.start_from(tmp_path / "m.safetensors")
    torch.testing.assert_close(other.network.eval()(x, 1.0), loaded(x, 1.0))


@pytest.mark.parametrize("missing", ["proxy", "codec_loop"])
def test_a_part_that_is_missing_is_told(missing):
    parts = {"proxy": JPEGProxy(qualities=(10, 90)), "codec_loop": CodecLoop(JPEGCodec), missing: None}
    with pytest.raises(ArgumentError, match=rf"{missing} must be a .*; got 'NoneType'\. .* say {missing}=…"):
        NPPModule(NPP((2, 2, 2, 2)), task=BatchTask(), pairs=[(1, 50)], **parts)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": []}, "pairs must be"),
        ({"pairs": [1, 2]}, "pairs must be"),
        ({"pairs": 3}, "pairs must be"),
        ({"pairs": [("a", 30)]}, "lmbda must be a number above 0; got 'a'"),
        ({"pairs": [(0, 30)], "network": NPP((2, 2, 4, 4))}, "lmbda must be a number above 0; got 0"),
        ({"pairs": [(1, 95)]}, "pairs must be qualities from 10 to 90, the range of the proxy; got 95"),
        ({"pairs": [(1, 300)]}, "quality must be a whole number from"),
        ({"pairs": [(17, 50)]}, "lmbda must be a number from 0.25 to 16"),
        ({"network": NPP((2, 2, 4, 4))}, "pairs of one λ for an NPP that is not quantization-adaptive"),
        (
            {"proxy": IdentityProxy("bpg", (22, 44))},
            "proxy must be trained for jpeg, the codec in the loop; got 'a proxy for bpg'",
        ),
        ({"supervision": "love"}, "supervision must be labels, pseudo, features or heads; got 'love'"),
        ({"drawing": "never"}, "drawing must be per_batch or per_image; got 'never'"),
        ({"rate_weight": -1}, "rate_weight must be"),
        ({"pseudo_score": 2}, "pseudo_score must be"),
        ({"learning_rate": 0}, "learning_rate must be"),
        ({"max_failures": 7}, "max_failures must be"),
        ({"codec": dict}, "codec must be a vcm.codecs.Codec class, or a partial call of one; got 'dict'"),
    ],
)
def test_settings_that_cannot_be_are_told(settings, message):
    with pytest.raises(ArgumentError, match=message):
        make(**settings)


def test_labels_that_are_not_there_are_told(image_data, tmp_path):
    with pytest.raises(
        ArgumentError, match="supervision must be pseudo, features or heads for images without labels"
    ):
        trainer(tmp_path).fit(make(supervision="labels"), image_data())


def test_mixed_precision_trains(image_data, tmp_path):
    module = make()
    run = trainer(tmp_path, precision="bf16-mixed", max_epochs=2)
    run.fit(module, image_data())
    assert all(p.isfinite().all() for p in module.network.parameters())


@pytest.mark.parametrize("drawing", ["per_batch", "per_image"])
def test_pairs_are_all_drawn(drawing, monkeypatch):
    module = make(drawing=drawing)
    seen = []
    plain = module.codec_loop.start
    monkeypatch.setattr(module, "log_dict", lambda *_, **__: None)
    monkeypatch.setattr(module.codec_loop, "start", lambda x, q, ids: seen.append(q) or plain(x, q, ids))
    for index in range(12):
        module.training_step(Batch(crops(), [None] * 3, ["a", "b", "c"]), index)
    assert {quality for qualities in seen for quality in qualities} == {20, 60}
    assert any(len(set(qualities)) > 1 for qualities in seen) == (drawing == "per_image")


@pytest.mark.parametrize("supervision", ["features", "pseudo"])
def test_each_images_loss_has_its_own_rate_and_quality(supervision, monkeypatch):
    module = make(drawing="per_image", supervision=supervision, workers=1)
    monkeypatch.setattr(module, "log_dict", lambda *_, **__: None)
    monkeypatch.setattr(module, "_draw", lambda count: [PAIRS[place] for place in (1, 0, 1)])
    x = crops()
    loss = module.training_step(Batch(x, [None] * 3, ["a", "b", "c"]), 0)
    expected = torch.zeros(())
    for image, place in zip(x, (1, 0, 1), strict=True):
        rate, quality = PAIRS[place]
        pixels = (image * 255).round().to(torch.uint8)  # a new network gives the image back
        data = JPEGCodec(quality=quality).encode(pixels)
        decoded = JPEGCodec(quality=quality).decode(data).float() / 255
        guides = module.guide.guides([image], [None])
        task_loss = module.guide.loss([decoded], guides)
        expected += (8 * len(data) / 40**2 + 10 * rate * task_loss) / 3
    torch.testing.assert_close(loss.detach(), expected)


class ReadingTask(BatchTask):
    """Reads images at 16 pixels a side, and finds the left half important."""

    def reader_size(self, height, width):
        return min(height, 16), min(width, 16)

    def importance(self, image, *, directions=4, seed=0):
        self.directions = directions
        importance = torch.ones(image.shape[-2:])
        importance[:, : image.shape[-1] // 2] = 64
        return importance


def make_for_bpg(**settings):
    seed_everything(3, verbose=False)
    network = QuantizationAdaptiveNPP((2, 2, 4, 4), lmbda_range=(0.25, 16))
    loop = CodecLoop(partial(BPGCodec, preset="ultrafast"), workers=1)
    settings = {"pairs": [(0.5, 40), (2.0, 30)], "supervision": "features", "drawing": "per_image"} | settings
    proxy = settings.pop("proxy", None) or TransformProxy()
    return NPPModule(network, proxy, ReadingTask(), loop, **settings)


def test_a_relative_rate_has_the_codecs_value_and_a_scaled_gradient(monkeypatch):
    module = make_for_bpg(fidelity_weight=0.0, task_weight=0.0)
    monkeypatch.setattr(module, "log_dict", lambda *_, **__: None)
    monkeypatch.setattr(module, "_draw", lambda count: [(0.5, 40)] * count)
    x = crops(2, 64)
    module.network.eval()
    loss = module.training_step(Batch(x, [None] * 2, ["a", "b"]), 0)
    weight = module.network.head[-1].bias
    (got,) = torch.autograd.grad(loss, weight)
    filtered = module.network(x, torch.tensor([0.5, 0.5]))
    pixels = (255 * filtered.detach()).round().to(torch.uint8)
    actual = [8 * len(BPGCodec(40, preset="ultrafast").encode(image)) / 64**2 for image in pixels]
    assert float(loss.detach()) == pytest.approx(sum(actual) / 2)
    estimated = TransformProxy()(filtered, 40.0).bpp
    assert module._parts[0].qp_convention == BPGCodec().qp_convention
    scaled = sum(a * e / float(e.detach()) for a, e in zip(actual, estimated, strict=True)) / 2
    torch.testing.assert_close(got, torch.autograd.grad(scaled, weight)[0], rtol=1e-4, atol=1e-7)
    assert got.abs().sum() > 0


@pytest.mark.parametrize("share", [0, 1])
def test_a_share_of_the_crops_is_coded_with_offsets(share, monkeypatch):
    module = make_for_bpg(importance=Importance(directions=1), importance_share=share)
    monkeypatch.setattr(module, "log_dict", lambda *_, **__: None)
    proxied, seen = module._parts[0].forward, []
    monkeypatch.setattr(
        module._parts[0], "forward", lambda *a, **named: seen.append(named) or proxied(*a, **named)
    )
    start, coded = module.codec_loop.start, []
    monkeypatch.setattr(
        module.codec_loop, "start", lambda *a, **named: coded.append(named) or start(*a, **named)
    )
    loss = module.training_step(Batch(crops(2, 64), [None] * 2, ["a", "b"]), 0)
    assert loss.isfinite()
    assert seen == coded
    assert seen[0]["block"] == 32
    offsets = seen[0]["offsets"]
    if share:
        assert module._parts[1].directions == 1
        assert all((those[:, 0] < 0).all() and (those[:, 1] > 0).all() for those in offsets)
    else:
        assert offsets == [None, None]


def test_validation_at_the_readers_size_codes_small_images_with_offsets(image_data, tmp_path):
    module = make_for_bpg(at_reader=True, importance=Importance(), importance_share=0.0)
    sizes, start = [], module.codec_loop.start
    module.codec_loop.start = lambda x, *a, **named: (
        sizes.append((tuple(x.shape[-2:]), named["offsets"][0])) or start(x, *a, **named)
    )
    trainer(tmp_path, limit_val_batches=1).validate(module, image_data(), verbose=False)
    assert [size for size, _ in sizes] == [(16, 16)] * 2
    assert all(those is not None for _, those in sizes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"importance": 2.0}, "importance must be a vcm.encoding.Importance; got 'float'"),
        ({"at_reader": True, "supervision": "labels"}, "at_reader must be false, because labels"),
        ({"proxy": TransformProxy(qp_convention="x265")}, "trained for bpg with qp_convention=rate"),
        ({"importance": Importance(), "importance_share": 2}, "importance_share must be"),
        (
            {"importance": Importance(), "proxy": IdentityProxy("bpg", (22, 44))},
            "importance must be null, because IdentityProxy takes no QP offsets",
        ),
    ],
)
def test_importance_that_cannot_be_is_told(settings, message):
    with pytest.raises(ArgumentError, match=message):
        make_for_bpg(**settings)


def test_about_half_of_the_crops_have_offsets(monkeypatch):
    module = make_for_bpg(importance=Importance(directions=1))
    found = [module._offsets(crops(4, 64, seed), module.importance_share)["offsets"] for seed in range(15)]
    share = sum(those is not None for batch in found for those in batch) / 60
    assert 0.25 < share < 0.75


def test_offsets_are_those_of_float32_under_autocast():
    module = make_for_bpg(importance=Importance())
    seen = []

    def importance(image, **_):
        seen.append(torch.is_autocast_enabled("cpu"))
        return torch.ones(image.shape[-2:])

    module._parts[1].importance = importance
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module._offsets(crops(2, 64), 1.0)
    assert seen == [False, False]


def test_networks_of_the_importance_are_frozen_parts():
    network = ImportanceNetwork().eval()
    assert network in make_for_bpg(importance=Importance(network=network))._frozen
    other = ReadingTask()
    assert other in make_for_bpg(importance=Importance(task=other))._frozen


def test_importance_is_for_codecs_that_take_offsets():
    with pytest.raises(ArgumentError, match="takes no QP offsets"):
        make(importance=Importance())
