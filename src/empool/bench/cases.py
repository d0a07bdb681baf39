"""What is measured: shapes, windows, layouts, dtypes, phases, and who takes part."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from empool.lab.errors import LabError

SHAPES = {
    "cpu": ((64, 64, 56, 56), (128, 64, 32, 32), (32, 256, 14, 14)),
    "cuda": ((256, 64, 56, 56), (256, 256, 14, 14), (64, 64, 112, 112)),
}
"""The shapes (N, C, H, W) that the speed to reach is stated for."""

DTYPES = ("float32", "bfloat16", "float16")
LAYOUTS = ("contiguous", "channels last")
TINY = (1, 8, 4, 4)
"""So small that the time of a call is what the call costs, apart from any work."""

MAX, OURS, COPY = "max", "ensemble:0.1", "copy"
METHODS = ("average", "max-dropout:0.2", "stochastic-max:0.5", "stochastic", "ordinal:0.6,0.3,0.1", "soft:1")
PEERS = (
    "SoftPool in PyTorch",
    "ordinal by unfold",
    "nn.AdaptiveMaxPool2d",
    "nn.FractionalMaxPool2d",
    "BlurPool",
    "F.lp_pool2d",
)
"""What else is used in place of max-pooling, as PyTorch has it or as it is usually written."""
UNFOLD, UNFOLD_COMPILED, MAX_COMPILED = "unfold-topk", "unfold-topk compiled", "max compiled"
TWIN = "torch"
"""The PyTorch operator that an operator of ours stands for."""

STEP, TEST, FORWARD, NETWORK = "step", "test", "forward", "network"
PHASES = {
    STEP: "training step",
    TEST: "inference forward",
    FORWARD: "training forward",
    NETWORK: "training step of a VGG-16-shaped stack",
}
MEAN_BACKWARDS = ("rank_mean_backward", "rank_mean_weight_grad", "value_mean_backward")
OPERATORS = (
    "rank_draw",
    "value_draw",
    "drawn_scatter",
    "drawn_gather",
    "rank_mean",
    "value_mean",
    *MEAN_BACKWARDS,
)

REUSED, AS_IT_COMES, DEVICE = "reused", "as it comes", "device"


@dataclass(frozen=True)
class Window:
    """A square window.

    Attributes:
        kernel_size: positions along each side.
        stride: positions between neighbouring windows.
        padding: positions added at every border.
    """

    kernel_size: int
    stride: int
    padding: int = 0

    def __str__(self) -> str:
        text = f"{self.kernel_size}x{self.kernel_size}/{self.stride}"
        return f"{text} pad {self.padding}" if self.padding else text

    def output(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape that this window makes of a shape."""
        sides = ((side + 2 * self.padding - self.kernel_size) // self.stride + 1 for side in shape[2:])
        return (*shape[:2], *sides)


WINDOWS = (Window(2, 2), Window(3, 2, 1))
GENERAL = (Window(5, 3, 2), Window(3, 1, 1), Window(7, 7))
"""Windows that the specialised kernels do not serve; the last one is global, on images of 7x7."""


@dataclass(frozen=True)
class Case:
    """Contestants that do the same work by turns.

    Attributes:
        phase: a key of `PHASES`, or one of `OPERATORS`.
        shape: of the input, (N, C, H, W).
        window: where the windows lie.
        layout: one of `LAYOUTS`.
        dtype: a name in `torch`.
        contestants: poolings as `str` spells them and other names of this file; ratios are to the first one.
        memory: `REUSED`, `AS_IT_COMES`, or `DEVICE` for a GPU's caching allocator.
    """

    phase: str
    shape: tuple[int, ...]
    window: Window
    layout: str
    dtype: str
    contestants: tuple[str, ...]
    memory: str

    def __str__(self) -> str:
        parts = [PHASES.get(self.phase, self.phase), "x".join(map(str, self.shape))]
        if self.phase != NETWORK:
            parts.append(str(self.window))
        return ", ".join(
            [*parts, self.layout, self.dtype]
            + ["memory as it comes"] * (self.memory == AS_IT_COMES and self.shape != TINY)
        )

    @property
    def baseline(self) -> str:
        """Whom ratios are to."""
        return self.contestants[0]

    def floor_bytes(self, itemsize: int) -> int:
        """Return the bytes that must be moved whoever does it: every tensor once, and one byte for every choice kept.

        Args:
            itemsize: bytes of one activation.
        """
        outputs = math.prod(self.window.output(self.shape))
        read, written = math.prod(self.shape) * itemsize, outputs * itemsize
        return {
            TEST: read + written,
            FORWARD: read + written + outputs,
            STEP: 2 * (read + written + outputs),
            "rank_draw": read + written + outputs,
            "value_draw": read + written + outputs,
            "drawn_scatter": read + written + outputs,
            "drawn_gather": 2 * written + outputs,
            "rank_mean": read + written,
            "value_mean": read + written,
            "rank_mean_backward": 2 * read + written,
            "rank_mean_weight_grad": read + written,
            "value_mean_backward": 2 * read + written,
        }[self.phase]

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` makes this case of again."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Case:
        """Make the case that `as_json` wrote."""
        content = content | {name: tuple(content[name]) for name in ("shape", "contestants")}
        return cls(**content | {"window": Window(**content["window"])})


def plan(
    device: str,
    *,
    quick: bool = False,
    dtypes: Sequence[str] = DTYPES,
    shapes: Sequence[tuple[int, ...]] | None = None,
    only: str = "",
) -> list[Case]:
    """List the cases of a device.

    Args:
        device: "cpu" or "cuda".
        quick: a subset: the first and the last shape, ensemble max-pooling against max-pooling, nothing compiled.
        dtypes: names in `torch`.
        shapes: in place of the device's in `SHAPES`.
        only: words, each of which must be one of a case's text.
    """
    shapes = tuple(dict.fromkeys(shapes or SHAPES[device]))
    if quick:
        shapes, dtypes = tuple(dict.fromkeys((shapes[0], shapes[-1]))), dtypes[:2]
    cases = [*_layers(device, quick, shapes, dtypes)]
    if not quick:
        cases += [*_general(device, shapes, dtypes), *_operators(device, shapes, dtypes)]
    if device == "cpu":
        cases += _as_it_comes(shapes[:1] if quick else shapes, dtypes)
    elif not quick:
        cases += _networks(dtypes)
    cases += _calls(device, dtypes)
    return [case for case in cases if _words(only) <= _words(str(case))]


def _words(text: str) -> set[str]:
    return set(text.replace(",", " ").split())


def read_shapes(text: str) -> list[tuple[int, ...]]:
    """Read shapes such as "64x64x56x56,128x64x32x32".

    Raises:
        LabError: for any other text.
    """
    parts = [part.split("x") for part in text.split(",")]
    if not all(len(part) == 4 and all(side.isdecimal() and int(side) for side in part) for part in parts):
        raise LabError(f'bench: expected shapes as in 64x64x56x56,128x64x32x32, got "{text}"')
    return [tuple(map(int, part)) for part in parts]


def _memory(device: str) -> str:
    return REUSED if device == "cpu" else DEVICE


def _calls(device: str, dtypes: Sequence[str]) -> Iterator[Case]:
    memory = AS_IT_COMES if device == "cpu" else DEVICE  # Small blocks are reused anyway, and fastest by default.
    for phase in (FORWARD, STEP, TEST):
        contestants = (MAX, OURS, "max-dropout:0.2", "stochastic")
        yield Case(phase, TINY, WINDOWS[0], LAYOUTS[0], dtypes[0], contestants, memory)


def _layers(device: str, quick: bool, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str]) -> Iterator[Case]:
    """Both phases of every combination; what takes long takes part in the first dtype or at the first shape."""
    for shape, window, dtype, layout in itertools.product(shapes, WINDOWS, dtypes, LAYOUTS):
        first = dtype == dtypes[0]
        if quick and not first and shape != shapes[0]:
            continue
        for phase in (STEP, TEST):
            contestants = [MAX, OURS, COPY]
            if not quick and (first or shape == shapes[-1]):
                contestants += METHODS
            if not quick and dtype == "float32" and shape == shapes[-1] and window == WINDOWS[0]:
                contestants += PEERS
            if first and _has_time_for_unfold(device, quick, shapes.index(shape), phase):
                contestants.append(UNFOLD)
            if not quick and phase == STEP and shape == shapes[0]:
                if device == "cuda" and dtype in dtypes[:2]:
                    contestants.append(MAX_COMPILED)
                if first and layout == LAYOUTS[0]:
                    contestants.append(UNFOLD_COMPILED)
            yield Case(phase, shape, window, layout, dtype, tuple(contestants), _memory(device))


def _has_time_for_unfold(device: str, quick: bool, number: int, phase: str) -> bool:
    if quick:
        return phase == STEP and number == 0
    return device == "cpu" or number == 0


def _general(device: str, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str]) -> Iterator[Case]:
    for phase, window, dtype, layout in itertools.product((STEP, TEST), GENERAL, dtypes[:2], LAYOUTS):
        contestants = (MAX, OURS, COPY, *METHODS)
        shape = (*shapes[-1][:2], 7, 7) if window == GENERAL[-1] else shapes[-1]
        yield Case(phase, shape, window, layout, dtype, contestants, _memory(device))


def _operators(device: str, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str]) -> Iterator[Case]:
    for operator, window, dtype, layout in itertools.product(OPERATORS, WINDOWS, dtypes, LAYOUTS):
        shape = shapes[0] if dtype == dtypes[0] else shapes[-1]
        yield Case(operator, shape, window, layout, dtype, (TWIN, operator, COPY), _memory(device))


def _as_it_comes(shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str]) -> Iterator[Case]:
    for phase, shape, window, layout in itertools.product((STEP, TEST), shapes, WINDOWS, LAYOUTS):
        yield Case(phase, shape, window, layout, dtypes[0], (MAX, OURS, COPY), AS_IT_COMES)


def _networks(dtypes: Sequence[str]) -> Iterator[Case]:
    for dtype in dtypes[:2]:
        contestants = (MAX, "average", OURS, "max-dropout:0.2", "stochastic")
        yield Case(NETWORK, (64, 3, 224, 224), WINDOWS[0], LAYOUTS[1], dtype, contestants, DEVICE)
