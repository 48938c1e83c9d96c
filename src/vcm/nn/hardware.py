"""CPU capabilities. Importing this does not import torch."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_BF16_FLAGS = frozenset(("avx512_bf16", "amx_bf16", "bf16"))
"""Names in /proc/cpuinfo: x86's two, and Arm's."""


@cache
def cpu_has_bf16() -> bool:
    """Return whether the CPU has bfloat16 instructions; False if unknown."""
    return bool(_BF16_FLAGS & _cpu_flags())


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(flags, []))
