"""Who takes part: our layers and operators, PyTorch's, the obvious way to write it, compiled ones, and a plain copy."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import empool
from empool._window import Geometry
from empool.bench import cases, peers
from empool.bench.cases import Case, Window
from empool.bench.timing import Call

Pool = Callable[[Tensor], Tensor]

_FUNCTIONS: dict[type[empool.Pooling], Callable[..., Tensor]] = {
    empool.EnsembleMax: empool.functional.ensemble_max_pool2d,
    empool.MaxDropout: empool.functional.max_pool_dropout2d,
    empool.StochasticMax: empool.functional.stochastic_max_pool2d,
    empool.Stochastic: empool.functional.stochastic_pool2d,
}


@dataclasses.dataclass(frozen=True)
class Data:
    """What the contestants of a case are given.

    Attributes:
        inputs: the input sets, normally distributed.
        gradients: of the output, one for each input.
    """

    inputs: list[Tensor]
    gradients: list[Tensor]

    @classmethod
    def of(cls, case: Case, device: str, sets: int) -> Data:
        """Draw the data of a case; the same every time."""
        generator = torch.Generator(device).manual_seed(0)
        layout = torch.channels_last if case.layout == cases.LAYOUTS[1] else torch.contiguous_format

        def draw(shape: tuple[int, ...]) -> Tensor:
            numbers = torch.randn(shape, generator=generator, device=device)
            return numbers.to(getattr(torch, case.dtype)).to(memory_format=layout)

        inputs = [draw(case.shape).requires_grad_(case.phase in (cases.STEP, cases.FORWARD)) for _ in range(sets)]
        return cls(inputs, [draw(case.window.output(case.shape)) for _ in range(sets)])


def forwards(case: Case) -> dict[str, Pool]:
    """Return the forward pass of each contestant that has one, apart from the copy."""
    if case.phase in cases.OPERATORS:
        return {}
    return {name: pool(case, name) for name in case.contestants if name != cases.COPY}


def calls(case: Case, data: Data, forwards: Mapping[str, Pool]) -> dict[str, Call]:
    """Return what each contestant of a case does."""
    if case.phase in cases.OPERATORS:
        made = _operator_calls(case, data)
    else:
        made = {name: _call(case, forward, data) for name, forward in forwards.items()}
    return {name: _copy(data) if name == cases.COPY else made[name] for name in case.contestants}


def pool(case: Case, name: str) -> Pool:
    """Return a contestant's forward pass, in the phase of the case."""
    training = case.phase != cases.TEST
    if name in peers.PEERS:
        return peers.PEERS[name](case)
    if name in (cases.UNFOLD, cases.UNFOLD_COMPILED):
        p = empool.pooling(cases.OURS).p  # type: ignore[attr-defined]
        obvious: Pool = functools.partial(unfold_topk, window=case.window, p=p, training=training)
        return obvious if name == cases.UNFOLD else torch.compile(obvious, dynamic=False)
    which = empool.pooling(cases.MAX if name == cases.MAX_COMPILED else name)
    window = dataclasses.asdict(case.window)
    if case.shape == cases.TINY:
        if isinstance(which, empool.Max):
            return functools.partial(F.max_pool2d, **window)
        arguments = dataclasses.asdict(which)  # type: ignore[call-overload]
        return functools.partial(_FUNCTIONS[type(which)], **window, **arguments, training=training)
    layer = empool.layer(which, 2, **window).train(training)
    return torch.compile(layer, dynamic=False) if name == cases.MAX_COMPILED else layer


def unfold_topk(input: Tensor, *, window: Window, p: float, training: bool) -> Tensor:
    """Pool as ensemble max-pooling does, in the obvious way: unfold, topk, where."""
    kernel, stride, padding = window.kernel_size, window.stride, window.padding
    if padding:
        input = F.pad(input, (padding,) * 4, value=-math.inf)
    windows = input.unfold(2, kernel, stride).unfold(3, kernel, stride).flatten(4)  # (N, C, OH, OW, K)
    first, second = windows.topk(2, dim=-1).values.unbind(-1)
    if not training:
        return (1 - p) * first + p * second
    return torch.where(torch.rand_like(first) < p, second, first)


