"""Freed memory is kept for the next step, where the C library is glibc and nobody has told it otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

memory = pytest.importorskip("empool.lab.train.device", reason="needs the lab")

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

# Two blocks of 48 MiB, taken and freed ten times: 24,576 pages each time, if none is kept.
# After a few rounds, all fits into what is kept.
FAULTS = """
import resource
import torch
from empool.lab.train import device as memory

said = memory.keep_freed()
for _ in range(8):
    [torch.ones(12 << 20) for _ in range(2)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    [torch.ones(12 << 20) for _ in range(2)]
print(said, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def measure(**environment: str) -> tuple[str, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FAULTS]
    out = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=True, timeout=120)
    said, faults = out.stdout.split()
    return said, int(faults)


def test_what_is_freed_is_kept_but_for_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    said, kept = measure()
    assert said == "True"
    said, given_back = measure(MALLOC_MMAP_THRESHOLD_="65536")
    assert said == "False"
    # Huge pages make fewer faults, but ten rounds of them either way.
    assert kept < given_back / 5
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=65536")
    assert memory.keep_freed.__wrapped__() is False
