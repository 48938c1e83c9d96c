"""Memory allocator settings for training on a CPU."""

from __future__ import annotations

import ctypes
import sys

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
