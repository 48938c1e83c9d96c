import json

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from mean_task import MeanTask
from resuming import SAFELY

from vcm.errors import ArgumentError
from vcm.modules import SlimmableModule
from vcm.modules.callbacks import MetricsFile
from vcm.nn.slimmable import (
    FeatureMap,
    LatentScalable,
    SlimmableFactorized,
    SlimmableHyperprior,
    load_network,
)

WEIGHTS = {"detection": 0.001, "reconstruction": 0.01}
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec",
    "ignore:.*log_every_n_steps",
    "ignore:Checkpoint directory",
)


def make(kind=SlimmableFactorized, **settings):
    seed_everything(3, verbose=False)
    network = kind({"detection": 6, "reconstruction": 10}, features={"detection": FeatureMap(3, 8)})
    return SlimmableModule(
        network,
        {"detection": MeanTask()},
        settings.pop("lmbda", WEIGHTS),
        **{"learning_rate": 3e-3, **settings},
    )


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


@pytest.mark.parametrize("kind", [SlimmableFactorized, SlimmableHyperprior, LatentScalable])
@pytest.mark.parametrize("stepping", ["per_width", "accumulated"])
def test_held_out_losses_fall(kind, stepping, image_data, tmp_path):
    module, data = make(kind, stepping=stepping), image_data()
    run = trainer(tmp_path, max_epochs=25, check_val_every_n_epoch=25)
    (before,) = run.validate(module, data, verbose=False)
    run.fit(module, data)
    after = {name: float(value) for name, value in run.callback_metrics.items()}
    assert after["val/loss"] < 0.6 * before["val/loss"]
    assert after["val/detection/feature_error"] < 0.7 * before["val/detection/feature_error"]
    assert after["val/reconstruction/psnr"] > before["val/reconstruction/psnr"] + 1
    assert {"val/detection/bpp", "val/detection/map", "val/reconstruction/bpp"} <= set(after)


