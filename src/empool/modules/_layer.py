"""What the pooling layers share: they hold arguments and call `empool.functional` once."""

# Without annotations as strings, of which torch.fx makes code that can't be pickled.

import types
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Generator, Tensor, nn
from torch.fx import Proxy

from empool._call import OutputSize, Seed, Size, Tied, counts_of
from empool._private import AdaptiveMaxPoolNd, MaxPoolNd

_TEXTS = {
    1: {
        "height and width": "length",
        ", or one number for both": "",
        "H, W": "L",
        "OH and OW": "OL",
        "OH, OW": "OL",
        "32, 32": "32",
        "16, 16": "16",
        "7, 7": "7",
        "1, 1": "1",
    },
    3: {
        "height and width": "depth, height and width",
        "number for both": "number for all",
        "H, W": "D, H, W",
        "OH and OW": "OD, OH and OW",
        "OH, OW": "OD, OH, OW",
        "32, 32": "8, 8, 8",
        "16, 16": "4, 4, 4",
        "7, 7": "7, 7, 7",
        "1, 1": "1, 1, 1",
    },
}
"""What the docstring of a layer in 2d says otherwise in 1d and 3d."""


class Pool(nn.Module):
    """A layer that samples: its method's own arguments by name, and where its random numbers come from.

    A class says with `dims` which of its method's six functions it calls. In 1d and 3d its docstring goes on as that of
    its twin in 2d, which comes before it.
    """

    _functions: ClassVar[tuple[Callable[..., Any], ...]]
    _function: ClassVar[Callable[..., Any]]
    _own: ClassVar[tuple[str, ...]] = ()
    _adaptive: ClassVar[bool] = False
    _dims: ClassVar[int]
    _text: ClassVar[str]
    seed: Seed = None
    generator: Generator | None = None
    tied: Tied = None

    def __init_subclass__(cls, dims: int = 0, **others: Any) -> None:
        super().__init_subclass__(**others)
        if not dims:
            return
        cls._dims, cls._function = dims, cls._functions[dims - 1 + 3 * cls._adaptive]
        made = cls.__init__
        named = types.FunctionType(made.__code__, made.__globals__, "__init__", made.__defaults__, made.__closure__)
        named.__kwdefaults__, named.__annotations__ = made.__kwdefaults__, made.__annotations__
        named.__qualname__ = f"{cls.__name__}.__init__"  # Python's own errors name the layer.
        cls.__init__ = named  # type: ignore[method-assign]
        if dims == 2:
            cls.__base__._text = (cls.__doc__ or "").partition("\n")[2]  # type: ignore[union-attr]
        else:
            text = cls._text.replace("2d", f"{dims}d")
            for in_2d, here in _TEXTS[dims].items():
                text = text.replace(in_2d, here)
            cls.__doc__ = cls.__doc__ and f"{cls.__doc__}\n{text}"  # Python without docstrings has none here either.

    def _draw_by(self, seed: Seed, generator: Generator | None, tied: Tied) -> None:
        # Only what is given: a layer that was pickled before there were these has none.
        for name, value in (("seed", seed), ("generator", generator), ("tied", tied)):
            if value is not None:
                setattr(self, name, value)

    def forward(self, input: Tensor) -> Any:
        """Pool."""
        traced = isinstance(input, Proxy)
        if traced and self._is_leaf(input.tracer):  # type: ignore[attr-defined]
            return self._leaf(input)  # type: ignore[arg-type]
        own = self._arguments(traced)
        if traced or self.seed is not None or self.generator is not None or self.tied is not None:
            own = {"seed": self.seed, "generator": self.generator, "tied": self.tied, **own}
        return type(self)._function(input, *self._windows(), training=self._is_sampling(), **own)

    def _windows(self) -> tuple[Any, ...]:
        """Return where the windows are, as the function takes it."""
        raise NotImplementedError

    def _counts(self) -> tuple[int, ...]:
        """Return how many activations a window can hold, if that is known whatever the input is."""
        return ()

    def _is_sampling(self) -> bool:
        return self.training

    def _arguments(self, traced: bool) -> dict[str, Any]:
        """Return the method's own arguments as the layer keeps them, or as a user writes them for a symbolic trace."""
        return self._spelled()

    def _spelled(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._own}

    def _is_leaf(self, tracer: Any) -> bool:
        """Tell whether a symbolic trace can record a call of the layer, as of torch.nn's own, so its phase stays open.

        Not where a call does more than pool, which the trace records as well, or where the layer is all there is.
        """
        hooks = self._forward_hooks or self._forward_pre_hooks
        own = type(self).forward.__module__.startswith(__package__)
        return own and not hooks and tracer.root is not self

    def _leaf(self, input: Proxy) -> Any:
        return input.tracer.create_proxy("call_module", input.tracer.path_of_module(self), (input,), {})  # type: ignore[attr-defined]

    def __prepare_scriptable__(self) -> Any:
        kind = type(self).__name__
        raise TypeError(
            f"{kind}: torch.jit.script can't compile it; use torch.compile, torch.export or torch.jit.trace"
        )

    def extra_repr(self) -> str:
        given = {name: getattr(self, name) for name in ("seed", "generator", "tied")}
        own = {**self._spelled(), **{name: value for name, value in given.items() if value is not None}}
        texts = [f"{name}={value.tolist() if isinstance(value, Tensor) else value}" for name, value in own.items()]
        return ", ".join([super().extra_repr(), *texts])


class WindowPool(Pool, MaxPoolNd):
    """A layer with `torch.nn.MaxPool2d`'s arguments."""

    def __init__(
        self, kernel_size: Size, stride: Size | None, padding: Size, dilation: Size, return_indices: bool,
        ceil_mode: bool, seed: Seed, generator: Generator | None, tied: Tied,
    ) -> None:  # fmt: skip
        if isinstance(stride, float):  # A p in its place.
            own = "the method's own arguments, such as p, go by name"  # type: ignore[unreachable]
            raise TypeError(f"{type(self).__name__}: expected stride to be an int, got {stride}; {own}")
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)  # type: ignore[arg-type]
        self._draw_by(seed, generator, tied)

    def _windows(self) -> tuple[Any, ...]:
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices

    def _counts(self) -> tuple[int, ...]:
        return counts_of(self._dims, self.kernel_size, self.padding, self.ceil_mode)


class AdaptivePool(Pool, AdaptiveMaxPoolNd):
    """A layer with `torch.nn.AdaptiveMaxPool2d`'s arguments."""

    _adaptive = True

    def __init__(
        self, output_size: OutputSize, return_indices: bool, seed: Seed, generator: Generator | None, tied: Tied
    ) -> None:
        super().__init__(output_size, return_indices)  # type: ignore[arg-type]
        self._draw_by(seed, generator, tied)

    def _windows(self) -> tuple[Any, ...]:
        return self.output_size, self.return_indices
