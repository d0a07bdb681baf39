"""What Triton's own launcher, in C, hands to CUDA: a CUDA that only writes it down stands in for the real one."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

DRIVER = """
struct config { unsigned grid[3], block[3], shared; void *stream, *attributes; unsigned number; };
unsigned long long launched[64], launches, parameters;
int cuLaunchKernelEx(struct config *c, void *function, void **values, void **extra) {
  unsigned long long told[] = {c->grid[0], c->grid[1], c->grid[2], c->block[0], c->block[1], c->block[2],
    c->shared, (unsigned long long)c->stream, c->number, (unsigned long long)function};
  for (int i = 0; i < 10; i++) launched[i] = told[i];
  for (unsigned i = 0; i < parameters; i++) __builtin_memcpy(launched + 10 + i, values[i], 8);
  launches++;
  return 0;
}
int cuCtxGetCurrent(void **context) { *context = &launches; return 0; }
int cuModuleGetFunction(char **function) { static char many[99], *next = many; *function = next++; return 0; }
int cuFuncGetAttribute(int *value) { *value = 1024; return 0; }
int cuDeviceGetAttribute(int *value) { *value = 101376; return 0; }
int cuPointerGetAttribute(void **to, int what, void *pointer) { *to = pointer; return 0; }
"""
STREAM = 0x5000


def _is_testable() -> bool:
    try:
        from empool._triton._plan import HAS_KNOWN_LAUNCHER
    except ImportError:
        return False
    tools = shutil.which("gcc") and Path(sysconfig.get_path("include"), "Python.h").exists()
    return bool(HAS_KNOWN_LAUNCHER and tools and sys.platform == "linux" and not torch.cuda.is_available())


@pytest.mark.skipif(not _is_testable(), reason="needs a Triton whose launcher is known, a C compiler, and no GPU")
def test_launcher(tmp_path: Path) -> None:
    """The grid, the stream and every argument, when Triton starts a kernel, and after it when we do."""
    import triton

    backend = Path(triton.__file__).parent / "backends/nvidia"
    text = "".join((backend / name).read_text() for name in ("driver.c", "driver.py"))
    rest = set(re.findall(r"\bcu[A-Z]\w+(?=\()", text)) - set(re.findall(r"\bcu[A-Z]\w+", DRIVER))
    source = DRIVER + "".join(f"int {name}(void) {{ return 0; }}\n" for name in sorted(rest))
    command = ["gcc", "-x", "c", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", "libcuda.so.1", "-"]
    subprocess.run(command, input=source, text=True, check=True, cwd=tmp_path)
    (tmp_path / "libcuda.so").symlink_to("libcuda.so.1")
    environment = os.environ | {"TRITON_LIBCUDA_PATH": str(tmp_path), "LD_LIBRARY_PATH": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def main() -> None:
    """Call operators on a CPU's memory; in a process of its own, as what stands for CUDA stays loaded."""
    cuda = ctypes.CDLL("libcuda.so.1")
    for name, known in (("_cuda_getCurrentRawStream", lambda device: STREAM), ("_cuda_getDevice", lambda: 0)):
        setattr(torch._C, name, known)
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_capability = lambda device=None: (9, 0)  # type: ignore[assignment]
    import triton
    from triton.backends.nvidia.driver import CudaDriver

    driver = CudaDriver()
    driver.get_current_device = lambda: 0
    driver.get_current_stream = lambda device: STREAM
    driver.get_device_capability = lambda device=None: (9, 0)
    triton.runtime.driver._active = driver
    from empool._triton import _operators, _plan

    def launch(kernel: Any, plan: Any, *tensors: torch.Tensor) -> None:
        compiled = kernel.warmup(*tensors, grid=(1,), **plan.arguments)
        kinds = {name: kind for name, kind in compiled.src.signature.items() if kind != "constexpr"}
        ctypes.c_ulonglong.in_dll(cuda, "parameters").value = len(kinds) + 2
        given = dict(zip(kernel.arg_names, [tensor.data_ptr() for tensor in tensors], strict=False)) | plan.arguments
        bits = {name: (1 << 32 if kind == "i32" else 1 << 64) - 1 for name, kind in kinds.items()}
        for turn in range(1, 4):
            _plan._start(kernel, plan, tensors, 0)
            assert ctypes.c_ulonglong.in_dll(cuda, "launches").value == before.launches + turn
            told = list((ctypes.c_ulonglong * 64).in_dll(cuda, "launched"))
            threads, shared = 32 * plan.arguments["num_warps"], compiled.metadata.shared
            assert told[:10] == [plan.programs, 1, 1, threads, 1, 1, shared, STREAM, 0, compiled.function]
            for place, (name, mask) in enumerate(bits.items(), 10):
                assert told[place] & mask == given[name] & mask, (kernel.__name__, name)
            assert told[10 + len(kinds) :][:2] == [0, 0]  # No memory beside.
        before.launches += 3
        aligned = not any(tensor.data_ptr() % 16 for tensor in tensors)
        assert bool(plan.started) == aligned
        before.aligned.add(aligned)

    before = SimpleNamespace(launches=0, aligned=set())
    _operators.launch = launch
    input = torch.zeros(1 + 2 * 3 * 14 * 14, dtype=torch.bfloat16)
    geometry = [2, 2], [2, 2], [0, 0], [1, 1], []
    for begin in (1, 0):  # Where Triton compiles for an address that is no multiple of 16, and then for one that is.
        pooled = input[begin : begin + 2 * 3 * 14 * 14].view(2, 3, 14, 14)
        _operators.rank_mean(pooled, torch.ones(1, 1, 2, dtype=torch.float64), (4,), *geometry, False)
    drawn = torch.zeros(2, 3, 7, 7, dtype=torch.uint8)
    _operators.drawn_scatter(pooled[..., ::2, ::2], drawn, (14, 14), *geometry)
    assert before.aligned == {False, True}


if __name__ == "__main__":
    main()
