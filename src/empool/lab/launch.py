"""Where the runs of a study go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from empool.lab.data import Data
from empool.lab.progress import Progress
from empool.lab.run import RunConfig
from empool.lab.training import Row, fit


class Launcher(Protocol):
    """Does runs; how many at once is its business."""

    def launch(
        self, runs: Sequence[RunConfig], data: Data, directory: Path, progress: Progress
    ) -> Iterator[dict[str, Any]]:
        """Do runs, telling `progress` of each, and yield the record of each as it ends."""


class Local:
    """One run after another, in this process: a run uses all cores, or the one GPU."""

    def launch(
        self, runs: Sequence[RunConfig], data: Data, directory: Path, progress: Progress
    ) -> Iterator[dict[str, Any]]:
        """Do runs in their order."""
        for config in runs:

            def watch(epochs: float, row: Row | None, config: RunConfig = config) -> None:
                progress.advanced(config, epochs, row)

            progress.started(config)
            record = fit(config, data, directory, watch, progress.say)
            progress.finished(config, record)
            yield record


LAUNCHERS: dict[str, type[Local]] = {"local": Local}
