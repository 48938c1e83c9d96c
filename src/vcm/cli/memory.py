"""Memory allocator settings."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""glibc's names for what `mallopt` sets, from its malloc.h."""
_LARGEST = 2**31 - 1
_PAD_BYTES = 1 << 28


def keep_freed_memory() -> bool:
    """Have large tensors taken from the heap, and freed memory kept, for the rest of this process.

    glibc maps each large tensor and unmaps it when it is freed, so that a training step on a CPU
    spends much of its time on page faults. What a process once held it then keeps.

    Returns:
        Whether there was something to set: False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST), (_TOP_PAD, _PAD_BYTES))
    return [mallopt(name, value) for name, value in settings] == [1] * len(settings)
