"""Helpers for distributed training."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader, DistributedSampler


def average_over_processes(gradients: list[Tensor]) -> None:
    """Replace gradients by their means over all processes, in one message; nothing without several."""
    if not gradients or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def is_repeated(loader: object, batch_index: int, place: int) -> bool:
    """Whether a process got an image only so that all have equally many: another one has it already.

    Args:
        loader: Lightning's for this process; any other than a DataLoader repeats nothing.
        batch_index: Which of its batches.
        place: Which of the batch's images.
    """
    if not isinstance(loader, DataLoader) or not isinstance(loader.sampler, DistributedSampler):
        return False
    sampler: DistributedSampler[object] = loader.sampler
    number = batch_index * (loader.batch_size or 1) + place
    return number * sampler.num_replicas + sampler.rank >= len(sampler.dataset)  # type: ignore[arg-type]  # sized
