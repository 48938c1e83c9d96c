"""The two stages of a proxy's training."""

import math

import pytest
import torch
from compressai.layers import GDN
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from resuming import SAFELY

from vcm.codecs import BPGCodec, JPEGCodec
from vcm.errors import ArgumentError, CodecError, WeightsError
from vcm.modules import CodecLoop, ProxyCodecModule, ProxyImitationModule
from vcm.nn.proxy import IdentityProxy, JPEGProxy, LearnedProxy, load_proxy

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec",
    "ignore:.*log_every_n_steps",
    "ignore:Checkpoint directory",
)


def proxy(codec="jpeg", qualities=(10, 90), seed=0, **settings):
    torch.manual_seed(seed)
    return LearnedProxy(codec, qualities, **{"channels": 6, "num_stages": 3, "steps": (100, 4), **settings})


def distant(network):
    """The proxy, as far from its codec as normalization of CompressAI's own start leaves it."""
    for layer in network.modules():
        if isinstance(layer, GDN):
            layer.gamma.data.copy_(layer.gamma_reparam.init(0.1 * torch.eye(len(layer.beta))))
    return network


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


def test_the_codec_stage_learns_and_leaves_the_rates_scale(image_data, tmp_path):
    seed_everything(1, verbose=False)
    module = ProxyCodecModule(distant(proxy()), (0.001, 0.1), learning_rate=3e-3)
    run = trainer(tmp_path, max_epochs=15, check_val_every_n_epoch=15)
    (before,) = run.validate(module, image_data(), verbose=False)
    near = ProxyCodecModule(proxy(), (0.001, 0.1))
    assert run.validate(near, image_data(), verbose=False)[0]["val/loss"] < 0.8 * before["val/loss"]
    run.fit(module, image_data())
    after = {name: float(value) for name, value in run.callback_metrics.items()}
    assert after["val/loss"] < 0.7 * before["val/loss"]
    assert {"val/bpp", "val/psnr"} <= set(after)
    assert not module.network.calibration.any()


@pytest.mark.parametrize("kind", ["learned", "identity"])
def test_imitation_brings_a_proxy_nearer_to_its_codec(kind, image_data, tmp_path):
    seed_everything(1, verbose=False)
    network = distant(proxy()) if kind == "learned" else IdentityProxy("jpeg", (10, 90))
    module = ProxyImitationModule(
        network, CodecLoop(JPEGCodec), validation_qualities=[10, 50, 90], learning_rate=3e-3
    )
    run = trainer(tmp_path, max_epochs=20, check_val_every_n_epoch=20)
    (before,) = run.validate(module, image_data(), verbose=False)
    run.fit(module, image_data())
    after = {name: float(value) for name, value in run.callback_metrics.items()}
    assert after["val/rate_error"] < 0.2
    assert after["val/loss"] < 0.8 * before["val/loss"]
    assert after["val/rate_rank"] > 0.7
    if kind == "learned":
        assert after["val/psnr"] > before["val/psnr"] + 1


def test_qualities_are_drawn_on_the_codecs_scale(tmp_path):
    module = ProxyImitationModule(proxy("bpg", (22, 44)), CodecLoop(BPGCodec))
    drawn = module._draw(500)
    assert torch.equal(drawn, drawn.round())
    assert set(drawn.tolist()) == set(range(22, 45))
    assert module.validation_qualities == [22, 26, 31, 35, 40, 44]
    between = ProxyImitationModule(proxy("bpg", (22.4, 43.6)), CodecLoop(BPGCodec))
    assert set(between._draw(500).tolist()) == set(range(23, 44))
    assert between.validation_qualities == [23, 27, 31, 35, 39, 43]


def test_an_interrupted_imitation_resumes_to_the_same_weights(image_data, tmp_path):
    def fit(folder, epochs, resume=None):
        seed_everything(2, verbose=False)
        module = ProxyImitationModule(proxy(), CodecLoop(JPEGCodec), learning_rate=3e-3)
        checkpoints = ModelCheckpoint(folder / "checkpoints", save_last=True, save_top_k=0)
        run = trainer(
            folder, max_epochs=epochs, enable_checkpointing=True, callbacks=[checkpoints], limit_val_batches=1
        )
        run.fit(module, image_data(), ckpt_path=resume, **SAFELY)
        return module.network.state_dict()

    whole = fit(tmp_path / "a", 4)
    fit(tmp_path / "b", 2)
    resumed = fit(tmp_path / "b", 4, tmp_path / "b" / "checkpoints" / "last.ckpt")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_a_batch_without_any_outcome_has_gradients_of_as_many_parameters(image_data, tmp_path):
    class Sometimes(JPEGCodec):
        broken = False

        def encode_array(self, pixels):
            if self.broken:
                raise CodecError("no more")
            return super().encode_array(pixels)

    module = ProxyImitationModule(proxy(), CodecLoop(Sometimes, max_failures=1))
    plain, known = module.configure_gradient_clipping, []

    def clipping(*arguments, **options):
        known.append({n for n, p in module.network.named_parameters() if p.grad is not None})
        Sometimes.broken = True
        plain(*arguments, **options)

    module.configure_gradient_clipping = clipping
    trainer(tmp_path, limit_train_batches=2, limit_val_batches=0).fit(module, image_data())
    assert len(known) == 2
    assert known[0] == known[1]  # else processes would send each other different numbers


