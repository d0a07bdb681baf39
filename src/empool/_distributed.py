"""Pooling of distributed tensors: each process pools its images, and draws for them what one process would draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor


def pool_locally(function: str, input: DTensor, dims: int, pool: Callable[[Tensor, int], Any]) -> Any:
    """Pool the images of this process.

    The processes' default generators must agree, as they must for PyTorch's own distributed random operators.

    Args:
        function: whose input it is.
        input: sharded by images, or replicated.
        dims: the number of spatial dimensions.
        pool: pools a plain tensor whose first image has this number.
    """
    placements, mesh = input.placements, input.device_mesh
    if input.dim() != dims + 2 or not all(p.is_replicate() or p.is_shard(0) for p in placements):
        raise ValueError(
            f"{function}: expected a batched DTensor that is replicated or sharded by images, Shard(0), "
            f"got {tuple(input.shape)} with {placements}; redistribute it"
        )
    first, images = 0, input.size(0)
    for dim, placement in enumerate(placements):
        if placement.is_shard(0):
            share = -(-images // mesh.size(dim))
            start = min(mesh.get_local_rank(dim) * share, images)
            first, images = first + start, min(share, images - start)
    outputs = pool(input.to_local(), first)

    def whole(local: Tensor) -> DTensor:
        like = local.new_empty((input.size(0), *local.shape[1:]), device="meta")
        stride = like.stride() if local.is_contiguous() else local.stride()
        return DTensor.from_local(local, mesh, placements, run_check=False, shape=like.shape, stride=stride)

    return whole(outputs) if isinstance(outputs, Tensor) else tuple(map(whole, outputs))
