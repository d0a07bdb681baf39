"""The random numbers: known answers, the layout of counters and keys, and uniformity."""

from __future__ import annotations

import pytest
import torch

import naive
from cases import SEEDS
from empool import _philox
from tolerances import assert_frequencies

# Random123's known answers for philox4x32-7 (its file kat_vectors).
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, ...], words: tuple[int, ...]) -> None:
    assert tuple(naive.philox4x32_7(counter, key)) == words
    tensors = _philox.philox4x32(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert tuple(word.item() for word in tensors) == words


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(2, 3, 9), (2, 3, 2, 6), (2, 2, 2, 3, 5)])
def test_counter_and_key_of_every_output(seed: int, shape: tuple[int, ...]) -> None:
    numbers = _philox.uniform32(torch.tensor(seed - 2**64 if seed >= 2**63 else seed), shape)
    expected = [
        [
            [naive.number(seed, n, c, index // shape[-1], index % shape[-1]) for index in range(numbers[0, 0].numel())]
            for c in range(shape[1])
        ]
        for n in range(shape[0])
    ]
    torch.testing.assert_close(numbers, torch.tensor(expected).reshape(shape), rtol=0, atol=0)


def test_several_seeds_serve_equal_shares_of_the_images() -> None:
    seeds = torch.tensor([5, -7, 11])
    together = _philox.uniform32(seeds, (6, 2, 3, 5))
    apart = torch.cat([_philox.uniform32(seed, (2, 2, 3, 5)) for seed in seeds])
    torch.testing.assert_close(together, apart, rtol=0, atol=0)


def test_every_byte_is_uniform() -> None:
    """Chi-square of each byte of each lane, over consecutive counters."""
    numbers = _philox.uniform32(torch.tensor(20171124), (16, 16, 32, 32)).reshape(-1, 4)
    for lane in range(4):
        for byte in range(4):
            assert_frequencies(torch.bincount(numbers[:, lane] >> 8 * byte & 255, minlength=256), [1 / 256] * 256)


def test_neighbouring_outputs_images_channels_and_seeds_are_uncorrelated() -> None:
    """The correlation of 2^16 pairs has standard deviation 2^-8; five of them pass once in a million."""
    shape = (8, 8, 32, 33)
    x = _philox.uniform32(torch.tensor(7), shape).double() / 2**32 - 0.5
    other = _philox.uniform32(torch.tensor(8), shape).double() / 2**32 - 0.5
    pairs = {
        "column": (x[..., :-1], x[..., 1:]),
        "row": (x[:, :, :-1], x[:, :, 1:]),
        "channel": (x[:, :-1], x[:, 1:]),
        "image": (x[:-1], x[1:]),
        "seed": (x, other),
    }
    for name, (a, b) in pairs.items():
        correlation = (a * b).sum() / a.numel() * 12
        assert abs(correlation) < 5 / a.numel() ** 0.5, name