def test_a_machine_step_moves_only_the_narrow_slice(image_data, tmp_path, monkeypatch):
    module = make()
    monkeypatch.setattr(module.network, "tasks", ("detection",))
    before = {name: p.detach().clone() for name, p in module.network.named_parameters()}
    trainer(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(module, image_data())
    moved = {n: p.detach() != before[n] for n, p in module.network.named_parameters()}
    weight = moved["g_a.convs.1.weight"]
    assert weight[:6, :6].float().mean() > 0.9
    assert not weight[6:].any()
    assert not weight[:, 6:].any()
    still = ("decoders.reconstruction", "entropy_bottlenecks.1", "g_a.gdns.0.at.1")
    assert not any(mask.any() for name, mask in moved.items() if name.startswith(still))
    assert moved["entropy_bottlenecks.0.quantiles"].any()


def test_gradients_are_clipped_before_the_step(image_data, tmp_path, monkeypatch):
    norms = []
    plain = torch.optim.Adam.step

    def measured(optimizer, *arguments, **more):
        gradients = [
            p.grad.flatten() for g in optimizer.param_groups for p in g["params"] if p.grad is not None
        ]
        norms.append((len(optimizer.param_groups[0]["params"]), float(torch.cat(gradients).norm())))
        return plain(optimizer, *arguments, **more)

    monkeypatch.setattr(torch.optim.Adam, "step", measured)
    trainer(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(make(max_norm=1e-3), image_data())
    assert len(norms) == 4  # two widths, two optimizers
    most = max(count for count, _ in norms)
    assert all(norm <= 1.01e-3 for count, norm in norms if count == most)


def fit(folder, data, epochs, resume=None):
    module = make()
    run = trainer(
        folder,
        max_epochs=epochs,
        enable_checkpointing=True,
        callbacks=[ModelCheckpoint(folder / "checkpoints", save_last=True, save_top_k=0)],
    )
    run.fit(module, data, ckpt_path=resume, **SAFELY)
    return module


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_takes_the_same_steps(workers, image_data, tmp_path):
    def data():
        seed_everything(3, verbose=False)
        return image_data(num_workers=workers, crop_size=48)

    unbroken = fit(tmp_path / "a", data(), 4)
    fit(tmp_path / "b", data(), 2)
    resumed = fit(tmp_path / "b", data(), 4, resume=tmp_path / "b" / "checkpoints" / "last.ckpt")
    for (name, ours), (_, theirs) in zip(
        resumed.state_dict().items(), unbroken.state_dict().items(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_checkpoints_hold_tables_and_no_task(image_data, tmp_path):
    module = fit(tmp_path, image_data(), 1)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert not any("gain" in name for name in saved)
    other = make()
    other.load_state_dict(saved)
    assert other.network.fingerprint("detection") == module.network.fingerprint("detection")
    module.save_model(tmp_path / "model.safetensors", tasks="{}")
    assert load_network(tmp_path / "model.safetensors").tasks == ("detection", "reconstruction")


def test_mixed_precision_trains(image_data, tmp_path):
    module = make(SlimmableHyperprior)
    run = trainer(tmp_path, precision="bf16-mixed", max_epochs=2)
    run.fit(module, image_data())
    assert run.callback_metrics["val/loss"].isfinite()
    assert all(p.dtype == torch.float32 for p in module.network.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile warns of its own doings
def test_compiled_network_trains(image_data, tmp_path):
    module = make(compile=True)
    trainer(tmp_path, limit_train_batches=2).fit(module, image_data())
    assert not any("_orig_mod" in name for name in module.state_dict())


def test_plateau_lowers_the_learning_rate(image_data, tmp_path):
    nothing = {"max_norm": 1e-30, "aux_learning_rate": 1e-30}
    module = make(plateau_epochs=0, plateau_factor=0.1, **nothing)
    run = trainer(tmp_path, max_epochs=3)
    run.fit(module, image_data())
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(3e-3 * 0.1**2)
    assert run.optimizers[1].param_groups[0]["lr"] == 1e-30


def test_figures_are_written_line_by_line(image_data, tmp_path):
    told = []
    run = trainer(
        tmp_path, max_epochs=2, callbacks=[MetricsFile(tmp_path / "deep" / "metrics.jsonl", told.append)]
    )
    run.fit(make(), image_data())
    lines = [json.loads(line) for line in (tmp_path / "deep" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    assert {"val/loss", "val/reconstruction/psnr", "seconds", "lr0"} <= set(lines[0])
    assert len(told) == 2
    assert "reconstruction/psnr" in told[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"lmbda": {"detection": 0, "reconstruction": 1}},
            r"lmbda\.detection must be a number above 0; got 0",
        ),
        ({"lmbda": {"detection": -1, "reconstruction": 1}}, r"lmbda\.detection must be"),
        ({"lmbda": {"detection": 1}}, "lmbda must be one number each for detection, reconstruction"),
        ({"lmbda_scale": 0}, "lmbda_scale must be"),
        ({"stepping": "all"}, "stepping must be per_width or accumulated"),
        ({"learning_rate": float("nan")}, "learning_rate must be"),
        ({"plateau_factor": 2}, "plateau_factor must be a number from 0 to"),
        ({"plateau_epochs": -1}, "plateau_epochs must be"),
        ({"pseudo_score": "high"}, "pseudo_score must be a number from 0 to 1; got 'high'"),
    ],
)
def test_settings_that_cannot_be_are_told(settings, message):
    with pytest.raises(ArgumentError, match=message):
        make(**settings)


def test_missing_tasks_are_told():
    network = SlimmableFactorized(
        {"detection": 2, "reconstruction": 3}, features={"detection": FeatureMap(3, 8)}
    )
    with pytest.raises(ArgumentError, match="tasks must be one each for detection"):
        SlimmableModule(network, {}, WEIGHTS)


def test_a_cut_of_other_channels_is_told(image_data, tmp_path):
    network = SlimmableFactorized(
        {"detection": 2, "reconstruction": 3}, features={"detection": FeatureMap(4, 8)}
    )
    module = SlimmableModule(network, {"detection": MeanTask()}, WEIGHTS)
    with pytest.raises(ArgumentError, match=r"decoded must be of shape \(4, 3, 8, 8\), like the target"):
        trainer(tmp_path).fit(module, image_data())


def test_losses_that_are_not_finite_stop_the_training(image_data, tmp_path):
    module = make()
    with torch.no_grad():
        module.network.g_a.convs[0].weight.fill_(float("nan"))
    before = {name: p.detach().clone() for name, p in module.network.named_parameters()}
    message = r"gradient norm must be finite; got nan\. .* the batch was .*png"
    with pytest.raises(ArgumentError, match=message):
        trainer(tmp_path).fit(module, image_data())
    for name, parameter in module.network.named_parameters():
        assert torch.equal(parameter.nan_to_num(), before[name].nan_to_num()), name
        assert name == "g_a.convs.0.weight" or parameter.isfinite().all()


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_precisions_that_do_not_train_are_told(precision, image_data, tmp_path):
    with pytest.raises(ArgumentError, match=r"trainer\.precision must be one of 32-true, bf16-mixed"):
        trainer(tmp_path, precision=precision).fit(make(), image_data())
