"""The pooling layers: they hold arguments and call `empool.functional` once; no buffers, parameters only if learned."""

# ruff: noqa: F403
from empool.modules.adaptive import *
from empool.modules.learned import *
from empool.modules.regular import *

__all__ = [name for name in dir() if name[-2:] in ("1d", "2d", "3d")]
