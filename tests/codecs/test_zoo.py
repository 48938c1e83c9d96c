"""CompressAI's networks as codecs, against their own compress() and decompress()."""

import json
import random
from pathlib import Path

import pytest
import torch
import yaml
from compressai.zoo.image import model_architectures

from vcm.codecs import CompressAICodec
from vcm.codecs.learned.container import read_stream, write_stream
from vcm.codecs.learned.zoo import ARCHITECTURES
from vcm.errors import ArgumentError, BitstreamError, WeightsError

KINDS = {name.replace("_", "-"): kind for name, kind in model_architectures.items()}


def save(folder, architecture, seed=0, *, wrapped=False):
    """A small random network of the architecture, as CompressAI's training script saves it."""
    torch.manual_seed(seed)
    kind = KINDS[architecture]
    network = kind(16) if architecture.startswith("cheng") else kind(16, 24)
    with torch.no_grad():
        for parameter in network.g_a.parameters():
            parameter.mul_(1.5)
    network.update()
    path = folder / f"{architecture}-{seed}.pth.tar"
    torch.save({"state_dict": network.state_dict()} if wrapped else network.state_dict(), path)
    return network.eval(), path


def test_the_architectures_are_the_zoos():
    assert set(ARCHITECTURES) == set(KINDS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_streams_hold_what_compressai_itself_would_send(architecture, tmp_path):
    network, path = save(tmp_path, architecture, wrapped=architecture == "mbt2018-mean")
    codec = CompressAICodec(architecture=architecture, checkpoint=path)
    image = (torch.rand(3, 70, 50, generator=torch.Generator().manual_seed(1)) * 255).to(torch.uint8)
    data = codec.encode(image)
    factor = network.downsampling_factor
    padded = torch.nn.functional.pad(image[None] / 255, (0, -50 % factor, 0, -70 % factor), mode="replicate")
    with torch.inference_mode():
        coded = network.compress(padded)
        expected = network.decompress(coded["strings"], coded["shape"])["x_hat"][0, :, :70, :50]
    stream = read_stream(data)
    assert list(stream.sections) == [strings[0] for strings in coded["strings"]]
    difference = codec.decode(data).int() - (expected.clamp(0, 1) * 255).round().int()
    assert difference.abs().max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (64, 64)])
def test_any_size_comes_back(size, tmp_path):
    _, path = save(tmp_path, "bmshj2018-hyperprior")
    codec = CompressAICodec(architecture="bmshj2018-hyperprior", checkpoint=path)
    image = torch.full((3, *size), 100, dtype=torch.uint8)
    assert codec.decode(codec.encode(image)).shape == image.shape


def test_a_family_of_checkpoints_is_a_curve(tmp_path):
    for seed in (1, 2):
        save(tmp_path, "bmshj2018-factorized", seed)
    text = (Path(__file__).parents[2] / "conf" / "codec" / "compressai.yaml").read_text()
    ((name, plan),) = yaml.safe_load(text).items()
    assert name == CompressAICodec.name
    settings = {**plan["codec"], "architecture": "bmshj2018-factorized"}
    del settings["_target_"]
    settings["checkpoint"] = tmp_path / "bmshj2018-factorized-{quality}.pth.tar"
    one, two = (CompressAICodec(quality, **settings) for quality in (1, 2))
    assert one.settings()["weights_sha256"] != two.settings()["weights_sha256"]
    json.dumps(one.settings())
    with pytest.raises(BitstreamError, match="of another model"):
        two.decode(one.encode(torch.zeros(3, 9, 9, dtype=torch.uint8)))


def test_what_is_no_checkpoint_is_told(tmp_path):
    _, path = save(tmp_path, "bmshj2018-factorized")
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint of mbt2018: "):
        CompressAICodec(architecture="mbt2018", checkpoint=path)
    with pytest.raises(WeightsError, match=r"missing\.pth cannot be read"):
        CompressAICodec(architecture="mbt2018", checkpoint=tmp_path / "missing.pth")
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(WeightsError, match=r"junk\.pth cannot be read"):
        CompressAICodec(architecture="mbt2018", checkpoint=tmp_path / "junk.pth")
    with pytest.raises(ArgumentError, match="architecture must be one of"):
        CompressAICodec(architecture="jpeg", checkpoint=path)


@pytest.mark.parametrize("architecture", ["bmshj2018-factorized", "mbt2018"])
def test_forged_streams_crash_nothing(architecture, tmp_path):
    """Sections of any content under a right checksum: an error or some picture, and a living process."""
    _, path = save(tmp_path, architecture)
    codec = CompressAICodec(architecture=architecture, checkpoint=path)
    stream = read_stream(codec.encode(torch.zeros(3, 64, 64, dtype=torch.uint8)))
    rng = random.Random(0)
    decoded = 0
    for length in (*(rng.randint(2, 9) for _ in range(10)), *(rng.randint(20, 40) for _ in range(10))):
        sections = [rng.randbytes(4 * length) for _ in stream.sections]
        try:
            assert codec.decode(write_stream(stream.header, sections)).shape == (3, 64, 64)
            decoded += 1
        except BitstreamError as error:
            assert "cannot hold an image of 64x64" in str(error)
    assert decoded >= 10
    for sections in ([b""] * len(stream.sections), [*stream.sections, b"12345678"]):
        with pytest.raises(BitstreamError, match="its sections are not such"):
            codec.decode(write_stream(stream.header, sections))
