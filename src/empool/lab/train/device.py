"""Where and how a run is computed: device, memory, algorithms that repeat, compilation."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

import torch

from empool.lab.errors import LabError, first_line
from empool.lab.study.run import RunConfig

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of glibc's mallopt (malloc.h)


def device_named(device: str) -> str:
    """Choose "cpu" or "cuda" on this machine, which "auto" stands for; refuse "cuda" where there is none."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise LabError("no CUDA device: use --device cpu")
    return ("cuda" if available else "cpu") if device == "auto" else device


def keep_freed() -> None:
    """Let glibc keep what is freed for this process, unless the environment says how it is to do that.

    By default it gives large blocks back to the system at once, which has to clear every page of them when the next
    step takes them again: a sixth to a quarter of the processor's time in training the plain CNN.
    """
    if not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        with suppress(AttributeError, OSError, TypeError):  # Other C libraries have no such function.
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_MMAP_MAX, 0)  # Blocks of any size come from the heap,
            mallopt(_TRIM_THRESHOLD, 2**31 - 1)  # whose free end stays.


@contextmanager
def computing(config: RunConfig) -> Iterator[None]:
    """Choose algorithms as a run wants them, and say in a line what PyTorch says in many, to the end of the context."""
    before, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    if config.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # Read when CUDA starts.
        torch.use_deterministic_algorithms(True)
    if config.device == "cuda":
        torch.backends.cudnn.benchmark = not config.deterministic
    try:
        with _compiled_whole() if config.compile else nullcontext():
            yield
    except Exception as error:
        if (refused := _refusal(error)) is None:
            raise
        raise LabError(refused) from error
    finally:
        torch.set_deterministic_debug_mode(before)
        torch.backends.cudnn.benchmark = benchmark


def _refusal(error: Exception) -> str | None:
    said = first_line(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}  # Importing them takes a second.
    if "does not have a deterministic implementation" in said:
        return f"--deterministic: on this device {said.partition(',')[0]}: leave --deterministic out"
    if said.startswith("DataLoader worker"):
        died = f"a process that loads images died, often for want of memory ({said})"
        return f"{died}: start again, and the run goes on from its last whole epoch"
    if kinds & {"TorchDynamoException", "FailOnRecompileLimitHit"}:
        needs = "on the CPU it needs a C++ compiler, on a GPU Triton"
        return f"--compile: PyTorch cannot compile this network here ({said}); {needs}. Leave --compile out"
    return None


@contextmanager
def _compiled_whole() -> Iterator[None]:
    """Forget what was compiled before, and let no part of a network silently be left uncompiled.

    PyTorch keeps a few compiled versions of a function and runs it as it is when it would need more; every network of
    a kind, whatever its pooling, is another version of the same function.
    """
    from torch._dynamo import config

    torch.compiler.reset()
    with config.patch(fail_on_recompile_limit_hit=True):
        yield
