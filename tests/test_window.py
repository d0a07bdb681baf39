"""Where windows lie: all small geometries along one dimension against PyTorch and by counting, and the layouts."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from empool import _window
from empool._window import Geometry

# (size, kernel, stride, padding, dilation, ceil_mode): all 864 that fit.
LINES = [
    line
    for line in itertools.product(range(1, 8), range(1, 5), range(1, 5), range(3), range(1, 4), (False, True))
    if line[3] <= line[1] // 2 and line[4] * (line[1] - 1) + 1 <= line[0] + 2 * line[3]
]


def geometry(kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> Geometry:
    return Geometry((kernel,), (stride,), (padding,), (dilation,), (), ceil_mode)


def positions(size: int, where: Geometry) -> list[list[int]]:
    """List for every window where its activations lie; what is outside the input is padding."""
    (kernel,), (stride,), (padding,), (dilation,), *_ = where
    starts = [window * stride - padding for window in range(where.output_sizes([size])[0])]
    return [[start + step * dilation for step in range(kernel)] for start in starts]


def test_as_many_windows_as_max_pooling_has() -> None:
    for size, *line in LINES:
        where = geometry(*line)
        arguments = (*where[:4], where.ceil_mode)
        expected = F.max_pool1d(torch.zeros(1, size), *arguments).shape[1:]
        assert tuple(where.output_sizes([size])) == expected, (size, where)


def test_counts_of_valid_activations_are_foreseen() -> None:
    for size, *line in LINES:
        where = geometry(*line)
        counts = {sum(0 <= place < size for place in window) for window in positions(size, where)}
        assert counts - {0} <= set(where.possible_counts()), (size, where)
        assert where.may_hold_nothing() or 0 not in counts, (size, where)


@pytest.mark.parametrize(
    ("padding", "dilation", "ceil_mode", "counts", "nothing"),
    [
        (0, 1, False, (6,), False),
        (0, 2, False, (6,), False),
        (1, 1, False, (1, 2, 3, 4, 6), False),
        (0, 1, True, (1, 2, 3, 4, 6), False),
        (1, 2, False, (1, 2, 3, 4, 6), True),
        (0, 2, True, (1, 2, 3, 4, 6), True),
    ],
)
def test_no_more_is_foreseen_than_can_be(
    padding: int, dilation: int, ceil_mode: bool, counts: tuple[int, ...], nothing: bool
) -> None:
    where = Geometry((3, 2), (2, 2), (padding, padding), (dilation, dilation), (), ceil_mode)
    assert (where.possible_counts(), where.may_hold_nothing()) == (counts, nothing)


def test_only_the_padded_side_of_a_window_varies() -> None:
    assert Geometry((3, 2), (2, 2), (1, 0), (1, 1)).possible_counts() == (2, 4, 6)


def test_windows_and_which_of_their_positions_are_valid() -> None:
    where = Geometry((2, 3), (2, 2), (1, 0), (1, 1), ceil_mode=True)
    input = torch.arange(1.0, 9).reshape(1, 1, 2, 4)  # Windows reach one row above, one below, and past the right.
    held, valid = _window.windows(input, where, fill=0.0)
    assert held[0, 0].tolist() == [
        [[0, 0, 0, 1, 2, 3], [0, 0, 0, 3, 4, 0]],
        [[5, 6, 7, 0, 0, 0], [7, 8, 0, 0, 0, 0]],
    ]
    assert valid.shape == (2, 2, 6)
    assert valid.tolist() == (held[0, 0] > 0).tolist()


def test_adaptive_windows_are_those_of_pytorch() -> None:
    for size, output in itertools.product(range(1, 12), range(1, 14)):
        bounds = [_window.adaptive_bounds(i, size, output) for i in range(output)]
        image = torch.arange(1.0, size + 1).reshape(1, 1, size)
        means = [sum(range(start + 1, end + 1)) / (end - start) for start, end in bounds]
        torch.testing.assert_close(F.adaptive_avg_pool1d(image, output), torch.tensor([[means]]))
        assert _window.adaptive_extents(size, output) == {end - start for start, end in bounds}


def test_every_position_knows_the_windows_over_it() -> None:
    """`covering` is `positions` the other way round: the windows of each position, first window first."""
    for size, *line in LINES:
        where = geometry(*line)
        _check_covering(where, size)
    for size, output in itertools.product(range(1, 8), range(1, 10)):
        kernel = max(_window.adaptive_extents(size, output))
        _check_covering(Geometry((kernel,), (1,), (0,), (1,), (output,)), size)


def _check_covering(where: Geometry, size: int) -> None:
    output, cpu = where.output_sizes([size]), torch.device("cpu")
    index, valid = _window.positions(where, [size], output, cpu)
    expected: list[list[tuple[int, int]]] = [[] for _ in range(size)]
    for window, (places, inside) in enumerate(zip(index.tolist(), valid.tolist(), strict=True)):
        for offset, (place, within) in enumerate(zip(places, inside, strict=True)):
            if within:
                expected[place].append((window, offset))
    found: list[list[tuple[int, int]]] = [[] for _ in range(size)]
    for windows, offsets, covers in _window.covering(where, [size], output, cpu):
        for place, (window, offset, holds) in enumerate(
            zip(windows.tolist(), offsets.tolist(), covers.tolist(), strict=True)
        ):
            if holds:
                found[place].append((window, offset))
    assert found == expected, (size, where)


@pytest.mark.parametrize(
    ("shape", "laid_out"),
    [
        ((2, 3, 1, 2), True),
        ((2, 2, 2, 1), True),
        ((2, 3, 1, 1), False),  # One activation in a channel: both layouts are the same bytes.
        ((2, 1, 4, 4), False),  # Likewise with one channel.
        ((2, 0, 4, 4), False),
    ],
)
def test_channels_last_is_told_by_strides(shape: tuple[int, ...], laid_out: bool) -> None:
    assert _window.is_channels_last(torch.zeros(shape).to(memory_format=torch.channels_last)) is laid_out
    assert not _window.is_channels_last(torch.zeros(shape))
