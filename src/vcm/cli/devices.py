"""Device selection."""

from __future__ import annotations

import torch

from vcm.errors import ArgumentError


def use_one_thread(device: str) -> None:
    """Have torch compute on one thread, where networks run on the CPU.

    So results do not depend on the number of cores; and a search's many small operations wait for threads
    longer than they work.
    """
    if choose_device(device).type == "cpu":
        torch.set_num_threads(1)


def choose_device(name: str) -> torch.device:
    """The torch device of that name.

    Raises:
        ArgumentError: If there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError(f"vcm is not made for {device.type}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ArgumentError(
            "device",
            expected=f"auto, cpu, or a CUDA device of this machine, which has {torch.cuda.device_count()}",
            got=name,
        ) from error
    return device
