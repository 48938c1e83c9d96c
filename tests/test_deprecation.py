"""Names of vcm 0.1 still work, and say what they are called now."""

import importlib

import pytest


@pytest.mark.parametrize(
    ("module", "former", "present"),
    [
        ("vcm.data", "PictureDataModule", "ImageDataModule"),
        ("vcm.data", "PictureDataset", "ImageDataset"),
        ("vcm.data", "PictureFolderDataset", "ImageFolderDataset"),
        ("vcm.data", "read_picture", "read_image"),
        ("vcm.errors", "PictureError", "ImageError"),
        ("vcm.evaluation.pipelines", "PictureSystem", "ImagePipeline"),
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
