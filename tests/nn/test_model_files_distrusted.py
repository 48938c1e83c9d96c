"""Model files of every kind, as nobody should trust them."""

import json
import os
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from safetensors.torch import load_file, save_file

from vcm.errors import ArgumentError, WeightsError
from vcm.nn.entropy import check_tables, update_bottleneck
from vcm.nn.integer import IntegerHyperSynthesis
from vcm.nn.preprocessor import NPP, QuantizationAdaptiveNPP, load_preprocessor, save_preprocessor
from vcm.nn.proxy import IdentityProxy, LearnedProxy, load_proxy, save_proxy
from vcm.nn.slimmable import (
    FeatureMap,
    LatentScalable,
    SlimmableFactorized,
    SlimmableHyperprior,
    load_network,
    save_network,
)
from vcm.nn.weights import load_tensors

SLIMMABLE = (SlimmableFactorized, SlimmableHyperprior, LatentScalable)


def slimmable(kind):
    torch.manual_seed(0)
    return kind({"detection": 3, "reconstruction": 4}, features={"detection": FeatureMap(2, 8)}).eval()


KINDS = {
    **{kind.__name__: (lambda kind=kind: slimmable(kind), save_network, load_network) for kind in SLIMMABLE},
    "NPP": (lambda: NPP((2, 3, 4, 5)), save_preprocessor, load_preprocessor),
    "QuantizationAdaptiveNPP": (
        lambda: QuantizationAdaptiveNPP((2, 3, 4, 5)),
        save_preprocessor,
        load_preprocessor,
    ),
    "LearnedProxy": (lambda: LearnedProxy(channels=4), save_proxy, load_proxy),
    "IdentityProxy": (lambda: IdentityProxy("bpg", (22, 44)), save_proxy, load_proxy),
}


@pytest.fixture(params=KINDS)
def saved(request, tmp_path):
    """(path, load, state, metadata) of a model file of each kind; its SHA-256 entry is left out."""
    make, save, load = KINDS[request.param]
    path = tmp_path / "model.safetensors"
    save(make(), path)
    state = load_file(path)
    return path, load, state, {"vcm": json.dumps(architecture(path))}


