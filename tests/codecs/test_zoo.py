"""CompressAI's networks as codecs, against their own compress() and decompress()."""

import dataclasses
import json
import os
import random
import time

import numpy as np
import pytest
import torch
from compressai.zoo.image import model_architectures

from vcm.codecs import CompressAICodec
from vcm.codecs.learned.container import read_stream, write_stream
from vcm.codecs.learned.zoo import ARCHITECTURES
from vcm.errors import ArgumentError, BitstreamError, CodecError, WeightsError

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


def test_a_family_of_checkpoints_is_a_curve(tmp_path, curve_plan):
    for seed in (1, 2):
        save(tmp_path, "bmshj2018-factorized", seed)
    settings = {**curve_plan(CompressAICodec.name)["codec"], "architecture": "bmshj2018-factorized"}
    del settings["_target_"]
    settings["checkpoint"] = tmp_path / "bmshj2018-factorized-{quality}.pth.tar"
    one, two = (CompressAICodec(quality, **settings) for quality in (1, 2))
    assert one.settings()["weights_sha256"] != two.settings()["weights_sha256"]
    json.dumps(one.settings())
    with pytest.raises(BitstreamError, match="with another model"):
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


FORGED = ("cannot contain an image of 64x64", "NaN or infinite pixels", "symbols beyond", "symbols need")


@pytest.mark.parametrize("architecture", ["bmshj2018-factorized", "mbt2018"])
def test_forged_streams_crash_nothing(architecture, tmp_path):
    """Sections of any content under a right checksum: an error or some image, and a living process."""
    _, path = save(tmp_path, architecture)
    codec = CompressAICodec(architecture=architecture, checkpoint=path)
    stream = read_stream(codec.encode(torch.zeros(3, 64, 64, dtype=torch.uint8)))
    rng = random.Random(0)
    for length in (*(rng.randint(2, 9) for _ in range(10)), *(rng.randint(20, 40) for _ in range(10))):
        sections = [rng.randbytes(4 * length) for _ in stream.sections]
        try:
            assert codec.decode(write_stream(stream.header, sections)).shape == (3, 64, 64)
        except BitstreamError as error:
            assert any(told in str(error) for told in FORGED)
    for sections in ([b""] * len(stream.sections), [*stream.sections, b"12345678"]):
        with pytest.raises(BitstreamError, match="length of its sections is invalid"):
            codec.decode(write_stream(stream.header, sections))


@pytest.mark.parametrize(("architecture", "side", "length", "message"), [
    ("bmshj2018-hyperprior", 8192, 32, "32 bytes cannot contain an image of 8192x8192"),
    ("bmshj2018-hyperprior", 2048, 400, "a section has 400 bytes"),
    ("mbt2018-mean", 8192, 32, "32 bytes cannot contain an image of 8192x8192"),
    ("mbt2018", 8192, 32, "is limited to 2097152 pixels"),
    ("cheng2020-anchor", 8192, 32, "is limited to 2097152 pixels"),
])  # fmt: skip
def test_forged_sizes_are_refused_before_the_work(architecture, side, length, message, tmp_path):
    _, path = save(tmp_path, architecture)
    codec = CompressAICodec(architecture=architecture, checkpoint=path)
    stream = read_stream(codec.encode(torch.zeros(3, 64, 64, dtype=torch.uint8)))
    header = dataclasses.replace(stream.header, size=(side, side), coded_size=(side, side))
    start = time.process_time()
    with pytest.raises(BitstreamError, match=message):
        codec.decode(write_stream(header, [bytes(length), bytes(60_000)]))
    assert time.process_time() - start < 5


def test_images_that_a_context_model_would_take_minutes_for_are_refused(tmp_path):
    _, path = save(tmp_path, "mbt2018")
    codec = CompressAICodec(architecture="mbt2018", checkpoint=path)
    with pytest.raises(ArgumentError, match=r"at most 2097152 pixels with mbt2018; got '2048x1025'"):
        codec.encode(torch.zeros(3, 2048, 1025, dtype=torch.uint8))


IMAGE = (torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255).to(torch.uint8)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_that_are_not_finite_are_refused(architecture, value, tmp_path):
    network, path = save(tmp_path, architecture)
    state = network.state_dict()
    for name in (next(iter(state)), next(name for name in state if name.startswith("g_s."))):
        torch.save({**state, name: torch.full_like(state[name], value)}, path)
        with pytest.raises(WeightsError, match="finite"):
            CompressAICodec(architecture=architecture, checkpoint=path)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_latents_from_which_the_range_coder_never_returns_are_refused(architecture, tmp_path):
    """Finite weights, too, can overflow; symbols beyond 2^27 are an endless loop that ignores Ctrl-C."""
    network, path = save(tmp_path, architecture)
    for scale in (1e10, 3e38):
        state = network.state_dict()
        for name in [name for name in state if name.startswith("g_a.") and name.endswith("weight")]:
            state[name] = torch.full_like(state[name], scale)
        torch.save(state, path)
        with pytest.raises(CodecError, match="is not properly trained"):
            CompressAICodec(architecture=architecture, checkpoint=path).encode(IMAGE)


@pytest.mark.parametrize("architecture", ["bmshj2018-hyperprior", "mbt2018-mean", "mbt2018"])
def test_predicted_means_and_scales_that_are_not_finite_are_refused(architecture, tmp_path):
    network, path = save(tmp_path, architecture)
    state = network.state_dict()
    last = [name for name in state if name.startswith(("h_s.", "entropy_parameters."))][-2]
    torch.save({**state, last: torch.full_like(state[last], 3e38)}, path)
    codec = CompressAICodec(architecture=architecture, checkpoint=path)
    try:
        decoded = codec.decode(codec.encode(IMAGE))
    except CodecError:
        assert architecture != "bmshj2018-hyperprior"
    else:  # scales choose a table, whatever they are
        assert decoded.shape == IMAGE.shape


