"""A trained preprocessor before a codec: which λ it takes, what it gives, and how it is told apart."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from vcm.codecs import BPGCodec, JPEGCodec
from vcm.encoding import preprocessing
from vcm.encoding.preprocessing import NPPPreprocessor
from vcm.errors import ArgumentError, WeightsError
from vcm.evaluation.pipelines import ImagePipeline
from vcm.nn.preprocessor import NPP, QuantizationAdaptiveNPP, save_preprocessor

PAIRS = [
    [0.25, 44], [0.5, 40], [0.8, 40], [1, 37], [2, 34], [4, 31], [6, 29], [8, 28], [16, 25],
]  # fmt: skip


def trained(kind):
    """A network that changes images, and changes them differently at each λ."""
    torch.manual_seed(0)
    network = kind((3, 4, 5, 6))
    with torch.no_grad():
        network.head[-1].weight.normal_(std=0.5)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 2)
        for gains in getattr(network, "gains", {}).values():
            gains.mlp[2].weight.normal_(std=0.3)
    return network.eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("npp") / "model.safetensors"
    notes = json.dumps({"codec": "bpg", "pairs": PAIRS})
    save_preprocessor(trained(QuantizationAdaptiveNPP), path, pairs=notes)
    return path


@pytest.fixture(scope="module")
def image():
    torch.manual_seed(1)
    return torch.randint(0, 256, (3, 40, 61), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("quality", "rate"),
    [
        (44, 0.25), (51, 0.25), (25, 16), (0, 16), (37, 1),
        (40, math.sqrt(0.5 * 0.8)),  # two λ for one QP
        (35.5, math.sqrt(2)), (26, 8 * 2 ** (2 / 3)),  # between two
    ],
)  # fmt: skip
def test_rate_follows_the_trained_pairs(model, quality, rate):
    assert NPPPreprocessor(model, codec="bpg", quality=quality).lmbda == pytest.approx(rate)
    other = NPPPreprocessor(model, lmbda=3)
    assert other.lmbda == 3
    assert other.at(codec="bpg", quality=quality).lmbda == pytest.approx(rate)


def test_rate_of_ones_own_goes_first_and_derived_ones_stay_in_range(model, tmp_path):
    assert NPPPreprocessor(model, lmbda=2, codec="bpg", quality=44).lmbda == 2
    narrow = tmp_path / "narrow.safetensors"
    network = QuantizationAdaptiveNPP((3, 4, 5, 6), lmbda_range=(1, 4))
    save_preprocessor(network, narrow, pairs=json.dumps({"codec": "bpg", "pairs": PAIRS}))
    assert NPPPreprocessor(narrow, codec="bpg", quality=44).lmbda == 1


@pytest.mark.parametrize(
    "settings", [{}, {"codec": "jpeg", "quality": 44}, {"codec": "bpg"}, {"quality": 44}]
)
def test_rate_that_cannot_be_derived_is_asked_for(model, settings):
    with pytest.raises(
        ArgumentError, match=r"lmbda must be a number from 0\.25 to 16.*bpg's quality: 16 at 25"
    ):
        NPPPreprocessor(model, **settings)
    with pytest.raises(ArgumentError, match=r"Set codecs\.NAME\.lmbda=.*notes none\."):
        NPPPreprocessor(trained(QuantizationAdaptiveNPP), codec="bpg", quality=44)


@pytest.mark.parametrize("rate", [0.2, 17, -1, float("nan"), "3"])
def test_rate_outside_the_range_is_told(model, rate):
    with pytest.raises(ArgumentError, match=r"lmbda must be a number from 0\.25 to 16, .*got"):
        NPPPreprocessor(model, lmbda=rate)


def test_network_for_one_rate_takes_none(image):
    plain = NPPPreprocessor(trained(NPP), codec="avif", quality=3)
    assert plain.lmbda is None
    assert not torch.equal(plain(image), image)
    with pytest.raises(ArgumentError, match="lmbda must be None"):
        NPPPreprocessor(trained(NPP), lmbda=2)


def test_model_that_is_none(tmp_path):
    with pytest.raises(ArgumentError, match="npp_model"):
        NPPPreprocessor(None)
    with pytest.raises(WeightsError, match="cannot be read as a model"):
        NPPPreprocessor(tmp_path / "missing.safetensors")


@pytest.mark.parametrize(
    "note", ["{", "[1]", '{"codec": "bpg"}', '{"codec": "bpg", "pairs": [[1]]}',
             '{"codec": "bpg", "pairs": [["a", 1]]}', '{"codec": "bpg", "pairs": [[0, 1]]}']
)  # fmt: skip
def test_damaged_notes_are_told(tmp_path, note):
    path = tmp_path / "npp.safetensors"
    save_preprocessor(trained(QuantizationAdaptiveNPP), path, pairs=note)
    with pytest.raises(WeightsError, match="its note of pairs is damaged"):
        NPPPreprocessor(path, lmbda=1)


@pytest.mark.parametrize("note", ["[]", "{}", '{"codec": "bpg", "pairs": []}', None])
def test_notes_without_pairs(tmp_path, note):
    path = tmp_path / "npp.safetensors"
    save_preprocessor(trained(QuantizationAdaptiveNPP), path, **({} if note is None else {"pairs": note}))
    assert NPPPreprocessor(path, lmbda=1).lmbda == 1
    with pytest.raises(ArgumentError, match="notes none"):
        NPPPreprocessor(path, codec="bpg", quality=44)


# --- images ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (17, 33)])
def test_images_of_any_size_as_the_network_filters_them(model, size):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    with torch.no_grad():
        expected = trained(QuantizationAdaptiveNPP)(image[None].float() / 255, 2.0)[0] * 255
    filtered = NPPPreprocessor(model, lmbda=2)(image)
    assert (filtered.shape, filtered.dtype) == (image.shape, torch.uint8)
    assert (filtered - expected).abs().max() <= 0.5 + 1e-3


def test_a_new_network_gives_the_very_image(image):
    assert torch.equal(NPPPreprocessor(NPP((3, 4, 5, 6)))(image), image)


def test_tiles_show_no_seams(model, monkeypatch):
    image = torch.randint(0, 256, (3, 300, 421), dtype=torch.uint8)
    preprocessor = NPPPreprocessor(model, lmbda=2)
    whole = preprocessor(image)
    monkeypatch.setattr(preprocessing, "WHOLE_PIXELS", 1000)
    monkeypatch.setattr(preprocessing, "TILE", 96)
    tiled = preprocessor(image)
    assert (tiled.int() - whole.int()).abs().max() <= 1
    assert (tiled != whole).float().mean() < 1e-3  # roundings that fell the other way


def test_no_pixel_depends_on_one_beyond_the_halo():
    network = NPP((2, 2, 2, 2)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_().add_(0.1)  # so that nothing that is looked at cancels out
    furthest = 0
    for place in range(160, 176):
        x = torch.rand(1, 3, 32, 336, requires_grad=True)
        network.unet(x, None)[0, 0, 5, place].backward()
        columns = x.grad.abs().sum((0, 1, 2)).nonzero()
        furthest = max(furthest, int(columns.max()) - place, place - int(columns.min()))
    assert preprocessing.HALO - network.stride < furthest <= preprocessing.HALO
    assert preprocessing.HALO % network.stride == preprocessing.TILE % network.stride == 0


def test_threads_agree(model, image):
    preprocessor = NPPPreprocessor(model, lmbda=2)
    expected = preprocessor(image)
    with ThreadPoolExecutor(4) as threads:
        assert all(torch.equal(found, expected) for found in threads.map(preprocessor, [image] * 12))


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 4, 4),
        *(torch.zeros(size, dtype=torch.uint8) for size in ((1, 4, 4), (3, 0, 4), (3, 4))),
    ],
)
def test_what_is_no_image_is_told(model, image):
    with pytest.raises(ArgumentError, match="image must be"):
        NPPPreprocessor(model, lmbda=2)(image)


# --- in a system -------------------------------------------------------------------------------------------


def test_settings_tell_networks_and_rates_apart(model):
    one, same, other = (NPPPreprocessor(model, lmbda=rate) for rate in (2, 2.0, 3))
    assert one.settings() == same.settings() == json.loads(json.dumps(one.settings()))
    assert one.settings() != other.settings()
    assert one.at(lmbda=3).settings() == other.settings()
    assert one.settings()["weights_sha256"] != NPPPreprocessor(trained(NPP)).settings()["weights_sha256"]


def test_titles_tell_curves_apart(model, world):
    npp, task = NPPPreprocessor(model, lmbda=2), world.task()
    titles = {
        name: ImagePipeline(name, codec, task, preprocessor=npp).title
        for name, codec in (
            ("npp_bpg", BPGCodec()), ("bpg", BPGCodec()), ("npp_jpeg", JPEGCodec()), ("mine", JPEGCodec()),
        )
    }  # fmt: skip
    assert titles == {
        "npp_bpg": "NPP + BPG", "bpg": "NPP + BPG", "npp_jpeg": "NPP + JPEG", "mine": "NPP + JPEG (mine)",
    }  # fmt: skip
    assert ImagePipeline("bpg", BPGCodec(), task).title == "BPG"


def test_a_curve_with_it_beside_one_without(model, build, world, pool, tmp_path):
    qualities, first, task = (45, 35, 25), NPPPreprocessor(model, codec="bpg", quality=45), world.task()
    codecs = [BPGCodec(quality=quality, preset="ultrafast") for quality in qualities]
    evaluation = build(task=task, codecs={"bpg": codecs}, examples=0)
    evaluation.systems += [
        ImagePipeline("npp_bpg", codec, task, preprocessor=first.at(codec="bpg", quality=codec.quality))
        for codec in codecs
    ]
    results = evaluation.run()
    by_point = {(p.system, p.quality): p for p in results.points if p.labels == "truth"}
    assert len(by_point) == 6
    assert all(by_point["npp_bpg", q].psnr < by_point["bpg", q].psnr for q in qualities)
    provenance = json.loads((tmp_path / "run/provenance.json").read_text())
    rates = [system["preprocessor"]["rate"] for system in provenance["systems"][3:]]
    assert rates == pytest.approx([0.25, 2 ** (2 / 3), 16])
