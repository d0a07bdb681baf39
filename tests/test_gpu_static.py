"""The kernels have about as many instructions as the committed table says: a slower one shows without a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

if importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton does not compile here", allow_module_level=True)

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles there alone"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="compiles without a GPU"),
]


@pytest.fixture(scope="module")
def model() -> Any:
    """Give benchmarks/gpu_static.py."""
    spec = importlib.util.spec_from_file_location("gpu_static", ROOT / "benchmarks/gpu_static.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_static"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("draw ensemble 256x64x56x56 3x3/2 bf16", 2),
        ("draw ensemble 256x256x14x14 3x3/2 bf16 NCHW", 1),
        ("draw max-dropout 256x64x56x56 3x3/2 bf16 NHWC", 1),
        ("scatter 256x64x56x56 3x3/2 bf16 NHWC", 1),
        ("scatter 256x256x14x14 3x3/2 bf16 NCHW", 1),
        ("mean ensemble 256x64x56x56 3x3/2 bf16 NCHW", 1),
        ("mean soft 256x64x56x56 3x3/2 bf16 NHWC", 1),
        ("backward ensemble 256x64x56x56 3x3/2 bf16 NCHW", 1),
        ("weights learned 256x64x56x56 3x3/2 bf16 NHWC", 1),
    ],
)
def test_instructions(words: str, number: int, model: Any) -> None:
    committed = json.loads((ROOT / "results/gpu-static/kernels.json").read_text())
    versions = model.versions()
    if any(committed["versions"][tool] != versions[tool] for tool in ("triton", "ptxas")):
        pytest.skip("another compiler made the table")
    found = list(model.kernels(words.split()))
    assert len(found) == number
    for kernel in found:
        case = (kernel.kernel, list(kernel.shape), kernel.window, kernel.dtype, kernel.layout)
        (row,) = (
            row
            for row in committed["kernels"]
            if (row["kernel"], row["shape"], row["window"], row["dtype"], row["layout"]) == case
        )
        for count in ("instructions", "alu"):
            assert abs(getattr(kernel, count) / row[count] - 1) < 0.1, (case, count)
        assert kernel.spills <= row["spills"]