def test_models_are_written_and_taken_over(tmp_path):
    module = ProxyCodecModule(proxy())
    module.save_model(tmp_path / "p.safetensors", made="here")
    x = torch.rand(1, 3, 40, 24)
    other = ProxyImitationModule(proxy(seed=1), CodecLoop(JPEGCodec))
    other.start_from(tmp_path / "p.safetensors")
    expected = module.network.eval()(x, 30.0)
    for network in (other.network.eval(), load_proxy(tmp_path / "p.safetensors", "jpeg")):
        got = network(x, 30.0)
        torch.testing.assert_close(got.x_hat, expected.x_hat)
        torch.testing.assert_close(got.bpp, expected.bpp)
    with pytest.raises(WeightsError, match="is a proxy of jpeg, not of bpg; train one for bpg"):
        load_proxy(tmp_path / "p.safetensors", "bpg")
    with pytest.raises(WeightsError, match="has another architecture"):
        ProxyCodecModule(proxy(channels=5)).start_from(tmp_path / "p.safetensors")
    with pytest.raises(WeightsError, match="cannot be read as a model"):
        load_proxy(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ProxyCodecModule(JPEGProxy()), "network must be a LearnedProxy; got 'JPEGProxy'"),
        (lambda: ProxyCodecModule(proxy(), (1, 2, 3)), "lmbda must be two numbers"),
        (lambda: ProxyCodecModule(proxy(), (0, 1)), "lmbda must be a number above 0"),
        (
            lambda: ProxyImitationModule(proxy("bpg", (22, 44)), CodecLoop(JPEGCodec)),
            "proxy must be trained for jpeg, the codec in the loop; got 'a proxy for bpg'",
        ),
        (
            lambda: ProxyImitationModule(proxy("bpg", (22, 60)), CodecLoop(BPGCodec)),
            r"qualities must be 0 to 51 \(QP of bpg\)",
        ),
        (lambda: ProxyImitationModule(JPEGProxy(), CodecLoop(JPEGCodec)), "a proxy with parameters to train"),
        (lambda: ProxyImitationModule(proxy(), CodecLoop(JPEGCodec), rate_weight=-1), "rate_weight must be"),
        (
            lambda: ProxyImitationModule(proxy(), CodecLoop(JPEGCodec), validation_qualities=[500]),
            "quality must be",
        ),
        (
            lambda: ProxyImitationModule(proxy(), CodecLoop(JPEGCodec), validation_qualities=[50, 95]),
            "quality must be from 10 to 90, for which this proxy of jpeg is; got 95",
        ),
        (
            lambda: ProxyImitationModule(proxy(), CodecLoop(JPEGCodec), validation_qualities=[]),
            "validation_qualities must be at least one",
        ),
    ],
)
def test_what_does_not_fit_together_is_told(build, message):
    with pytest.raises(ArgumentError, match=message):
        build()


def test_a_cosine_schedule_ends_at_nothing(image_data, tmp_path):
    module = ProxyCodecModule(proxy(), schedule="cosine", learning_rate=1e-3)
    rates = []
    module.log_dict = lambda *_, **__: rates.append(module.optimizers().param_groups[0]["lr"])
    trainer(tmp_path, max_epochs=4, limit_val_batches=0).fit(module, image_data())
    assert rates == pytest.approx([5e-4 * (1 + math.cos(math.pi * step / 12)) for step in range(12)])


def test_a_longer_cosine_schedule_goes_on_in_the_longer_course(image_data, tmp_path):
    def fit(epochs, resume=None):
        module = ProxyCodecModule(proxy(), schedule="cosine", learning_rate=1e-3)
        rates = []
        module.log_dict = lambda *_, **__: rates.append(module.optimizers().param_groups[0]["lr"])
        run = trainer(tmp_path, max_epochs=epochs, limit_val_batches=0)
        run.fit(module, image_data(), ckpt_path=resume, **SAFELY)
        run.save_checkpoint(tmp_path / "last.ckpt", weights_only=False)
        return rates

    fit(2)
    rest = fit(4, tmp_path / "last.ckpt")
    assert rest == pytest.approx([5e-4 * (1 + math.cos(math.pi * step / 12)) for step in range(6, 12)])


def test_a_cosine_schedule_wants_an_end(image_data, tmp_path):
    module = ProxyCodecModule(proxy(), schedule="cosine")
    with pytest.raises(ArgumentError, match=r"trainer\.max_epochs must be a whole number from 1 with"):
        trainer(tmp_path, max_epochs=-1, max_time="00:00:00:09").fit(module, image_data())
    with pytest.raises(ArgumentError, match="schedule must be plateau or cosine; got 'none'"):
        ProxyCodecModule(proxy(), schedule="none")
