"""How a measuring process gets its memory: with glibc's defaults every large block is mapped and unmapped anew."""

from __future__ import annotations

import os
import sys

from empool.bench import cases

REUSE = {
    "GLIBC_TUNABLES": ":".join(
        (
            "glibc.malloc.mmap_max=0",  # Large blocks come from the heap too,
            f"glibc.malloc.trim_threshold={1 << 40}",  # which is never given back to the system
            f"glibc.malloc.top_pad={64 << 20}",  # and grows by much at a time;
            "glibc.malloc.tcache_count=0",  # and no small block waits in a cache between two large ones to be joined.
        )
    )
}
"""Environment in which glibc reuses large blocks from the second time on. It is read when a process starts."""

_OTHERS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


def environment(memory: str) -> dict[str, str]:
    """Return the environment of a process whose large blocks are `REUSED` or come as they do by default."""
    inherited = {name: value for name, value in os.environ.items() if name not in (*REUSE, *_OTHERS)}
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return inherited | paths | (REUSE if memory == cases.REUSED else {})
