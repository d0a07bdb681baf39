"""The reference: answers worked out by hand, and the naive loops of `naive.py` on every case."""

from __future__ import annotations

import math

import pytest
import torch

import empool
import naive
from cases import ADAPTIVE, DISTRIBUTIONS, DTYPES, GEOMETRIES, SEEDS, Case, thresholds, weights
from empool import reference
from tolerances import MEANS, assert_same_bits, assert_same_numbers, strides

INF, NAN = math.inf, math.nan
TWO_BY_TWO = ([2, 2], [2, 2], [0, 0], [1, 1], [])
# Seed 0 gives output 0 of image 0 the number 0x5F6FB709 (see test_philox.py), 0.3728 of 2^32.
NUMBER = 0x5F6FB709


def _table(*rows: list[float]) -> torch.Tensor:
    """Return one set of rows, of thresholds where they are whole."""
    return torch.tensor([rows], dtype=None if rows[0] else torch.int64).reshape(1, len(rows), -1)


def _image(*rows: list[float], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor([[rows]], dtype=dtype)


@pytest.mark.parametrize(
    ("thresholds", "output", "drawn"),
    [
        ([], 7.0, 3),
        ([NUMBER + 1], 7.0, 3),
        ([NUMBER], 5.0, 0),
        ([0], 5.0, 0),
        ([0, NUMBER], 2.0, 2),
        ([0, NUMBER + 1], 5.0, 0),
        ([0, 0, 0], -1.0, 1),
        ([0, 0, 0, NUMBER + 1], -1.0, 1),
        ([0, 0, 0, NUMBER], 0.0, 255),
        ([1 << 32], 7.0, 3),
    ],
)
def test_rank_draw_counts_the_thresholds_reached(thresholds: list[int], output: float, drawn: int) -> None:
    image = _image([5, -1], [2, 7])
    result = reference.rank_draw(image, torch.tensor(0), _table(thresholds), [4], *TWO_BY_TWO, False, 0)
    assert_same_bits(result, (_image([output]), torch.tensor([[[[drawn]]]], dtype=torch.uint8)))


@pytest.mark.parametrize(
    ("window", "rank", "output", "drawn"),
    [
        ([3, 3, 3, 3], 0, 3, 0),
        ([3, 3, 3, 3], 2, 3, 2),
        ([1, 4, 4, 1], 1, 4, 2),
        ([1, 4, 4, 1], 3, 1, 3),
        ([-0.0, 0.0, -0.0, 0.0], 0, -0.0, 0),
        ([-0.0, 0.0, -0.0, 0.0], 1, 0.0, 1),
        ([NAN, 5, 6, 7], 1, NAN, 0),
        ([NAN, 5, NAN, 7], 0, NAN, 2),
        ([NAN, 5, NAN, 7], 4, NAN, 2),
        ([-INF, INF, 0, INF], 1, INF, 3),
        ([-INF, INF, 0, INF], 3, -INF, 0),
        ([-INF, -INF, -INF, -INF], 0, -INF, 0),
        ([-INF, -INF, -INF, -INF], 4, 0, 255),
    ],
)
def test_rank_draw_of_ties_and_special_values(window: list[float], rank: int, output: float, drawn: int) -> None:
    image = _image(window[:2], window[2:])
    result = reference.rank_draw(image, torch.tensor(0), _table([0] * rank), [4], *TWO_BY_TWO, False, 0)
    assert_same_bits(result, (_image([output]), torch.tensor([[[[drawn]]]], dtype=torch.uint8)))


def test_rank_draw_at_the_border_ranks_valid_activations_only() -> None:
    """3x3/2 pad 1 on 2x3: windows of 4 activations, all negative, so that a padding zero would win."""
    image = _image([-4, -1, -3], [-2, -5, -6])
    geometry = ([3, 3], [2, 2], [1, 1], [1, 1], [], False, 0)
    counts = [1, 2, 3, 4, 6, 9]
    for rank, outputs, drawn in (
        (0, [-1, -1], [5, 3]),
        (1, [-2, -3], [7, 4]),
        (3, [-5, -6], [8, 7]),
        (4, [0, 0], [255, 255]),
    ):
        result = reference.rank_draw(image, torch.tensor(0), _table(*[[0] * rank] * 6), counts, *geometry)
        assert_same_bits(result, (_image(outputs), torch.tensor([[[drawn]]], dtype=torch.uint8)))


def test_rank_draw_takes_the_row_for_the_windows_own_count() -> None:
    """Three positions in a row, padded by one: windows of 2, 3 and 2 activations."""
    image = torch.tensor([[[1.0, 2.0, 3.0]]])
    output, drawn = reference.rank_draw(
        image,
        torch.tensor(0),
        _table([1 << 32, 1 << 32], [0, 1 << 32], [0, 0]),
        [1, 2, 3],
        *([3], [1], [1], [1], [], False, 0),
    )
    assert_same_bits(output, torch.tensor([[[1.0, 1.0, 2.0]]]))
    assert_same_bits(drawn, torch.tensor([[[1, 0, 0]]], dtype=torch.uint8))


def test_a_window_of_padding_only() -> None:
    """Kernel 2, dilation 4, padding 1 on 3 positions: the only window holds positions -1 and 3."""
    image, window = torch.tensor([[[1.0, 2.0, 3.0]]]), ([2], [1], [1], [4], [])
    weights = _table([1.0, 0.0], [0.5, 0.5]), [1, 2]
    nothing = torch.tensor([[[255]]], dtype=torch.uint8)
    drawn = reference.rank_draw(image, torch.tensor(0), _table([0], [0]), [1, 2], *window, False, 0)
    assert_same_bits(drawn, (torch.tensor([[[-INF]]]), nothing))
    for beta in (None, torch.tensor(1.0)):
        value = reference.value_draw(image, torch.tensor(0), beta, *window, False, 0)
        assert_same_bits(value, (torch.tensor([[[0.0]]]), nothing))
        assert_same_bits(reference.value_mean(image, beta, *window, False), torch.tensor([[[0.0]]]))
    assert_same_bits(reference.rank_mean(image, *weights, *window, False), torch.tensor([[[-INF]]]))
    grad = torch.tensor([[[9.0]]])
    assert_same_bits(reference.rank_mean_backward(grad, image, *weights, *window, False), torch.zeros(1, 1, 3))
    assert_same_bits(reference.rank_mean_weight_grad(grad, image, *weights, *window, False), torch.zeros(1, 2, 2))
    assert_same_bits(reference.drawn_scatter(grad, nothing, [3], *window), torch.zeros(1, 1, 3))
    assert_same_bits(reference.drawn_gather(image, nothing, *window), torch.zeros(1, 1, 1))


@pytest.mark.parametrize(
    ("window", "output", "drawn"),
    [
        # The number is 0.3728 of the whole.
        ([4, 3, 2, 1], 4, 0),
        ([3, 4, 2, 1], 4, 1),
        ([3, -4, 7, 0], 7, 2),
        ([-1, 0, 0, 5], 5, 3),
        ([0, 0, 0, 0], 0, 255),
        ([-1, -2, -0.0, -INF], 0, 255),
        ([1, INF, INF, 2], INF, 1),
        ([1, NAN, -1, 2], NAN, 1),
        ([NAN, 1, NAN, 2], NAN, 2),
        # The share of the smallest number is 0, which a sum of 0 does not exceed.
        ([0, 2.0**-149, 0, 0], 2.0**-149, 1),
    ],
)
def test_value_draw(window: list[float], output: float, drawn: int) -> None:
    image = _image(window[:2], window[2:])
    result = reference.value_draw(image, torch.tensor(0), None, *TWO_BY_TWO, False, 0)
    assert_same_bits(result, (_image([output]), torch.tensor([[[[drawn]]]], dtype=torch.uint8)))


@pytest.mark.parametrize(("seed", "column"), [(3767770, 3), (7333448, 2), (17370142, 1)])
def test_value_draw_where_the_number_rounds_to_one(seed: int, column: int) -> None:
    """These numbers are 1 in float32, so that no running sum exceeds their share of the total."""
    assert naive.number(seed, 0, 0, 0, column) >= 2**32 - 128
    image = torch.tensor([[[[1.0, 2.0, 0.0] * 4]]])
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        geometry = ([1, 3], [1, 3], [0, 0], [1, 1], [], False, 0)
        _, drawn = reference.value_draw(image.to(dtype), torch.tensor(seed), None, *geometry)
        assert drawn[0, 0, 0, column] == 1


def test_a_byte_holds_255_positions_and_the_zero() -> None:
    assert reference.drawn_dtype(1) == reference.drawn_dtype(255) == torch.uint8
    assert reference.drawn_dtype(256) == torch.int32
    assert (reference.zero_drawn(torch.uint8), reference.zero_drawn(torch.int32)) == (255, -1)


def test_drawn_scatter_and_gather() -> None:
    """Windows of 2, stride 1: the middle position is drawn twice, and one window drew nothing."""
    drawn = torch.tensor([[[1, 0, 255]]], dtype=torch.uint8)
    window = ([2], [1], [0], [1])
    grad = torch.tensor([[[1.0, 10.0, 100.0]]])
    assert_same_bits(reference.drawn_scatter(grad, drawn, [4], *window), torch.tensor([[[0.0, 11.0, 0.0, 0.0]]]))
    image = torch.tensor([[[2.0, 3.0, 5.0, 7.0]]])
    assert_same_bits(reference.drawn_gather(image, drawn, *window), torch.tensor([[[3.0, 3.0, 0.0]]]))


def test_drawn_scatter_rounds_after_every_addition_first_window_first() -> None:
    """256 + 1 + 1 in bfloat16 is 256, but 1 + 1 + 256 is 258."""
    drawn = torch.tensor([[[2, 1, 0]]], dtype=torch.uint8)
    for grad, total in (([256.0, 1.0, 1.0], 256.0), ([1.0, 1.0, 256.0], 258.0)):
        scattered = reference.drawn_scatter(
            torch.tensor([[grad]], dtype=torch.bfloat16), drawn, [5], [3], [1], [0], [1], []
        )
        assert_same_bits(scattered, torch.tensor([[[0, 0, total, 0, 0]]], dtype=torch.bfloat16))


@pytest.mark.parametrize(
    ("window", "weights", "mean"),
    [
        ([1, 8, 4, 2], [1.0], 8),
        ([1, 8, 4, 2], [0.75, 0.25], 7),
        ([1, 8, 4, 2], [0.25] * 4, 3.75),
        ([1, 8, 4, 2], [0.0, 0.0, 1.0], 2),
        ([1, 8, 4, 2], [0.0], 0),
        ([5, 5, 1, 5], [0.5, 0.25, 0.25], 5),
        ([INF, 1, 2, 3], [0.0, 1.0], 3),
        ([INF, 1, 2, 3], [0.5, 0.5], INF),
        ([1, -INF, 2, 3], [0.5, 0.5], 2.5),
        ([1, -INF, 2, 3], [0.25] * 4, -INF),
        ([1, NAN, 2, 3], [0.0, 1.0], NAN),
        ([-0.0, -0.0, -0.0, -1], [1.0], -0.0),
    ],
)
def test_rank_mean(window: list[float], weights: list[float], mean: float) -> None:
    image = _image(window[:2], window[2:])
    assert_same_bits(reference.rank_mean(image, _table(weights), [4], *TWO_BY_TWO, False), _image([mean]))


def test_rank_mean_backward() -> None:
    image = _image([1, 8], [4, 8])

    def backward(*weights: float) -> torch.Tensor:
        return reference.rank_mean_backward(_image([16]), image, _table(list(weights)), [4], *TWO_BY_TWO, False)

    assert_same_bits(backward(1.0), _image([0, 16], [0, 0]))
    assert_same_bits(backward(0.75, 0.25), _image([0, 12], [0, 4]))
    assert_same_bits(backward(0.5, 0.0, 0.25, 0.25), _image([4, 8], [4, 0]))
    image[0, 0, 0, 0] = NAN
    assert_same_bits(backward(0.75, 0.25), _image([16, 0], [0, 0]))


def test_rank_mean_sums_half_precision_in_float32() -> None:
    """The mean of 2048 and three ones is 512.75; in float16 the sum alone would stay at 2048."""
    image = _image([2048, 1], [1, 1], dtype=torch.float16)
    mean = reference.rank_mean(image, _table([0.25] * 4), [4], *TWO_BY_TWO, False)
    assert_same_bits(mean, _image([512.75], dtype=torch.float16))


@pytest.mark.parametrize(
    ("window", "mean"),
    [
        ([1, 2, 1, 0], 1.5),
        ([1, 2, -1, 1], 1.5),
        ([0, -1, -2, -0.0], 0),
        ([1, NAN, 2, 3], NAN),
        ([4, 4, 4, 4], 4),
        ([1, INF, 0, 2], INF),
        ([INF, INF, -INF, 2], INF),
        ([1, INF, NAN, 2], NAN),
        # Squares that float32 does not have.
        ([2.0**100, 2.0**101, 2.0**100, 0], 1.5 * 2.0**100),
        ([2.0**-100, 2.0**-99, 2.0**-100, 0], 1.5 * 2.0**-100),
        ([2.0**127] * 4, 2.0**127),
        ([2.0**-149] * 4, 2.0**-149),
    ],
)
def test_value_mean(window: list[float], mean: float) -> None:
    image = _image(window[:2], window[2:])
    torch.testing.assert_close(
        reference.value_mean(image, None, *TWO_BY_TWO, False), _image([mean]), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("factor", [2.0**-49, 0.3, 1.0, 1e7, 2.0**50])
def test_value_mean_scales_no_window_that_does_not_need_it(factor: float) -> None:
    """Dividing by the largest rounds: the mean would have other bits than that of the squares as they are."""
    window = torch.tensor([0.95, 0.7, 0.85, 0.1]) * factor
    plain = (window * window).sum() / window.sum()
    scaled = window / window.max()
    assert (scaled * scaled).sum() / scaled.sum() * window.max() != plain
    mean = reference.value_mean(window.reshape(1, 1, 2, 2), None, *TWO_BY_TWO, False)
    assert_same_bits(mean, plain.reshape(1, 1, 1, 1))


def test_value_mean_sums_half_precision_in_float32() -> None:
    """The square of 300 is beyond float16."""
    image = _image([300, 0], [100, -5], dtype=torch.float16)
    assert_same_bits(reference.value_mean(image, None, *TWO_BY_TWO, False), _image([250], dtype=torch.float16))


def test_the_derivative_of_value_mean_does_not_depend_on_the_scale() -> None:
    """Of (1 + 4 + 1) / 4 by each activation: (2 a - 1.5) / 4."""
    for scale in (1.0, 2.0**100, 2.0**-100):
        image = _image([1, 2], [1, 0]) * scale
        gradient = reference.value_mean_backward(_image([1]), image, None, *TWO_BY_TWO, False)
        torch.testing.assert_close(gradient, _image([0.125, 0.625], [0.125, 0]), rtol=0, atol=0)


KINDS = GEOMETRIES + ADAPTIVE
"""Plain PyTorch knows nothing of the widths of vectors, so without `ROW_ENDS`."""


def _some_distributions(case: Case) -> list[tuple[int, str, torch.dtype]]:
    """Choose four by turns, each with another type."""
    start, names = KINDS.index(case), list(DISTRIBUTIONS)
    chosen = [(start + 3 * shift) % len(names) for shift in range(4)]
    return [(index, names[index], DTYPES[(start + shift) % 4]) for shift, index in enumerate(chosen)]


def _tables(index: int, name: str, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Return thresholds and weights; every third time a set for each channel."""
    sets = case.shape[1] if index % 3 == 2 else 1
    each = [DISTRIBUTIONS[name], *([empool.EnsembleMax(0.2)] * (sets - 1))]
    columns = (
        max(thresholds(d, case.counts).size(-1) for d in each),
        max(weights(d, case.counts).size(-1) for d in each),
    )
    pad = torch.nn.functional.pad
    passed = [thresholds(d, case.counts) for d in each]
    shares = [weights(d, case.counts) for d in each]
    return (
        torch.cat([pad(t, (0, columns[0] - t.size(-1)), value=reference.NEVER) for t in passed]),
        torch.cat([pad(w, (0, columns[1] - w.size(-1))) for w in shares]),
    )


@pytest.mark.parametrize("case", KINDS, ids=str)
def test_draws_and_their_backward_agree_with_naive_loops(case: Case) -> None:
    window = case.geometry[:5]
    betas = [None, torch.tensor(0.7), torch.tensor([-3.0]), torch.linspace(-2, 2, case.shape[1])]
    for index, name, dtype in _some_distributions(case):
        seed = SEEDS[index % len(SEEDS)]
        tied = (index % 4, index % 3)
        passed, _ = _tables(index, name, case)
        input, key = case.input(dtype), torch.tensor(seed - 2**64 if seed >= 2**63 else seed)
        output, drawn = reference.rank_draw(input, key, passed, case.counts, *case.geometry, *tied)
        expected = naive.rank_draw(input, seed, passed, case.counts, *case.geometry, *tied)
        assert_same_numbers((output, drawn), expected, name)
        grad = case.grad_output(dtype)
        scattered = reference.drawn_scatter(grad, drawn, case.shape[2:], *window)
        assert_same_numbers(scattered, naive.drawn_scatter(grad, drawn, case.shape[2:], *window), name)
        gathered = reference.drawn_gather(input, drawn, *window)
        assert_same_numbers(gathered, naive.drawn_gather(input, drawn, *window), name)
        beta = betas[index % len(betas)]
        result = reference.value_draw(input, key, beta, *case.geometry, *tied)
        assert_same_numbers(result, naive.value_draw(input, seed, beta, *case.geometry, *tied), f"{dtype} {beta}")


@pytest.mark.parametrize("case", KINDS, ids=str)
def test_means_agree_with_naive_loops(case: Case) -> None:
    betas = [None, torch.tensor(0.7), torch.tensor([-3.0]), torch.linspace(-2, 2, case.shape[1])]
    for index, name, dtype in _some_distributions(case):
        weight = _tables(index, name, case)[1]
        by = (weight, case.counts, *case.geometry)
        input, grad = case.input(dtype), case.grad_output(dtype)
        assert_same_numbers(reference.rank_mean(input, *by), naive.rank_mean(input, *by), name)
        gradient = reference.rank_mean_backward(grad, input, *by)
        assert_same_numbers(gradient, naive.rank_mean_backward(grad, input, *by), name)
        # Not in the order of the ranks, so equal but for rounding.
        tangent = case.tensor(case.shape, dtype, "normal", "tangent")
        along = reference.rank_mean_jvp(tangent, input, *by)
        torch.testing.assert_close(along, naive.rank_mean_jvp(tangent, input, *by), **MEANS[dtype], equal_nan=True)
        of_weights = reference.rank_mean_weight_grad(grad, input, *by)
        torch.testing.assert_close(of_weights, naive.rank_mean_weight_grad(grad, input, *by), equal_nan=True)
        beta = betas[index % len(betas)]
        mean = reference.value_mean(input, beta, *case.geometry)
        expected = naive.value_mean(input, beta, *case.geometry)
        torch.testing.assert_close(mean, expected, **MEANS[dtype], equal_nan=True)


@pytest.mark.parametrize("case", KINDS, ids=str)
def test_results_are_dense_in_the_inputs_layout(case: Case) -> None:
    input = case.input(torch.float32)
    channels_last = input.stride(1) == 1 and input.size(1) > 1 and math.prod(input.shape[2:]) > 1
    nothing = torch.zeros(1, len(case.counts), 0, dtype=torch.int64)
    output, drawn = reference.rank_draw(input, torch.tensor(3), nothing, case.counts, *case.geometry, 0)
    mean = reference.rank_mean(input, weights(empool.Max(), case.counts), case.counts, *case.geometry)
    value = reference.value_draw(input, torch.tensor(3), None, *case.geometry, 0)
    for result in (output, drawn, mean, *value, reference.value_mean(input, None, *case.geometry)):
        expected = torch.empty(case.output_shape)
        if channels_last:
            expected = expected.movedim(1, -1).contiguous().movedim(-1, 1)
        assert strides(result) == strides(expected)
