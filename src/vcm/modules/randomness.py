"""Random states in checkpoints."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor


class RandomState(TypedDict):
    """What torch draws next.

    Attributes:
        cpu: State of the CPU's generator.
        cuda: States of the CUDA devices' generators; empty without any.
    """

    cpu: Tensor
    cuda: list[Tensor]


def random_state() -> RandomState:
    """The generators' states now."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: RandomState) -> None:
    """Set the generators back; those of devices that are not there are left out."""
    torch.set_rng_state(state["cpu"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])
