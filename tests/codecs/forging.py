"""Damaged bytes, and model files and checkpoints forged on purpose, for `fuzzing`."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import tempfile
from pathlib import Path

SIZE = (40, 56)


def spoilt_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip a bit, overwrite, zero, insert, remove or cut off bytes."""
    while True:
        damaged = bytearray(data)
        place, length = rng.randrange(len(data)), rng.randint(1, 24)
        kind = rng.randrange(7)
        if kind == 0:
            damaged[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            damaged[place : place + length] = rng.randbytes(length)
        elif kind == 2:
            damaged[place : place + length] = bytes(len(damaged[place : place + length]))
        elif kind == 3:
            damaged[place:place] = rng.randbytes(length)
        elif kind == 4:
            del damaged[place : place + length]
        elif kind == 5:
            del damaged[place:]
        else:
            damaged[rng.randrange(min(40, len(data)))] = rng.randrange(256)
        if damaged != data:
            return bytes(damaged)


def small_image():
    import torch

    small = torch.rand(1, 3, 10, 14, generator=torch.Generator().manual_seed(1))
    return (torch.nn.functional.interpolate(small, size=SIZE, mode="bilinear") * 255).to(torch.uint8)[0]


def small_network(kind="SlimmableHyperprior", **more):
    import torch

    from vcm.nn.slimmable import FeatureMap, build_network

    torch.manual_seed(0)
    features = {"detection": dataclasses.asdict(FeatureMap(5, 8))}
    plan = {"network": kind, "widths": {"detection": 4, "reconstruction": 6}, "features": features, **more}
    network = build_network(plan).eval()
    with torch.no_grad():
        for conv in network.g_a.convs:
            conv.weight *= 2
    network.update()
    return network


def model_case(kind):
    from safetensors.torch import save_file

    from vcm.errors import VCMError

    folder = Path(tempfile.mkdtemp(prefix="vcm-fuzz-"))
    path = folder / "model.safetensors"
    networks = [small_network(means=True, qualities=2), small_network()]
    networks += [small_network("SlimmableFactorized"), small_network("LatentScalable")]
    image = small_image()

    def case(rng):
        if kind == "zoo":
            use = _forge_checkpoint(folder, image, rng)
        elif kind in ("preprocessor", "proxy"):
            use = _forge_other(kind, path, image, rng)
        else:
            network = copy.deepcopy(rng.choice(networks))
            state, plan = _forge(network, kind, rng)
            save_file(state, path, {"vcm": json.dumps(plan)})
            if kind == "bytes":
                path.write_bytes(spoilt_bytes(path.read_bytes(), rng))
            use = lambda: _use_network(path, image)  # noqa: E731
        try:
            return use()
        except VCMError:
            return "refused"

    return case


def _forge(network, kind, rng):
    """A state dict with its fingerprints right, and the architecture."""
    from compressai.entropy_models.entropy_models import EntropyModel

    from vcm.nn.integer import IntegerConvTranspose2d, IntegerHyperSynthesis

    plan = network.architecture()
    if kind in ("tables", "numbers"):
        if kind == "tables":
            kinds, names = EntropyModel, ("_quantized_cdf", "_cdf_length", "_offset")
        else:
            kinds = (IntegerConvTranspose2d, IntegerHyperSynthesis)
            names = ("weight", "bias", "shift", "medians", "thresholds")
        modules = [module for module in network.modules() if isinstance(module, kinds)] or [network]
        for _ in range(rng.randint(1, 3)):
            module = rng.choice(modules)
            present = [name for name in names if name in dict(module.named_buffers(recurse=False))]
            for name in rng.sample(present, rng.randint(min(1, len(present)), len(present))):
                setattr(module, name, _spoilt(getattr(module, name), rng))
    elif kind == "weights":
        parameters = dict(network.named_parameters())
        for name in rng.sample(sorted(parameters), rng.randint(1, 4)):
            parameters[name].data = _spoilt(parameters[name].data, rng)
    network._in_step_with = network._parameters_digest()  # taken as they are
    for number, task in enumerate(network.tasks):
        network.fingerprints[number] = _bytes(network._fingerprint(task))
    state = {name: tensor.clone().contiguous() for name, tensor in network.state_dict().items()}
    if kind == "shapes":
        state = _reshaped(state, rng)
    return state, _odd_plan(plan, rng) if kind == "architecture" else plan


def _bytes(digest):
    import torch

    return torch.frombuffer(bytearray(digest), dtype=torch.uint8)


def _spoilt(tensor, rng):
    import torch

    tensor = tensor.clone()
    flat = tensor.view(-1)
    if tensor.is_floating_point():
        values = [float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e9, -1e9, 1e20, 0.0, 70.0]
    else:
        bounds = torch.iinfo(tensor.dtype)
        values = [0, 1, 2, 3, 65535, 65536, 65537, 1 << 20, 1 << 30, -1, -70000, bounds.max, bounds.min]
        values = [max(bounds.min, min(bounds.max, value)) for value in values]
    kind = rng.randrange(5)
    if kind == 0:
        flat.fill_(rng.choice(values))
    elif kind == 1:
        tensor = tensor.flip(rng.randrange(tensor.ndim)).contiguous()
    elif kind == 2 and not tensor.is_floating_point():
        high = min(rng.choice((4, 70000, 1 << 31)), torch.iinfo(tensor.dtype).max)
        tensor = torch.randint(
            0, high, tensor.shape, generator=torch.Generator().manual_seed(rng.getrandbits(30))
        )
        tensor = tensor.to(flat.dtype)
    else:
        for _ in range(rng.randint(1, 5)):
            flat[rng.randrange(len(flat))] = rng.choice(values)
    return tensor


def _reshaped(state, rng):
    import torch

    for name in rng.sample(sorted(state), rng.randint(1, 3)):
        tensor = state[name]
        kind = rng.randrange(7)
        if kind == 0:
            del state[name]
        elif kind == 1:
            state[name] = (
                tensor[: rng.randrange(len(tensor) + 1)].clone() if tensor.ndim else tensor[None].clone()
            )
        elif kind == 2:
            state[name] = tensor.reshape(-1).clone()
        elif kind == 3:
            state[name] = tensor.to(
                rng.choice((torch.float64, torch.int32, torch.int64, torch.bool, torch.uint8))
            )
        elif kind == 4:
            state[name] = torch.zeros(
                rng.choice(((0,), (1,), (2, 70000), (3, 3), (1, 1, 1, 1, 1))), dtype=tensor.dtype
            )
        elif kind == 5:
            state[name] = torch.cat((tensor, tensor)) if tensor.ndim else tensor[None].clone()
        else:
            state[f"{name}.more"] = tensor.clone()
    return state


def _odd_plan(plan, rng):
    """The architecture with some values that are none."""
    deep: list = []
    for _ in range(rng.choice((10, 300))):
        deep = [deep]
    values = (0, -1, 1, 7, 6000, 10**6, 10**9, 10**30, 1e308, -0.5, True, None, "x", [], {}, [1, 2], deep)
    plan = json.loads(json.dumps(plan))
    for _ in range(rng.randint(1, 3)):
        holder = plan
        while True:
            key = rng.choice(sorted(holder))
            if isinstance(holder[key], dict) and holder[key] and rng.random() < 0.7:
                holder = holder[key]
                continue
            holder[key] = rng.choice(values)
            break
    return rng.choice((plan, plan, plan, plan, plan, [plan], rng.choice(values)))


def _use_network(path, image):
    """Both widths' streams of a model, which must decode to what its networks give directly."""
    import torch

    from vcm.codecs import LearnedCodec, SlimmableFeatureCodec
    from vcm.nn.layers import pad_to_multiple
    from vcm.nn.slimmable import load_network

    network = load_network(path)
    codec = LearnedCodec(model=network)
    decoded = codec.decode(codec.encode(image))
    features = SlimmableFeatureCodec(model=network)
    given, size = features.decode(features.encode(image[None] / 255, SIZE))
    assert size == SIZE
    assert given.isfinite().all()
    with torch.inference_mode():
        padded = pad_to_multiple(image[None] / 255, network.stride)
        symbols = network.quantize(network.at_width("reconstruction")(padded), "reconstruction")
        y_hat = network.ungained(network.dequantize(symbols, "reconstruction"), "reconstruction")
        expected = network.decode(y_hat, "reconstruction")[0, :, : SIZE[0], : SIZE[1]]
    difference = (expected.clamp(0, 1) * 255).round().int() - decoded.int()
    return "same" if difference.abs().max() <= 1 else "silent"


def _forge_other(kind, path, image, rng):
    """A preprocessor or a proxy with odd weights, shapes or architecture."""
    import torch
    from safetensors.torch import save_file

    from vcm.nn.preprocessor import QuantizationAdaptiveNPP, load_preprocessor
    from vcm.nn.proxy import LearnedProxy, load_proxy

    torch.manual_seed(0)
    if kind == "preprocessor":
        network = QuantizationAdaptiveNPP((2, 3, 4, 5)).eval()
    else:
        network = LearnedProxy(channels=4, num_stages=2).eval()
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    plan = network.architecture()
    way = rng.randrange(4)
    if way == 0:
        for name in rng.sample(sorted(name for name in state if state[name].numel()), 2):
            state[name] = _spoilt(state[name], rng) if state[name].ndim else state[name]
    elif way == 1:
        state = _reshaped(state, rng)
    elif way == 2:
        plan = _odd_plan(plan, rng)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, {"vcm": json.dumps(plan)})
    if way == 3:
        path.write_bytes(spoilt_bytes(path.read_bytes(), rng))

    def use():
        x = image[None] / 255
        with torch.inference_mode():
            if kind == "preprocessor":
                assert load_preprocessor(path)(x, 1.0).isfinite().all()
            else:
                load_proxy(path)(x, 30)
        return "same"

    return use


