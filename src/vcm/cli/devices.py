"""Device selection."""

from __future__ import annotations

import ctypes
import sys

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


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""Parameters of glibc's `mallopt`, from malloc.h."""
_LARGEST = 2**31 - 1
_PAD_BYTES = 1 << 28


def keep_freed_memory() -> bool:
    """Make glibc allocate large tensors on the heap and keep freed memory, for the rest of this process.

    By default, glibc maps each large tensor and unmaps it when it is freed, so that a training step on a CPU
    spends much of its time on page faults. The process never returns the memory that it once used.

    Returns:
        Whether the settings were applied; False if the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST), (_TOP_PAD, _PAD_BYTES))
    return [mallopt(name, value) for name, value in settings] == [1] * len(settings)
