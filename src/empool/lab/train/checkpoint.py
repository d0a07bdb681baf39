"""The last two checkpoints of a run, of which one is always whole."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from empool.lab.errors import LabError, first_line
from empool.lab.files import replacing

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"  # of the epoch before; only while the run is unfinished
_DAMAGED = (RuntimeError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError)  # what zipfile raises too
_PARTS = ("state_dict", "optimizer_states", "loops", "history")


class Checkpoints(TorchCheckpointIO):
    """Writes checkpoints for Lightning, each taking the place of the last, which is kept as the previous one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; if that fails, those that were there stay."""
        path = Path(path)
        # PyTorch hides what the system says when it opens the file itself.
        with replacing(path, path.with_name(PREVIOUS)) as unfinished, unfinished.open("wb") as file:
            torch.save(checkpoint, file)


def begun(folder: Path) -> bool:
    """Tell whether a run's folder holds a checkpoint; damaged ones count."""
    return (folder / LAST).exists() or (folder / PREVIOUS).exists()


def newest(folder: Path, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """Find the newest checkpoint that is whole.

    Args:
        folder: of the run.
        say: is told of a damaged one.

    Returns:
        Its path and what is in it; None for a run that has none yet.

    Raises:
        LabError: if all that there are are damaged.
    """
    paths = [path for path in (folder / LAST, folder / PREVIOUS) if path.exists()]
    damages = []
    for path in paths:
        try:
            checkpoint = read_checkpoint(path, "delete it, and the run starts again")
        except LabError as error:
            damages.append(error)
            continue
        if damages:
            epochs = len(checkpoint["history"])
            say(f"{str(damages[0]).partition(';')[0]}; going on from {path}, of epoch {epochs}")
        return path, checkpoint
    if len(damages) > 1:
        raise LabError(f"{paths[0]} and {paths[1]} are damaged; delete both, and the run starts again")
    if damages:
        raise damages[0]
    return None


def read_checkpoint(path: Path, remedy: str) -> dict[str, Any]:
    """Read a checkpoint, to the CPU; nothing in it is executed.

    Raises:
        LabError: if it is damaged, with the remedy.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # PyTorch leaves the checksums that it writes unread.
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} fails its checksum")
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict) or not all(part in checkpoint for part in _PARTS):
            raise ValueError("it is no checkpoint of a run")
    except (*_DAMAGED, pickle.UnpicklingError) as error:
        raise LabError(f"{path} is damaged ({first_line(error)}); {remedy}") from None
    return checkpoint
