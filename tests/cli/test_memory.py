"""Memory that a training process keeps."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from vcm.cli.devices import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(16 << 20)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

mapped = faults()
assert keep_freed_memory()
faults()  # the heap grows once
print(faults() / mapped)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_large_tensors_are_not_mapped_anew_each_time() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.1
