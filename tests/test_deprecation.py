"""Names of vcm 0.1 still work, and say what they are called now."""

import importlib

import pytest
import torch
from hydra.utils import instantiate

import vcm
from vcm.encoding import NPPPreprocessor
from vcm.losses.rate_distortion import rate_distortion
from vcm.modules import ProxyCodecModule
from vcm.nn.preprocessor import NPP, QuantizationAdaptiveNPP
from vcm.nn.proxy import LearnedProxy


@pytest.mark.parametrize(
    ("module", "former", "present"),
    [
        ("vcm.data", "PictureDataModule", "ImageDataModule"),
        ("vcm.data", "PictureDataset", "ImageDataset"),
        ("vcm.data", "PictureFolderDataset", "ImageFolderDataset"),
        ("vcm.data", "read_picture", "read_image"),
        ("vcm.errors", "PictureError", "ImageError"),
        ("vcm.evaluation.pipelines", "PictureSystem", "ImagePipeline"),
        ("vcm.evaluation.pipelines", "System", "Pipeline"),
        ("vcm.evaluation.features", "FeatureSystem", "FeaturePipeline"),
        ("vcm.codecs", "Encoded", "Timed"),
    ],
)
def test_former_names(module, former, present):
    loaded = importlib.import_module(module)
    with pytest.warns(
        DeprecationWarning, match=rf"{former} is deprecated\. Use {module}\.{present}\."
    ) as found:
        assert getattr(loaded, former) is getattr(loaded, present)
    assert found[0].filename == __file__
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'Nothing'"):
        loaded.Nothing  # noqa: B018


def test_records_of_0_1_keep_their_keys(tmp_path):
    from vcm.codecs import JPEGCodec
    from vcm.evaluation.pipelines import ImagePipeline

    assert ImagePipeline("jpeg", JPEGCodec(), None).settings()["system"] == "picture"


def test_former_arguments_and_attributes():
    with pytest.warns(DeprecationWarning, match="rates= is deprecated. Use lmbda_range=") as found:
        network = QuantizationAdaptiveNPP((2, 2, 2, 2), rates=(1, 4))
    assert found[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=r"QuantizationAdaptiveNPP\.rates is deprecated"):
        assert network.rates == network.lmbda_range == (1, 4)
    with pytest.warns(DeprecationWarning, match="rate= is deprecated. Use lmbda="):
        preprocessor = NPPPreprocessor(network, rate=2)
    with pytest.warns(DeprecationWarning, match=r"NPPPreprocessor\.rate is deprecated"):
        assert preprocessor.rate == preprocessor.lmbda == 2
    x = torch.rand(1, 3, 8, 8)
    for filter_image in (network.eval(), NPP((2, 2, 2, 2)).eval()):
        with pytest.warns(DeprecationWarning, match="rate= is deprecated. Use lmbda=") as found:
            filtered = filter_image(x, rate=2)
        assert found[0].filename == __file__
        assert torch.equal(filtered, filter_image(x, lmbda=2))
    with pytest.warns(DeprecationWarning, match="weight= is deprecated. Use lmbda="):
        former = rate_distortion(x, x / 2, [torch.full((4,), 0.5)], 64, weight=0.01)
    assert torch.equal(former.loss, rate_distortion(x, x / 2, [torch.full((4,), 0.5)], 64, 0.01).loss)
    with pytest.raises(TypeError, match="weight is the former name of lmbda"):
        rate_distortion(x, x, [], 64, weight=0.01, lmbda=0.01)
    proxy = LearnedProxy("jpeg", (10, 90), channels=2, latent_channels=2)
    with pytest.warns(DeprecationWarning, match="weights= is deprecated. Use lmbda="):
        module = ProxyCodecModule(proxy, weights=(0.1, 0.2))
    assert module.hparams["lmbda"] == (0.1, 0.2)
    with pytest.warns(DeprecationWarning, match="predictions= is deprecated. Use preds="):
        vcm.metrics.TopKAccuracy().update(predictions=[], target=[])


def test_former_modules_are_found_as_targets():
    former = "vcm.evaluation.preprocessing.NPPPreprocessor"
    network = QuantizationAdaptiveNPP((2, 2, 2, 2))
    with pytest.warns(
        DeprecationWarning, match=r"vcm\.evaluation\.preprocessing is deprecated. Use vcm\.encoding"
    ):
        built = instantiate({"_target_": former}, model=network, lmbda=1)
    assert isinstance(built, NPPPreprocessor)
    with pytest.raises(AttributeError):
        vcm.evaluation.nothing  # noqa: B018