@pytest.mark.parametrize("name", ["_quantized_cdf", "_cdf_length", "_offset"])
@pytest.mark.parametrize("model", ["entropy_bottleneck", "gaussian_conditional"])
def test_forged_tables_are_refused(model, name, tmp_path):
    network, path = save(tmp_path, "bmshj2018-hyperprior")
    state = network.state_dict()
    for value in (0, -1, 65536, 2**31 - 1):
        key = f"{model}.{name}"
        if name == "_offset" and value in (0, -1, 65536):
            continue  # other symbols, but within bounds
        torch.save({**state, key: torch.full_like(state[key], value)}, path)
        with pytest.raises(WeightsError, match="the tables of"):
            CompressAICodec(architecture="bmshj2018-hyperprior", checkpoint=path)


def test_tables_are_made_where_the_checkpoint_has_none(tmp_path):
    _, path = save(tmp_path, "bmshj2018-hyperprior")
    expected = CompressAICodec(architecture="bmshj2018-hyperprior", checkpoint=path).encode(IMAGE)
    state = torch.load(path, weights_only=True)
    for name in state:
        if name.endswith(("_quantized_cdf", "_cdf_length", "_offset", "scale_table")):
            state[name] = torch.empty(0, dtype=state[name].dtype)
    torch.save(state, path)
    codec = CompressAICodec(architecture="bmshj2018-hyperprior", checkpoint=path)
    assert read_stream(codec.encode(IMAGE)).sections == read_stream(expected).sections
    state["entropy_bottleneck.quantiles"][0, 0, 2] = 1e9  # a table of a billion entries
    torch.save(state, path)
    with pytest.raises(WeightsError, match="quantiles must be at most"):
        CompressAICodec(architecture="bmshj2018-hyperprior", checkpoint=path)


@pytest.mark.parametrize("channels", [6000, 100_000])
def test_networks_larger_than_their_checkpoint_are_refused_at_once(channels, tmp_path):
    network, path = save(tmp_path, "bmshj2018-factorized")
    wide = torch.zeros(1, 1, 1, 1).expand(channels, 3, 5, 5)
    torch.save({**network.state_dict(), "g_a.0.weight": wide}, path)
    start = time.process_time()
    with pytest.raises(WeightsError, match="at most"):
        CompressAICodec(architecture="bmshj2018-factorized", checkpoint=path)
    assert time.process_time() - start < 2


WRAPPINGS = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "loss": 0.5},
    "net_state_dict": lambda state: {"net_state_dict": state},
    "nested": lambda state: {"model": {"state_dict": state}},
    "module": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "network": lambda state: {"state_dict": {f"network.{name}": tensor for name, tensor in state.items()}},
    "compiled": lambda state: {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()},
    "others beside": lambda state: {"criterion.weight": torch.ones(2), **WRAPPINGS["module"](state)},
    "numpy": lambda state: {
        "state_dict": state,
        "loss": np.float64(0.5),
        "best": np.float32(0.25),
        "epoch": np.int64(3),
        "done": np.bool_(True),
    },
    "numpy arrays": lambda state: {
        "state_dict": state,
        "losses": np.array([0.5, 0.25]),
        "epochs": np.arange(4, dtype=np.uint8),
        "names": np.array(["a", "b"]),
        "best": {"psnr": np.array(30.0, np.float32)},
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_checkpoints_of_training_scripts_load(wrapping, tmp_path):
    network, path = save(tmp_path, "mbt2018-mean")
    expected = CompressAICodec(architecture="mbt2018-mean", checkpoint=path).encode(IMAGE)
    torch.save(WRAPPINGS[wrapping](network.state_dict()), path)
    codec = CompressAICodec(architecture="mbt2018-mean", checkpoint=path)
    assert read_stream(codec.encode(IMAGE)).sections == read_stream(expected).sections


def test_checkpoints_without_weights_say_which_keys_they_have(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"optimizer": {"lr": 0.1}, "epoch": 7}, path)
    with pytest.raises(WeightsError, match="its keys are 'optimizer', 'epoch'"):
        CompressAICodec(architecture="mbt2018", checkpoint=path)
    torch.save([torch.zeros(2)], path)
    with pytest.raises(WeightsError, match="a list instead of weights by name"):
        CompressAICodec(architecture="mbt2018", checkpoint=path)


class Runs:
    """Code in a pickle."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_checkpoints_choose_no_code_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network, path = save(tmp_path, "bmshj2018-factorized")
    for beside in (Runs(), np.array([Runs()], dtype=object)):
        torch.save({"state_dict": network.state_dict(), "more": beside}, path)
        with pytest.raises(
            WeightsError, match=r"it contains an object of posix\.mkdir.* save only the state dict"
        ):
            CompressAICodec(architecture="bmshj2018-factorized", checkpoint=path)
    assert not (tmp_path / "ran").exists()


def test_checkpoints_that_are_no_regular_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(20 << 30)
    for path, message in (
        (tmp_path / "fifo", "it is a FIFO"),
        ("/dev/zero", "it is a character device"),
        (tmp_path, "it is a folder"),
        (tmp_path / "sparse", "more than the limit"),
    ):
        with pytest.raises(WeightsError, match=message):
            CompressAICodec(architecture="mbt2018", checkpoint=path)