def architecture(path):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["vcm"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(saved, value):
    path, load, state, metadata = saved
    floats = [name for name, tensor in state.items() if tensor.is_floating_point() and tensor.numel()]
    for name in (floats[0], floats[-1]):
        changed = {**state, name: state[name].clone()}
        changed[name].view(-1)[-1] = value
        save_file(changed, path, metadata)
        with pytest.raises(WeightsError, match=r"must be finite numbers; got 'NaN or infinite ones'"):
            load(path)


def test_weights_that_overflow_the_networks_precision_are_refused(saved):
    path, load, state, metadata = saved
    name = next(name for name, tensor in state.items() if tensor.dtype == torch.float32 and tensor.numel())
    save_file({**state, name: torch.full_like(state[name], 1e300, dtype=torch.float64)}, path, metadata)
    with pytest.raises(WeightsError, match="finite numbers"):
        load(path)


def test_negative_variances_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    network = NPP((2, 3, 4, 5))
    network.downs[0][1].running_var.fill_(-1)
    save_preprocessor(network, path)
    with pytest.raises(WeightsError, match=r"running_var must be variances from 0; got -1\.0"):
        load_preprocessor(path)


@pytest.mark.parametrize("size", [6000, 60_000, 10**9, 10**30])
def test_architectures_larger_than_the_file_are_refused_at_once(saved, size):
    path, load, state, metadata = saved
    plan = json.loads(metadata["vcm"])
    changes = []
    for name, value in plan.items():
        if name in ("channels", "latent_channels"):
            changes.append({name: [size] * len(value) if isinstance(value, list) else size})
        elif name in ("widths", "latents"):
            changes.append({name: {**value, "reconstruction": size}})
    assert changes
    for change in changes:
        save_file(state, path, {"vcm": json.dumps({**plan, **change})})
        start = time.process_time()
        with pytest.raises(WeightsError, match="can be built"):
            load(path)
        assert time.process_time() - start < 1


def test_architectures_that_are_absurd_are_one_error(saved):
    path, load, state, metadata = saved
    plan = json.loads(metadata["vcm"])
    deep = "[" * 100_000 + "]" * 100_000
    shallow = "[" * 400 + "]" * 400
    name = "widths" if "widths" in plan else "qualities" if "qualities" in plan else "channels"
    for text in (
        deep,
        json.dumps({**plan, name: "@"}).replace('"@"', shallow),
        json.dumps({**plan, name: "@"}).replace('"@"', deep),
        "[]", "null", "7", "{}", "{", "NaN", '"x"', json.dumps({**plan, "network": []}),
        json.dumps({**plan, "network": "os.system"}), json.dumps({**plan, "more": 1}),
        json.dumps({**plan, name: "x" * 2_000_000}),
    ):  # fmt: skip
        save_file(state, path, {"vcm": text})
        with pytest.raises(WeightsError) as caught:
            load(path)
        assert len(str(caught.value)) < 2000


def test_shapes_are_compared_before_tensors_are_read(saved, monkeypatch):
    path, load, state, metadata = saved
    name = next(name for name, tensor in state.items() if tensor.ndim == 4)
    save_file({**state, name: state[name].flatten()}, path, metadata)
    monkeypatch.setattr("vcm.nn.serialization.check_values", lambda *_: pytest.fail("read"))
    with pytest.raises(WeightsError, match="must be of shape"):
        load(path)
    save_file({**state, "more": torch.zeros(1)}, path, metadata)
    with pytest.raises(WeightsError, match="which it does not have"):
        load(path)


def test_what_is_no_regular_file_is_refused(saved, tmp_path):
    _, load, _, _ = saved
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(20 << 30)
    for path, message in (
        (tmp_path / "fifo", "it is a FIFO"),
        ("/dev/zero", "it is a character device"),
        (tmp_path / "sparse", "more than the limit"),
    ):
        with pytest.raises(WeightsError, match=message):
            load(path)


def test_notes_that_are_absurd_are_one_error(tmp_path):
    path = tmp_path / "proxy.safetensors"
    for note in ("[" * 100_000, "[1]", "7", "{"):
        save_proxy(LearnedProxy(channels=4), path, codec_settings=note)
        with pytest.raises(WeightsError, match="the note of the codec's settings"):
            load_proxy(path)


def bottleneck():
    torch.manual_seed(0)
    model = EntropyBottleneck(3)
    update_bottleneck(model)
    return model


def test_tables_made_from_weights_pass():
    check_tables(bottleneck())


@pytest.mark.parametrize(
    ("buffer", "change", "message"),
    [
        ("_quantized_cdf", lambda t: t.index_fill(1, torch.tensor([0]), 1), "rise strictly from 0"),
        ("_quantized_cdf", lambda t: t.index_fill(1, torch.tensor([5]), 0), "rise strictly from 0"),
        ("_quantized_cdf", lambda t: t.clamp(max=65535), "rise strictly from 0"),
        ("_quantized_cdf", lambda t: t[:, :-1], "rows of 3 to"),
        ("_quantized_cdf", lambda t: t[:2], "3 rows"),
        ("_quantized_cdf", lambda t: t[:, :0], "3 rows"),
        ("_quantized_cdf", lambda t: t.flatten(), "3 rows"),
        ("_cdf_length", lambda t: t + 1, "rows of 3 to"),
        ("_cdf_length", lambda t: t - 1, "rise strictly from 0"),
        ("_cdf_length", lambda t: t * 0 - 1, "rows of 3 to"),
        ("_cdf_length", lambda t: t[:1], "3 rows"),
        ("_offset", lambda t: t - (1 << 30), "offsets within"),
        ("_offset", lambda t: t[:, None], "3 rows"),
    ],
)
def test_tables_that_a_range_coder_cannot_use_are_told(buffer, change, message):
    model = bottleneck()
    setattr(model, buffer, change(getattr(model, buffer)).contiguous())
    with pytest.raises(ArgumentError, match=message):
        check_tables(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9, 3e38])