def kept(forward: Pool, input: Tensor) -> tuple[int, bool]:
    """Return the bytes that a forward pass keeps for the backward pass besides its input, and whether it keeps that."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward(input)
    keeps_input = storages.pop(input.untyped_storage().data_ptr(), None) is not None
    return sum(storages.values()), keeps_input


def _copy(data: Data) -> Call:
    inputs = [input.detach() for input in data.inputs]
    return lambda index: inputs[index % len(inputs)].clone()


def _call(case: Case, forward: Pool, data: Data) -> Call:
    sets = len(data.inputs)

    def step(index: int) -> object:
        input = data.inputs[index % sets]
        return torch.autograd.grad(forward(input), input, data.gradients[index % sets])

    return step if case.phase == cases.STEP else lambda index: forward(data.inputs[index % sets])


def _operator_calls(case: Case, data: Data) -> dict[str, Call]:
    """Return what an operator of ours and what its twin does."""
    window, sets, ops = case.window, len(data.inputs), torch.ops.empool
    distribution = empool.pooling(cases.OURS)
    assert isinstance(distribution, empool.RankDistribution)
    kernel_size, stride, padding = ([side, side] for side in (window.kernel_size, window.stride, window.padding))
    geometry = Geometry(kernel_size, stride, padding, [1, 1])
    counts, device = geometry.possible_counts(), data.inputs[0].device
    weights = torch.tensor([distribution.weight_table(counts)], dtype=torch.float64, device=device)
    thresholds = torch.tensor([distribution.threshold_table(counts)], dtype=torch.int64, device=device)
    seed = torch.tensor(0, device=device)
    spatial, where = case.shape[2:], (kernel_size, stride, padding, [1, 1])
    drawn, indices = [], []
    if case.phase.startswith("drawn"):
        drawn = [ops.rank_draw(input, seed, thresholds, counts, *geometry, 0)[1] for input in data.inputs]
    if case.phase in ("drawn_scatter", "drawn_gather", *cases.MEAN_BACKWARDS):
        indices = [F.max_pool2d(input, *where, False, True)[1] for input in data.inputs]

    def max_pool(input: Tensor, gradient: Tensor, i: int) -> Any:
        return torch.ops.aten.max_pool2d_with_indices(input, *where)

    def max_pool_backward(input: Tensor, gradient: Tensor, i: int) -> Any:
        return torch.ops.aten.max_pool2d_with_indices_backward(gradient, input, *where, False, indices[i])

    def gather(input: Tensor, gradient: Tensor, i: int) -> Any:
        return input.flatten(2).gather(2, indices[i].flatten(2))

    ours: dict[str, Callable[[Tensor, Tensor, int], Any]] = {
        "rank_draw": lambda input, gradient, i: ops.rank_draw(input, seed, thresholds, counts, *geometry, 0),
        "value_draw": lambda input, gradient, i: ops.value_draw(input, seed, None, *geometry, 0),
        "drawn_scatter": lambda input, gradient, i: ops.drawn_scatter(gradient, drawn[i], spatial, *where, []),
        "drawn_gather": lambda input, gradient, i: ops.drawn_gather(input, drawn[i], *where, []),
        "rank_mean": lambda input, gradient, i: ops.rank_mean(input, weights, counts, *geometry),
        "value_mean": lambda input, gradient, i: ops.value_mean(input, None, *geometry),
    }

    def mean_backward(name: str) -> Callable[[Tensor, Tensor, int], Any]:
        tables = (None,) if name.startswith("value") else (weights, counts)
        return lambda input, gradient, i: getattr(ops, name)(gradient, input, *tables, *geometry)

    ours |= {name: mean_backward(name) for name in cases.MEAN_BACKWARDS}
    twins = {"drawn_scatter": max_pool_backward, "drawn_gather": gather}
    twins |= dict.fromkeys(cases.MEAN_BACKWARDS, max_pool_backward)

    def on(operator: Callable[[Tensor, Tensor, int], Any]) -> Call:
        return lambda index: operator(data.inputs[index % sets], data.gradients[index % sets], index % sets)

    return {cases.TWIN: on(twins.get(case.phase, max_pool)), case.phase: on(ours[case.phase])}
