"""Time the Triton kernels alone, with several tile shapes, beside max-pooling and a copy: for choosing `_plan._tile`.

    python benchmarks/gpu_timing.py [--tiles] [--json FILE]

Calls are replayed from a CUDA graph, so that launching costs nothing; medians of replays that take turns. "of copy" is
the share of a large copy's bandwidth, had every tensor moved once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import empool
from empool import _window
from empool._triton import _operators, _plan
from empool._window import Geometry

SHAPES = ((256, 64, 56, 56), (256, 256, 14, 14), (64, 64, 112, 112))
WINDOWS = {"2x2/2": (2, 2, 0), "3x3/2": (3, 2, 1)}
DTYPES = (torch.float32, torch.bfloat16)
TILES = {
    False: ((128, 1, 4), (64, 1, 2), (256, 1, 4), (256, 1, 8)),
    True: tuple(itertools.product((256, 512, 1024, 2048), (None,), (2, 4, 8))),
}
"""Contiguous: rows, 1, warps. Channels last: elements of a tile, None, warps."""
Call = Callable[[], Any]


def main() -> None:
    """Print a line for every case, and one for every tile if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", action="store_true", help="try other tile shapes too")
    parser.add_argument("--json", help="write all results to this file")
    arguments = parser.parse_args()
    copy = _copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {copy / 1e12:.2f} TB/s")
    results: list[dict[str, Any]] = []
    for shape, (window, sizes), dtype, channels_last in itertools.product(
        SHAPES, WINDOWS.items(), DTYPES, (False, True)
    ):
        case = {"shape": shape, "window": window, "dtype": str(dtype)[6:], "channels_last": channels_last}
        results.append(case | _case(shape, sizes, dtype, channels_last, copy))
        _print(results[-1])
        if arguments.tiles:
            results += _tiles(case, shape, sizes, dtype, channels_last, copy)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"device": torch.cuda.get_device_name(), "copy": copy, "results": results}, file, indent=1)


def _copy_bandwidth() -> float:
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    (seconds,) = _medians([lambda: target.copy_(source)])
    return 2 * source.numel() * source.element_size() / seconds


def _calls(
    shape: tuple[int, ...], sizes: tuple[int, int, int], dtype: torch.dtype, channels_last: bool
) -> tuple[Call, Call, Call, Call, int, int]:
    """Return our draw and scatter, PyTorch's forward and backward, and the bytes that each of ours must move."""
    kernel, stride, padding = sizes
    geometry = Geometry([kernel] * 2, [stride] * 2, [padding] * 2, [1, 1])
    counts = geometry.possible_counts()
    thresholds = empool.EnsembleMax(0.1).threshold_table(counts)
    input = _window.dense(torch.randn(shape, device="cuda").to(dtype), channels_last)
    seed = torch.tensor(11, device="cuda")
    output, drawn = _operators.rank_draw(input, seed, counts, thresholds, *geometry)
    grad_output = torch.randn_like(output)
    _, indices = F.max_pool2d(input, kernel, stride, padding, return_indices=True)

    def draw() -> tuple[Tensor, Tensor]:
        return _operators.rank_draw(input, seed, counts, thresholds, *geometry)

    def scatter() -> Tensor:
        return _operators.drawn_scatter(grad_output, drawn, list(shape[2:]), *geometry[:4])

    def forward() -> Any:
        return torch.ops.aten.max_pool2d_with_indices(input, *geometry[:4])

    def backward() -> Tensor:
        return torch.ops.aten.max_pool2d_with_indices_backward(grad_output, input, *geometry, indices)

    moved = input.nbytes + output.nbytes + drawn.nbytes
    return draw, scatter, forward, backward, moved, moved


def _case(
    shape: tuple[int, ...], sizes: tuple[int, int, int], dtype: torch.dtype, channels_last: bool, copy: float
) -> dict[str, Any]:
    draw, scatter, forward, backward, draw_bytes, scatter_bytes = _calls(shape, sizes, dtype, channels_last)
    seconds = _medians([draw, scatter, forward, backward])
    return {
        "seconds": seconds,
        "ratio": (seconds[0] + seconds[1]) / (seconds[2] + seconds[3]),
        "of_copy": (draw_bytes / seconds[0] / copy, scatter_bytes / seconds[1] / copy),
    }


def _tiles(
    case: dict[str, Any],
    shape: tuple[int, ...],
    sizes: tuple[int, int, int],
    dtype: torch.dtype,
    channels_last: bool,
    copy: float,
) -> list[dict[str, Any]]:
    usual, results = _plan._tile, []
    for size, _, warps in TILES[channels_last]:
        channels = usual(_plan.Windows(*shape[:2], (1, 1, 1), (1, 1, 1), (), channels_last, dtype.itemsize))[1]
        tile = (max(size // channels, 1), channels, warps)
        _set_tile(lambda _, tile=tile: tile)
        draw, scatter, _, _, draw_bytes, scatter_bytes = _calls(shape, sizes, dtype, channels_last)
        seconds = _medians([draw, scatter], replays=9)
        of_copy = (draw_bytes / seconds[0] / copy, scatter_bytes / seconds[1] / copy)
        results.append(case | {"tile": tile, "seconds": seconds, "of_copy": of_copy})
        _print(results[-1])
    _set_tile(usual)
    return results


def _set_tile(tile: Any) -> None:
    _plan._tile = tile
    _plan.output_plan.cache_clear()
    _plan.input_plan.cache_clear()


def _medians(calls: list[Call], replays: int = 21) -> list[float]:
    """Return each call's seconds: graphs of several calls, replayed by turns."""
    graphs = []
    for call in calls:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(4):
                call()
        graphs.append(graph)
    samples: list[list[float]] = [[] for _ in graphs]
    for _ in range(replays):
        for graph, sample in zip(graphs, samples, strict=True):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            sample.append(start.elapsed_time(end) / 4e3)
    return [statistics.median(sample[2:]) for sample in samples]


def _print(result: dict[str, Any]) -> None:
    shape = "x".join(map(str, result["shape"]))
    layout = "channels last" if result["channels_last"] else "contiguous"
    times = " ".join(f"{1e6 * s:7.1f}" for s in result["seconds"])
    shares = " ".join(f"{share:4.0%}" for share in result["of_copy"])
    last = f"step / max {result['ratio']:.2f}" if "ratio" in result else f"  tile {result['tile']}"
    print(
        f"{shape:14} {result['window']} {result['dtype']:8} {layout:13} us {times}  of copy {shares}  {last}",
        flush=True,
    )


if __name__ == "__main__":
    main()
