"""Helpers for distributed training."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader, DistributedSampler


def average_over_processes(gradients: list[Tensor]) -> None:
    """Average gradients over all processes in place, in one message."""
    if not gradients or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def is_repeated(loader: object, batch_index: int, place: int) -> bool:
    """Return whether an image is a repetition, which fills up the last batch of a process.

    Args:
        loader: The dataloader of this process.
        batch_index: Index of the batch.
        place: Index of the image in the batch.
    """
    if not isinstance(loader, DataLoader) or not isinstance(loader.sampler, DistributedSampler):
        return False
    sampler: DistributedSampler[object] = loader.sampler
    number = batch_index * (loader.batch_size or 1) + place
    return number * sampler.num_replicas + sampler.rank >= len(sampler.dataset)  # type: ignore[arg-type]  # sized


class RandomState(TypedDict):
    """States of torch's random generators.

    Attributes:
        cpu: State of the CPU generator.
        cuda: States of the CUDA generators; empty without CUDA.
    """

    cpu: Tensor
    cuda: list[Tensor]


def random_state() -> RandomState:
    """Return the current states."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: RandomState) -> None:
    """Restore states; those of CUDA devices only if their number is the same."""
    torch.set_rng_state(state["cpu"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])
