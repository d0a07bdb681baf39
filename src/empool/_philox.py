"""Philox4x32-7: the uniform 32-bit number of every output, the same on every device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ROUNDS = 7  # The fewest that pass BigCrush (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF


def _multiply(constant: int, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the high and the low word of a 32 by 32 bit product.

    An int64 product wraps, but its 64 bits are the right ones; the masks take the words out of them.
    """
    product = value * constant
    return (product >> 32) & MASK, product & MASK


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Map a counter of four words to four random words; every word is an int64 tensor with values below 2^32."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _multiply(MULTIPLIERS[0], c0)
        high1, low1 = _multiply(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + KEY_STEPS[0]) & MASK, (k1 + KEY_STEPS[1]) & MASK
    return c0, c1, c2, c3


def uniform32(seed: Tensor, shape: Sequence[int], tied: int = 0, first_image: int = 0) -> Tensor:
    """Return the 32-bit number of every output, as int64; broadcast to outputs of shape ``(N, C, *output)``.

    The number of output (n, c, od, oh, ow) is lane ``ow & 3`` of the block with counter
    ``(ow >> 2, od * OH + oh, c, n)`` under the seed's low and high words. Where `seed` holds several seeds,
    each one serves an equal share of the images, and n counts within the share, from `first_image`.

    Args:
        seed: one or several.
        shape: that of the outputs.
        tied: what shares a number: 0 nothing, 1 all channels (c is 0), 2 all positions of a map (the first two words
            and the lane are 0), 3 both.
        first_image: the number of images before these.
    """
    images, channels, *output = shape
    if tied & 1:
        channels = 1
    if tied & 2:
        output = [1] * len(output)
    width, height = output[-1], (1 if len(output) == 1 else output[-2])
    rows = height * (output[0] if len(output) == 3 else 1)
    seeds = seed.reshape(-1)
    share = images // max(seeds.numel(), 1)

    def along(size: int, dim: int, first: int = 0) -> Tensor:
        return torch.arange(first, first + size, device=seed.device).reshape([-1 if i == dim else 1 for i in range(5)])

    counter = (along(-(-width // 4), 4), along(rows, 3), along(channels, 2), along(share, 1, first_image))
    key = (seeds & MASK, (seeds >> 32) & MASK)
    lanes = philox4x32(counter, (key[0].reshape(-1, 1, 1, 1, 1), key[1].reshape(-1, 1, 1, 1, 1)))
    numbers = torch.stack(torch.broadcast_tensors(*lanes), dim=-1)  # (S, N/S, C, rows, blocks, 4)
    return numbers.flatten(-2)[..., :width].reshape(images, channels, *output)
