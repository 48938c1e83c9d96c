"""Load weights from a file or from the library that publishes them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vcm.errors import ArgumentError, WeightsError
from vcm.files import MAX_WEIGHTS_BYTES, open_regular, printable, stream_sha256
from vcm.nn.weights import check_values, load_tensors, state_sha256

Published = Mapping[str, Callable[[], Mapping[str, Tensor]]]
"""Names of published weights, with functions that download their state dicts."""

_SHOWN = 3


def torchvision_weights(builder: str) -> Published:
    """Return the published weights of a torchvision model, by the names of their enum."""
    from torchvision.models import get_model_weights

    def getter(member: Any) -> Callable[[], Mapping[str, Tensor]]:  # noqa: ANN401  # torchvision is untyped
        return partial(member.get_state_dict, progress=False, check_hash=True, weights_only=True)

    return {member.name: getter(member) for member in get_model_weights(builder)}


def load_weights(network: nn.Module, weights: str | Path | None, published: Published) -> str:
    """Load weights into a network, and return the SHA-256 of the file, or of the state dict if there is none.

    Args:
        network: Network to load the weights into.
        weights: File with a state dict, name of published weights, or None to leave the network unchanged.
        published: Published weights by name.

    Raises:
        WeightsError: If there is no such file or name, or the weights cannot be downloaded or read, or do not
            match the network; the message lists the first mismatches.
    """
    if weights is None:
        return state_sha256(network.state_dict())
    if str(weights) not in published and not Path(weights).exists():
        raise WeightsError(
            f"weights must be an existing file, one of {', '.join(published)}, or None; got {str(weights)!r}."
        )
    if Path(weights).exists():
        state, sha256 = _read(Path(weights))
        _fill(network, state, str(weights))
        return sha256
    try:
        state = published[str(weights)]()
    except OSError as error:  # includes URLError
        raise WeightsError(
            f"Weights {weights} could not be downloaded: {error}. Download the file from its publisher and "
            f"pass its path as weights."
        ) from error
    _fill(network, state, str(weights))
    return state_sha256(network.state_dict())


def _read(path: Path) -> tuple[Mapping[str, Tensor], str]:
    """Read a file's state dict and its SHA-256."""
    try:
        with open_regular(path, limit=MAX_WEIGHTS_BYTES) as file:
            sha256 = stream_sha256(file)
            state = load_tensors(file)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (
            (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        )
        reason = printable(reason.splitlines()[0])
        raise WeightsError(f"{path} is not a file of tensors that torch.load can read: {reason}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(
            f"{path} does not contain a state dict (tensors by name). Save one with "
            f"torch.save(network.state_dict(), path)."
        )
    return state, sha256


def _fill(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    try:
        result = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise WeightsError(f"{source} does not match the network: {_some(lines)}.") from error
    problems = [f"{name} is missing" for name in result.missing_keys if not _is_counter(name)]
    problems += [f"{name} is not in the network" for name in result.unexpected_keys if not _is_counter(name)]
    if problems:
        raise WeightsError(f"{source} does not match the network: {_some(problems)}.")
    try:
        check_values(network.state_dict())
    except ArgumentError as error:
        raise WeightsError(f"{source} does not contain weights of a trained network: {error}") from error


def _is_counter(name: str) -> bool:
    """Return whether a name is a normalization layer's batch counter, which is unused here."""
    return name.endswith("num_batches_tracked")


def _some(problems: list[str]) -> str:
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return "; ".join(problem.rstrip(".") for problem in problems[:_SHOWN]) + more