_ZOO: dict = {}


def _forge_checkpoint(folder, image, rng):
    """A checkpoint of CompressAI's with odd tables, weights or shapes."""
    import torch
    from compressai.zoo.image import model_architectures

    from vcm.codecs import CompressAICodec

    architecture = rng.choice(("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean"))
    if architecture not in _ZOO:
        torch.manual_seed(0)
        network = model_architectures[architecture](8, 8).eval()
        network.update()
        _ZOO[architecture] = network.state_dict()
    state = {name: tensor.clone() for name, tensor in _ZOO[architecture].items()}
    tables = [
        name for name in state if name.endswith(("_quantized_cdf", "_cdf_length", "_offset", "scale_table"))
    ]
    way = rng.randrange(4)
    if way < 2:
        for name in rng.sample(tables if way else sorted(state), 2):
            state[name] = _spoilt(state[name], rng) if state[name].ndim else state[name]
    elif way == 2:
        state = _reshaped(state, rng)
    path = folder / "checkpoint.pth"
    torch.save(state, path)
    if way == 3:
        path.write_bytes(spoilt_bytes(path.read_bytes(), rng))

    def use():
        codec = CompressAICodec(architecture=architecture, checkpoint=path)
        decoded = codec.decode(codec.encode(image))
        assert decoded.shape == image.shape
        return "same"

    return use
