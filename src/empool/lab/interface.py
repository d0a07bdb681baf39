"""The lab from Python: studies, their records as tables and plots, and the same for records of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from empool.distributions import Pooling
from empool.lab import report
from empool.lab.execute.options import Options
from empool.lab.execute.session import study
from empool.lab.files import checked


class Study:
    """A study's folder: what its finished runs measured, and what follows from it.

    Args:
        directory: of the study; what `compare` or the command `empool compare` made.
        baseline: spelling of the pooling that the others are held against.

    Example:
        >>> import pathlib, tempfile
        >>> from empool.lab import compare
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> study = compare(poolings=["max", "ensemble:0.1"], seeds=2, epochs=1, train_limit=200, out=folder)
        >>> study.frame()[["pooling", "seed"]].values.tolist()
        [['max', 0], ['ensemble:0.1', 0], ['max', 1], ['ensemble:0.1', 1]]
    """

    def __init__(self, directory: str | Path, baseline: str = "max") -> None:
        self.directory, self.baseline = Path(directory), baseline

    def __repr__(self) -> str:
        return f"Study({str(self.directory)!r}, {len(self.records)} runs)"

    @property
    def records(self) -> list[Mapping[str, Any]]:
        """The record of each finished run, as in results.json."""
        return report.read_records(self.directory)

    def frame(self) -> Any:
        """Return a `pandas.DataFrame` with a row a run."""
        return pandas.DataFrame(self.records)

    def table(self) -> Any:
        """Return a `pandas.DataFrame` with a row a pooling: error, difference to the baseline, interval, verdict."""
        return report.frame(self.directory, baseline=self.baseline)

    def plot(self) -> Any:
        """Return the figure of test errors, which a notebook shows."""
        return report.figure(self.directory, baseline=self.baseline)

    def report(self) -> Path:
        """Write report.html and what goes with it; return its path."""
        return report.write_report(self.directory, baseline=self.baseline)

    def _repr_html_(self) -> str:
        return str(self.table().to_html())


def compare(
    data: str | Path = "digits",
    model: str = "cnn",
    poolings: Iterable[str | Pooling] | Mapping[str, Mapping[str, Any]] | str | None = None,
    seeds: int | Sequence[int] = 3,
    *,
    baseline: str = "max",
    out: str | Path | None = None,
    **options: Any,
) -> Study:
    """Train a network with each pooling and several seeds; what is done already is not done again.

    Args:
        data: name of a data set, a folder, or ``package.module:factory``.
        model: spelling of a network, or ``package.module:factory``.
        poolings: spellings or `empool` poolings; or a mapping from them to what the recipe has otherwise with each,
            as in ``{"max": {}, "ensemble:0.3": {"learning_rate": 0.03}}``. None: max, average and five that sample.
        seeds: number of runs of each pooling, or their seeds.
        baseline: pooling that the others are held against.
        out: folder of the study; None: runs/DATA-MODEL.
        options: those of the command `empool compare`, by their names: ``epochs=5``, ``validation=0.1``, ``jobs=2``,
            ``recipe=["width=32"]``, ``logger=["tensorboard"]``; see `empool.lab.execute.options.Options`.

    Raises:
        empool.lab.LabError: for what is wrong with any of them.
        TypeError: for an unknown option.
    """
    if isinstance(poolings, Mapping):
        poolings = [
            "@".join((str(pooling), *(f"{field}={_spelled(value)}" for field, value in own.items())))
            for pooling, own in poolings.items()
        ]
    chosen = Options(data=str(data), model=model, out=None if out is None else Path(out), **options)
    seeds = list(range(seeds)) if isinstance(seeds, int) else np.asarray(seeds).tolist()
    checked({"seeds": seeds}, "compare", {"seeds": list[int]})
    directory, _ = study(chosen, poolings, seeds, command="empool.lab.compare(...)", baseline=baseline)
    return Study(directory, baseline)


def table(records: Iterable[Mapping[str, Any]], baseline: str = "max") -> Any:
    """Return the table of a study, a `pandas.DataFrame`, of records of one's own.

    Args:
        records: one a run, with at least "pooling", "seed" and "test_error" in percent; "test_nll" and "correct" are
            used where they are there. "data" and "model" tell studies apart, of which there must be one.
        baseline: pooling that the others are held against.

    Raises:
        empool.lab.LabError: for a record that lacks something.

    Example:
        >>> from empool.lab import table
        >>> errors = {"max": [10.1, 10.3, 10.2], "ensemble:0.1": [9.1, 9.0, 9.3]}
        >>> rows = [{"pooling": p, "seed": s, "test_error": e} for p, es in errors.items() for s, e in enumerate(es)]
        >>> table(rows).index.tolist()
        ['max', 'ensemble:0.1']
    """
    return report.frame(records, baseline=baseline)


def _spelled(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
