"""The tables of a results file for a page in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from empool.bench import cases, table
from empool.lab.errors import LabError
from empool.lab.files import put_marked, read_json


def write(results: Path, into: Path | None = None) -> None:
    """Write the tables of a results file.

    Args:
        results: what `empool bench --json` wrote.
        into: page that holds the marks ``<!-- bench:cpu -->`` and ``<!-- /bench:cpu -->`` (or ``cuda``), between which
            the tables are put; None prints them.

    Raises:
        LabError: if the file is no results file, or the page has no such marks.
    """
    record = read_json(results)
    if not isinstance(record, dict) or "rows" not in record:
        raise LabError(f"{results}: expected a file that empool bench --json wrote")
    text = "\n".join(lines(record)) + "\n"
    if into is None:
        print(text, end="")
        return
    put_marked(into, f"bench:{record['device']}", text)


def lines(record: dict[str, Any]) -> Iterator[str]:
    """Yield the tables that a reader of the front page wants, and how they came about."""
    for made in table.tables(record):
        if not made.title.startswith("Operators"):
            yield from made.markdown()
    versions = record["versions"]
    where = record.get("card") or f"{record['processor']} ({record['capability']}), {record['threads']} threads"
    served = ", ".join(
        dict.fromkeys(record["kernels"][operator][record["device"]].partition(":")[0] for operator in cases.OPERATORS)
    )
    yield ""
    yield (
        f"{where}; PyTorch {versions['torch']}, empool {versions['empool']} ({served}); {record['time'][:10]}; "
        f"medians of rounds in which all take turns; a large copy runs at {record['copy_bandwidth'] / 1e9:.0f} GB/s. "
        f"`{record['command']}`"
    )
    speedup = _speedup(record)
    if speedup is not None:
        yield ""
        yield f"At least {math.floor(speedup)} times as fast as `unfold`, `topk`, `where`."


def _speedup(record: dict[str, Any]) -> float | None:
    """Return how many times as fast as the obvious way ours is, where it is least."""
    times: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in record["rows"]:
        case = (row["phase"], *row["shape"], row["window"], row["layout"], row["dtype"], row["memory"])
        times.setdefault(case, {})[row["contestant"]] = row["seconds"]["median"]
    both = [found for found in times.values() if cases.UNFOLD in found and cases.OURS in found]
    return min((found[cases.UNFOLD] / found[cases.OURS] for found in both), default=None)
