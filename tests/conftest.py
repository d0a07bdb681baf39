"""What every test runs under."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import os
import signal
import sys
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest
import torch

M_PERTURB, BYTE = -6, 0x100
"""Of glibc's `mallopt`: every byte of new memory becomes the complement of BYTE's lowest, 255, unless BYTE is 0."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # As in what a shell starts in the background, or nohup.
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile(
    "fixed", derandomize=True, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.register_profile("search", parent=hypothesis.settings.get_profile("fixed"), derandomize=False)
hypothesis.settings.load_profile(os.environ.get("EMPOOL_HYPOTHESIS", "fixed"))


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what stays until the end; a tenth of the suite's time went there."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Fix what is random, so that a test of frequencies gives no false alarm in one run and none in the next."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _global_flags_can_be_set() -> None:
    """Undo what importing PyTorch's own test cases does: it forbids the flags that Lightning sets."""
    torch.backends.disable_global_flags.__globals__["__allow_nonbracketed_mutation_flag"] = True


@pytest.fixture(scope="session", autouse=True)
def filled_memory() -> bool:
    """Fill new memory with NaN, and integers with -1, where the C library can: an output that no kernel wrote shows.

    PyTorch's own filling is not for tensors that are made by way of its stable C interface.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return hasattr(library, "mallopt") and bool(library.mallopt(M_PERTURB, BYTE))


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    """Import torchvision, of the environment or beside it (see the Makefile), and timm, which imports torchvision.

    The path is taken away again, so that processes that a test starts do not find what they cannot import.
    """
    beside = str(Path(sys.prefix) / "imagenet")
    sys.path.append(beside)
    try:
        found = _torchvision()
        with contextlib.suppress(ImportError):
            importlib.import_module("timm")
    finally:
        sys.path.remove(beside)
    return found


def _torchvision() -> ModuleType:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    try:
        import torchvision
    except RuntimeError:
        # A build for a PyTorch with CUDA does not bring its operators to one without; its import asks for these two.
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]
        import torchvision
    return torchvision


@pytest.fixture(scope="session")
def timm(torchvision: ModuleType) -> ModuleType:
    """Give timm."""
    module: ModuleType = pytest.importorskip("timm")
    return module
