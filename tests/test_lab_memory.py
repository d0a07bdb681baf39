"""Freed memory is kept for the next step, where the C library is glibc and nobody has told it otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytest.importorskip("empool.lab.train.device", reason="needs the lab")

# Two blocks of 48 MiB, taken and freed ten times: 24,576 pages each time, if none is kept.
# After a few rounds, all fits into what is kept.
FAULTS = """
import resource
import torch
from empool.lab.train import device

device.keep_freed()
for _ in range(8):
    [torch.ones(12 << 20) for _ in range(2)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    [torch.ones(12 << 20) for _ in range(2)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_is_freed_is_kept_but_for_what_the_environment_says() -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    told = {**clean, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", FAULTS]
    kept, given_back = (int(subprocess.check_output(command, env=env, timeout=120)) for env in (clean, told))
    # Huge pages make fewer faults, but ten rounds of them either way.
    assert kept < given_back / 5
