"""Networks of other packages: registered by an entry point, trained, saved, loaded, and used as a codec."""

import numpy as np
import pytest
import torch

from vcm.cli.main import main
from vcm.codecs import LearnedCodec
from vcm.errors import WeightsError
from vcm.nn.preprocessor import NPP, load_preprocessor, save_preprocessor
from vcm.nn.slimmable import SlimmableFactorized, load_network, save_network

PACKAGE = """
import torch

from vcm.nn.slimmable import SlimmableFactorized


class Sharpened(SlimmableFactorized):
    def __init__(self, *arguments, strength=0.5, **settings):
        super().__init__(*arguments, **settings)
        self.strength = strength

    def architecture(self):
        return {**super().architecture(), "strength": self.strength}


class SlimmableFactorized:
    pass


class NoNetwork:
    pass
"""
ENTRIES = """[vcm.networks]
Sharpened = sharpened:Sharpened
SlimmableFactorized = sharpened:SlimmableFactorized
NoNetwork = sharpened:NoNetwork
Missing = sharpened:Missing
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that registers networks."""
    site = tmp_path / "site"
    information = site / "sharpened-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "sharpened.py").write_text(PACKAGE)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: sharpened\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(site)
    import sharpened

    return sharpened


def test_a_network_of_another_package_is_loaded_and_codes(package, tmp_path):
    torch.manual_seed(0)
    network = package.Sharpened({"reconstruction": 6}, strength=0.25)
    save_network(network, tmp_path / "model.safetensors")
    loaded = load_network(tmp_path / "model.safetensors")
    assert type(loaded) is package.Sharpened
    assert loaded.strength == 0.25
    codec = LearnedCodec(model=tmp_path / "model.safetensors")
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, 40, 50), dtype=np.uint8))
    assert codec.decode(codec.encode(image)).shape == image.shape


def test_a_package_cannot_replace_vcms_own(package, tmp_path):
    save_network(SlimmableFactorized({"reconstruction": 6}), tmp_path / "model.safetensors")
    assert type(load_network(tmp_path / "model.safetensors")) is SlimmableFactorized


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoNetwork", "network must be a MultiTaskNetwork"),
        ("Missing", "network must be one that can be imported from sharpened:Missing; got .AttributeError"),
        ("os", "network must be one of SlimmableFactorized, .*Sharpened"),
    ],
)
def test_other_names_are_refused(package, tmp_path, name, message):
    network = package.Sharpened({"reconstruction": 6})
    plain = network.architecture()
    network.architecture = lambda: {**plain, "network": name}
    save_network(network, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=message):
        load_network(tmp_path / "model.safetensors")


def test_a_registered_network_of_another_kind_is_no_preprocessor(package, tmp_path):
    network = NPP((4, 4, 4, 4))
    plain = network.architecture()
    network.architecture = lambda: {**plain, "network": "Sharpened"}
    save_preprocessor(network, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="network must be a NPP"):
        load_preprocessor(tmp_path / "model.safetensors")


def test_vcm_train_trains_it(package, tmp_path, monkeypatch):
    from PIL import Image

    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        for number in range(2):
            pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / f"{number}.png")
    configs = tmp_path / "configs/network"
    configs.mkdir(parents=True)
    settings = "_target_: sharpened.Sharpened\n_convert_: all\nwidths: {reconstruction: 6}\nstrength: 0.75\n"
    (configs / "sharpened.yaml").write_text(settings)
    monkeypatch.chdir(tmp_path)
    arguments = ["network=sharpened", "data=training_folders", "data.train.root=train", "data.val.root=val"]
    arguments += ["module.lmbda={reconstruction: 0.01}", "trainer=cpu", "trainer.max_epochs=1", "name=own"]
    arguments += ["data.crop_size=64", "data.batch_size=2", "data.num_workers=0"]
    assert main(["train", "--config-dir", "configs", *arguments]) == 0
    assert load_network("runs/own/model.safetensors").strength == 0.75
    assert main(["compress", "train", "--for", "viewing", "--model", "runs/own/model.safetensors"]) == 0
