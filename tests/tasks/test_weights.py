from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn

from vcm.errors import WeightsError
from vcm.nn.weights import state_sha256
from vcm.tasks.weights import load_weights


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def test_a_file_fills_the_network(network: nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pth")
    other = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    digest = load_weights(other, tmp_path / "w.pth", {})
    assert digest == hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    assert state_sha256(other.state_dict()) == state_sha256(network.state_dict())


def test_published_and_random_weights(network: nn.Module) -> None:
    other = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    random = load_weights(other, None, {})
    assert random == state_sha256(other.state_dict()) != state_sha256(network.state_dict())
    assert load_weights(other, "V1", {"V1": network.state_dict}) == state_sha256(network.state_dict())


def test_the_hash_sees_names_types_and_shapes() -> None:
    def digest(state: dict[str, Tensor]) -> str:
        module = nn.Module()
        for name, tensor in state.items():
            module.register_buffer(name, tensor)
        return state_sha256(module.state_dict())

    digests = {
        digest({"a": torch.zeros(4)}),
        digest({"b": torch.zeros(4)}),
        digest({"a": torch.zeros(2, 2)}),
        digest({"a": torch.zeros(4, dtype=torch.int32)}),
        digest({"a": torch.tensor([0.0, 0, 0, 1])}),
    }
    assert len(digests) == 5


def test_counters_of_batches_may_be_missing(network: nn.Module, tmp_path: Path) -> None:
    state = network.state_dict()
    del state["1.num_batches_tracked"]
    torch.save(state, tmp_path / "w.pth")
    load_weights(network, tmp_path / "w.pth", {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"0.weight": torch.zeros(5, 3, 1, 1)},
            r"size mismatch for 0.weight: .*\[5, 3, 1, 1\].*\[4, 3, 1, 1\]",
        ),
        ({"2.weight": torch.zeros(1)}, r"2\.weight is not in the network"),
        ({f"{i}.x": torch.zeros(1) for i in range(9)}, r"4\.x is not in the network; and 6 more"),
        ({"0.weight": None}, r"0\.weight is missing"),
    ],
)
def test_files_that_do_not_fit(
    network: nn.Module, change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    state = {**network.state_dict(), **change}
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=rf"w\.pth does not match the network: .*{message}"):
        load_weights(network, tmp_path / "w.pth", {})


def test_files_that_are_no_state_dicts(network: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("<!DOCTYPE html>")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "pickle").write_bytes(pickle.dumps(Path, protocol=2))
    torch.save(network.state_dict(), tmp_path / "whole")
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:1000])
    for name in ("text", "empty", "pickle", "cut"):
        with pytest.raises(WeightsError, match=r"not a file of tensors that torch\.load can read"):
            load_weights(network, tmp_path / name, {})
    torch.save([torch.zeros(1)], tmp_path / "list")
    with pytest.raises(WeightsError, match="does not contain a state dict"):
        load_weights(network, tmp_path / "list", {})


def test_names_that_lead_nowhere(network: nn.Module) -> None:
    def unreachable() -> dict[str, Tensor]:
        raise URLError("no route to host")

    with pytest.raises(WeightsError, match=r"existing file, one of V1, V2, or None; got 'V3'"):
        load_weights(network, "V3", {"V1": unreachable, "V2": unreachable})
    with pytest.raises(WeightsError, match=r"no route to host.*Download the file .* pass its path"):
        load_weights(network, "V1", {"V1": unreachable})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["0.weight", "1.running_mean"])
def test_weights_that_are_not_finite_are_refused(
    network: nn.Module, name: str, value: float, tmp_path: Path
) -> None:
    state = network.state_dict()
    state[name].view(-1)[-1] = value
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=f"{name} must be finite numbers"):
        load_weights(network, tmp_path / "w.pth", {})
    with pytest.raises(WeightsError, match=f"{name} must be finite numbers"):
        load_weights(network, "V1", {"V1": lambda: state})


def test_what_is_no_regular_file_is_refused(network: nn.Module, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(20 << 30)
    for path, message in (
        (tmp_path / "fifo", "it is a FIFO"),
        (Path("/dev/zero"), "it is a character device"),
        (tmp_path, "it is a folder"),
        (tmp_path / "sparse", "more than the limit"),
    ):
        with pytest.raises(WeightsError, match=message):
            load_weights(network, path, {})


def test_a_packed_file_cannot_unpack_to_more_than_it_has(network: nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pth")
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as source,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for info in source.infolist():
            target.writestr(info.filename, source.read(info))
        target.writestr("w/data/99", bytes(1 << 24))
    with pytest.raises(WeightsError, match="at most the file's"):
        load_weights(network, tmp_path / "bomb.pth", {})
