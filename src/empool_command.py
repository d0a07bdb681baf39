"""The command `empool`, beside the package: importing that imports PyTorch, and help need not wait for it."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any


class _Unread(ModuleType):
    """A package whose own file is run when something in it is first asked for; its submodules do not wait for that."""

    def __getattr__(self, name: str) -> Any:
        if importlib.util.find_spec(f"{self.__name__}.{name}"):
            raise AttributeError(name)  # The import system then imports the submodule, of which others may be halfway.
        self.__class__ = ModuleType  # type: ignore[assignment]  # It becomes what it stands for.
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def main() -> int:
    """Run a command as `empool.lab.cli.main` does, and return its exit code."""
    if "empool" not in sys.modules:
        spec = importlib.util.find_spec("empool")
        assert spec is not None
        package = importlib.util.module_from_spec(spec)
        package.__class__ = _Unread
        sys.modules["empool"] = package
    from empool.lab import cli
    from empool.lab.train.processes import until_left

    return until_left(cli.main)
