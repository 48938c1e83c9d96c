"""`import vcm`: light, complete by tab, and an evaluation in four lines."""

import importlib
import inspect
import subprocess
import sys

import pytest
import torch

import vcm
from vcm.errors import ArgumentError


def test_importing_it_brings_nothing():
    heavy = "[name for name in ('torch', 'numpy', 'lightning') if name in sys.modules]"
    code = f"import sys, vcm; vcm.__version__; dir(vcm); print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["vcm", *(f"vcm.{name}" for name in sorted(vcm._PACKAGES))])
def test_every_public_name_is_there_and_in_dir(package):
    module = importlib.import_module(package)
    names = getattr(module, "__all__", [])
    assert set(names) <= set(dir(module))
    for name in names:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize(
    "package",
    ["vcm", "vcm.codecs", "vcm.data", "vcm.metrics", "vcm.modules", "vcm.tasks", "vcm.nn.slimmable"],
)
def test_every_public_name_has_a_docstring(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value):
            assert inspect.getdoc(value), f"{package}.{name}"


def test_four_lines(world, tmp_path):
    task, data = world.task(), world.dataset()
    jpeg = [vcm.codecs.JPEGCodec(quality) for quality in (2, 30, 90)]
    results = vcm.evaluate({"jpeg": jpeg, "webp": [vcm.codecs.WebPCodec(50)]}, task, data, bootstrap=0)
    curve = results.curve("jpeg", labels="pseudo")
    streams = [jpeg[0].encode(data.image(index)) for index in range(10)]
    pixels = [data.image(index)[0].numel() for index in range(10)]
    assert curve[0][0] == pytest.approx(8 * sum(map(len, streams)) / sum(pixels))
    assert [rate for rate, _ in curve] == sorted(rate for rate, _ in curve)
    assert results.curve("jpeg", "psnr")[0][1] == next(
        p.psnr for p in results.points if p.quality == 2 and p.labels == "truth"
    )
    assert vcm.metrics.bd_rate(results.curve("jpeg", "psnr"), results.curve("jpeg", "psnr")).value == 0

    again = vcm.evaluate({"jpeg": jpeg}, task, world.folder / "images", folder=tmp_path / "kept", bootstrap=0)
    assert again.curve("jpeg") == curve
    assert (tmp_path / "kept/results.csv").is_file()


@pytest.mark.parametrize(
    ("codecs", "options", "said"),
    [
        ({}, {}, "codecs must be at least one curve"),
        ({"jpeg": ["jpeg"]}, {}, "codecs.jpeg must be a list of vcm.codecs.Codec"),
        ({"jpeg": [vcm.codecs.JPEGCodec(5)]}, {"pseudo_score": 2}, "pseudo_score must be"),
        ({"jpeg": [vcm.codecs.JPEGCodec(5)]}, {"workers": -1}, "workers must be"),
    ],
)
def test_bad_arguments(codecs, options, said, world):
    with pytest.raises(ArgumentError, match=said):
        vcm.evaluate(codecs, world.task(), world.dataset(), **options)


def test_a_curve_that_is_not_there(world):
    results = vcm.evaluate({"jpeg": [vcm.codecs.JPEGCodec(5)]}, world.task(), world.dataset(), bootstrap=0)
    for arguments, said in (
        (("bpg",), "system must be one of jpeg; got 'bpg'"),
        (("jpeg", "mapp"), "accuracy must be one of psnr, ms_ssim, map"),
        (("jpeg", "map", "none"), "labels must be one of truth, pseudo"),
    ):
        with pytest.raises(ArgumentError, match=said):
            results.curve(*arguments)


def test_psnr_and_ms_ssim_are_those_of_the_functions_averaged_over_images():
    torch.manual_seed(0)
    target = (torch.rand(3, 3, 176, 176) * 255).to(torch.uint8)
    preds = (target.int() + torch.randint(-9, 10, target.shape)).clamp(0, 255).to(torch.uint8)
    for metric, function in (
        (vcm.metrics.PSNR(), vcm.metrics.psnr),
        (vcm.metrics.MSSSIM(), vcm.metrics.ms_ssim),
    ):
        metric.update(preds[:2], target[:2])
        metric.update(preds[2], target[2])
        expected = sum(function(*pair) for pair in zip(preds, target, strict=True)) / 3
        assert float(metric.compute()) == pytest.approx(expected)
        with pytest.raises(ArgumentError, match="preds must be 3 images"):
            metric.update(preds[:2], target)
    small = vcm.metrics.MSSSIM()
    small.update(preds[0, :, :32, :32], target[0, :, :32, :32])
    assert small.compute().isnan()
