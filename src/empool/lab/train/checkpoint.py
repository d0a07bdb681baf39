"""The last two checkpoints of a run, of which one is always whole."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

import torch

from empool.lab.errors import LabError, first_line
from empool.lab.files import replacing

_log = logging.getLogger(__name__)
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"  # of the epoch before; only while the run is unfinished
_PARTS = ("state_dict", "optimizer_states", "history", "origins")


def write(folder: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint in the place of the last, which is kept as the previous one; if that fails, both stay."""
    # PyTorch hides what the system says when it opens the file itself.
    with replacing(folder / LAST, folder / PREVIOUS) as unfinished, unfinished.open("wb") as file:
        torch.save(checkpoint, file)


def begun(folder: Path) -> bool:
    """Tell whether a run's folder holds a checkpoint; damaged ones count."""
    return (folder / LAST).exists() or (folder / PREVIOUS).exists()


def unfinished(folder: Path) -> bool:
    """Tell whether a run was begun and has no result."""
    return begun(folder) and not (folder / "result.json").exists()


def newest(folder: Path) -> dict[str, Any] | None:
    """Read the newest checkpoint of a run that is whole; None for a run that has none yet."""
    damages = []
    for path in (folder / LAST, folder / PREVIOUS):
        try:
            checkpoint = read_checkpoint(path, "delete it")
        except FileNotFoundError:
            continue
        except LabError as error:
            damages.append(str(error).partition(";")[0])
            continue
        if damages:
            _log.warning("%s; going on from %s, of epoch %d", damages[0], path, len(checkpoint["history"]))
        return checkpoint
    if damages:
        them = "it" if len(damages) == 1 else "both"
        raise LabError(f"{' and '.join(damages)}; delete {them}, and the run starts again")
    return None


def read_checkpoint(path: Path, remedy: str) -> dict[str, Any]:
    """Read a checkpoint, to the CPU; nothing in it is executed. A damaged one is refused, with the remedy."""
    try:
        with zipfile.ZipFile(path) as archive:  # PyTorch leaves the checksums that it writes unread.
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} fails its checksum")
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict) or not all(part in checkpoint for part in _PARTS):
            raise ValueError("it is no checkpoint of a run")
    except OSError:
        raise
    except Exception as error:  # Of zipfile, zlib, pickle and PyTorch, each of which has several.
        raise LabError(f"{path} is damaged ({first_line(error)}); {remedy}") from None
    return checkpoint