def test_no_tables_are_made_from_weights_that_diverged(value):
    model = EntropyBottleneck(3)
    with torch.no_grad():
        model.quantiles[1, 0, 2] = value
    start = time.process_time()
    with pytest.raises(ArgumentError):
        update_bottleneck(model)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("channels", "spread", "expected"),
    [
        (500, 16000, "at most 2048 apart"),
        (1, 2050, "at most 2048 apart"),
        (500, 2000, "tables of at most 262144 values"),
    ],
)
def test_no_tables_are_made_that_take_long(channels, spread, expected):
    model = EntropyBottleneck(channels)
    with torch.no_grad():
        model.quantiles[:, 0, 0], model.quantiles[:, 0, 2] = -spread / 2, spread / 2
    start = time.process_time()
    with pytest.raises(ArgumentError, match=f"quantiles must be .*{expected}"):
        update_bottleneck(model)
    assert time.process_time() - start < 1


def test_few_channels_with_large_tables_do_not_pad_the_many():
    model = EntropyBottleneck(4000)
    with torch.no_grad():
        model.quantiles[0, 0, 2] = 1500
    with pytest.raises(ArgumentError, match="every row as long as the longest"):
        update_bottleneck(model)


def test_tables_of_the_widest_published_models_are_made():
    """320 channels, some of them with hundreds of symbols."""
    model = EntropyBottleneck(320)
    with torch.no_grad():
        model.quantiles[:, 0, 0], model.quantiles[:, 0, 2] = -200, 200
        model.quantiles[:8, 0, 2] = 1000
    update_bottleneck(model)
    check_tables(model)


def test_stored_tables_of_too_many_values_are_refused():
    model = EntropyBottleneck(150)
    rows = torch.arange(2001, dtype=torch.int32) * 32
    rows[-1] = 1 << 16
    model._quantized_cdf = rows.repeat(150, 1)
    model._cdf_length = torch.full((150,), 2001, dtype=torch.int32)
    model._offset = torch.zeros(150, dtype=torch.int32)
    with pytest.raises(ArgumentError, match=r"at most 262144 values.*300150"):
        check_tables(model)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("deconvs.0.weight", -(1 << 15)),
        ("deconvs.1.bias", (1 << 50) + 1),
        ("deconvs.2.shift", 25),
        ("medians", -(1 << 51)),
        ("thresholds", -1),
        ("thresholds", 1 << 24),
    ],
)
def test_integer_buffers_beyond_their_bounds_are_told(name, value):
    exact = IntegerHyperSynthesis(3, 4, 8)
    exact.check()
    exact.get_buffer(name).view(-1)[0] = value
    with pytest.raises(ArgumentError, match=f"hyper-decoder's {name.split('.')[-1]}"):
        exact.check()


def test_many_threads_may_load_and_build_at_once(tmp_path):
    path = tmp_path / "model.safetensors"
    save_preprocessor(NPP((2, 3, 4, 5)), path)

    def work(number):
        return load_preprocessor(path) if number % 2 else NPP((40, 40, 40, 40))

    with ThreadPoolExecutor(8) as pool:
        networks = list(pool.map(work, range(200)))
    assert {network.channels for network in networks} == {(2, 3, 4, 5), (40, 40, 40, 40)}


def test_a_flipped_bit_of_a_packed_file_of_tensors_is_noticed(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.arange(4096.0)}, path)
    whole = path.read_bytes()
    with path.open("rb") as file:
        load_tensors(file)
    place = whole.index(torch.arange(4096.0).numpy().tobytes()[:64])
    for offset in (0, 100, 16000):
        damaged = bytearray(whole)
        damaged[place + offset] ^= 1
        path.write_bytes(damaged)
        with path.open("rb") as file, pytest.raises((ArgumentError, zipfile.BadZipFile)):
            load_tensors(file)
