"""Memory that is freed stays the process's own: a step frees and takes the same large blocks as the one before it."""

from __future__ import annotations

import ctypes
import functools
import os
import platform

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


@functools.cache
def keep_freed() -> bool:
    """Let glibc keep what is freed for this process, from now on, and return whether it does.

    By default it gives large blocks back to the system at once, which has to clear every page of them when they are
    taken again: a sixth to a quarter of the processor's time in training the plain CNN. A process may grow by what does
    not fit where something was freed. What an environment variable of glibc's says about this is left as it is, and
    other C libraries are not asked.
    """
    told = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(
        name.startswith("MALLOC_") for name in os.environ
    )
    if told or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Blocks of any size come from the heap, whose free end stays.
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
