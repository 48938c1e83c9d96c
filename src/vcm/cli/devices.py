"""Device selection."""

from __future__ import annotations

import torch

from vcm.errors import ArgumentError


def use_one_thread(device: str) -> None:
    """Limit torch to one thread if the networks run on the CPU.

    Results then do not depend on the number of cores. The encoder-side search is also faster: its many small
    operations would spend more time synchronizing threads than computing.
    """
    if choose_device(device).type == "cpu":
        torch.set_num_threads(1)


def choose_device(name: str) -> torch.device:
    """Return the torch device of a name; "auto" is CUDA if available, else the CPU.

    Raises:
        ArgumentError: If this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError(f"vcm does not support {device.type}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ArgumentError(
            "device",
            expected=f"auto, cpu or a CUDA device of this machine, which has {torch.cuda.device_count()}",
            got=name,
        ) from error
    return device
