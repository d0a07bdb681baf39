"""What was measured, as lines for the terminal and as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from empool.bench import cases

Row = Mapping[str, Any]
_NONE = "-"
_WIDTHS = (24, 26, 24, 10)
_HEADERS = ("", "time of a call", "ratio to the first", "of copy")


@dataclass(frozen=True)
class Table:
    """A table of strings; the first column names its row.

    Attributes:
        title: what it shows, a sentence without its stop.
        header: one string a column.
        rows: as many strings each.
    """

    title: str
    header: list[str]
    rows: list[list[str]]

    def text(self) -> Iterator[str]:
        """Yield the lines of the table for a terminal, an empty one first."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        yield ""
        yield self.title
        for row in (self.header, *self.rows):
            numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            yield "  ".join(["  " + row[0].ljust(widths[0]), *numbers]).rstrip()

    def markdown(self) -> Iterator[str]:
        """Yield the lines of the table in GitHub-flavoured Markdown, an empty one first."""
        yield ""
        yield f"**{self.title}**"
        yield ""
        for row in (self.header, [":---"] + ["---:"] * (len(self.header) - 1), *self.rows):
            yield f"| {' | '.join(row)} |"


def head(record: Row) -> Iterator[str]:
    """Yield lines on the host and on what the columns mean."""
    versions = record["versions"]
    load = "unknown" if record["load_before"] is None else f"{record['load_before']:.2f}"
    yield f"{record.get('card') or record['processor']}; torch {versions['torch']}, empool {versions['empool']}"
    if record["load_before"] and record["load_before"] > 0.5:
        yield "warning: other processes are busy, and times will be too long; wait until they are done"
    if record["device"] == "cpu":
        yield f"{record['threads']} threads of {record['cores']} cores, {record['capability']}, load average {load}"
        reuse = " ".join(f"{name}={value}" for name, value in record["reuse"].items())
        yield f"memory is reused (glibc with {reuse}) unless a line says that it is as it comes"
    for kernel, operators in kernels(record).items():
        yield f"{kernel}: {', '.join(operators)}"
    yield "median [quartiles]; of copy: share of a copy's bandwidth, were every tensor moved once"
    yield "".join(text.ljust(width) for text, width in zip(_HEADERS, _WIDTHS, strict=True)).rstrip()


def kernels(record: Row) -> dict[str, list[str]]:
    """Return the operators that each kernel serves on the device measured."""
    served: dict[str, list[str]] = {}
    for operator, devices in record["kernels"].items():
        served.setdefault(devices[record["device"]], []).append(operator)
    return served


def block(rows: Sequence[Row], progress: str) -> Iterator[str]:
    """Yield the lines of a case."""
    yield f"{progress} {title(rows[0])}"
    for row in rows:
        cells = (
            f"  {row['contestant']}",
            _time(row["seconds"]),
            _ratio(row),
            percent(row.get("copy_share")),
            extra(row),
        )
        yield "".join(cell.ljust(width) for cell, width in zip(cells, (*_WIDTHS, 0), strict=True)).rstrip()


def title(row: Row) -> str:
    """Name the case of a row as `str` of it does."""
    parts = [str(cases.PHASES.get(row["phase"], row["phase"])), dimensions(row["shape"])]
    parts += [row["window"]] * (row["phase"] != cases.NETWORK) + [row["layout"], row["dtype"]]
    default = row["memory"] == cases.AS_IT_COMES and tuple(row["shape"]) != cases.TINY
    return ", ".join(parts + ["memory as it comes"] * default)


def dimensions(shape: Sequence[int]) -> str:
    """Write a shape as 64x64x56x56."""
    return "x".join(map(str, shape))


def _time(seconds: Mapping[str, float]) -> str:
    scale, unit = next(((s, u) for s, u in ((1.0, "s"), (1e-3, "ms")) if seconds["median"] >= s), (1e-6, "us"))
    lower, median, upper = (figures(seconds[name] / scale) for name in ("lower", "median", "upper"))
    return f"{median} {unit} [{lower}, {upper}]"


def figures(number: float) -> str:
    """Write a number with three figures, or with all before the point."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def _ratio(row: Row) -> str:
    if row["contestant"] == row["baseline"]:
        return "1"
    return "{median:.2f} [{lower:.2f}, {upper:.2f}]".format(**row["ratio"])


def percent(value: float | None) -> str:
    """Write a share."""
    return "" if value is None else f"{100 * value:.0f} %"


def extra(row: Row) -> str:
    """Write what is kept for the backward pass, the memory of a network, and page faults."""
    parts = []
    if "kept_bytes" in row:
        parts.append(f"keeps {keeps(row)}")
    if "peak_bytes" in row:
        parts.append(f"peak {row['peak_bytes'] / 2**20:.0f} MiB, held {row['held_bytes'] / 2**20:.0f} MiB")
    if row["memory"] != cases.DEVICE and row["faults"] is not None and row["faults"] >= 1:
        parts.append(f"{row['faults']:.0f} page faults")
    return "; ".join(parts)


def keeps(row: Row) -> str:
    """Write what is kept for the backward pass."""
    return f"{row['kept_bytes'] / row['outputs']:.3g} B/output" + (" + input" if row["keeps_input"] else "")


def summary(record: Row) -> Iterator[str]:
    """Yield the lines that end a run: all tables, load, and how long it took."""
    for table in tables(record):
        yield from table.text()
    after = "unknown" if record["load_after"] is None else f"{record['load_after']:.2f}"
    yield ""
    bandwidth = f"a large copy: {record['copy_bandwidth'] / 1e9:.1f} GB/s"
    yield f"{bandwidth}; load average {after}; {record['wall_seconds']:.0f} s"


def tables(record: Row) -> list[Table]:
    """Return the tables that have rows: ours by case, all contestants, operators, calls, networks."""
    made = []
    for memory in (cases.REUSED, cases.DEVICE, cases.AS_IT_COMES):
        for phase in (cases.STEP, cases.TEST):
            note = ", memory as it comes" if memory == cases.AS_IT_COMES else ""
            heading = f"{cases.PHASES[phase].capitalize()} with {cases.OURS}, relative to max-pooling{note}"
            rows = [row for row in _layers(record) if (row["memory"], row["phase"]) == (memory, phase)]
            made.append(
                _grid(heading, [row for row in rows if row["contestant"] == cases.OURS], _place, _kind, _median)
            )
    made += [_contestants(record), _operators(record), _calls(record), _networks(record)]
    return [table for table in made if table.rows]


def _layers(record: Row) -> list[Row]:
    return [row for row in record["rows"] if row["phase"] in cases.PHASES and tuple(row["shape"]) != cases.TINY]


def _place(row: Row) -> str:
    return f"{dimensions(row['shape'])}, {row['window']}"


def _kind(row: Row) -> str:
    return f"{row['layout']} {row['dtype']}"


def _median(row: Row) -> str:
    return f"{row['ratio']['median']:.2f}"


def _grid(
    heading: str,
    rows: Sequence[Row],
    line: Callable[[Row], str],
    column: Callable[[Row], str],
    cell: Callable[[Row], str],
) -> Table:
    """Lay rows out by the names of their lines and columns."""
    lines, columns = list(dict.fromkeys(map(line, rows))), sorted(dict.fromkeys(map(column, rows)), key=_by_layout)
    cells = {(line(row), column(row)): cell(row) for row in rows}
    return Table(heading, ["", *columns], [[name, *(cells.get((name, c), _NONE) for c in columns)] for name in lines])


def _by_layout(column: str) -> bool:
    return column.startswith(cases.LAYOUTS[1])


def _contestants(record: Row) -> Table:
    """Compare all contestants in the training step that has the most of them."""
    steps = [row for row in _layers(record) if row["phase"] == cases.STEP and row["memory"] != cases.AS_IT_COMES]
    fullest = max((_case(row) for row in steps), key=[_case(row) for row in steps].count, default=None)
    rows = [row for row in steps if _case(row) == fullest]
    heading = f"All contestants: {title(rows[0])}" if rows else ""
    lines = [
        [
            row["contestant"],
            figures(row["seconds"]["median"] * 1e3),
            _median(row),
            percent(row.get("copy_share")),
            keeps(row) if "kept_bytes" in row else _NONE,
        ]
        for row in rows
    ]
    return Table(heading, ["", "ms", "relative to max", "of copy bandwidth", "kept for backward"], lines)


def _case(row: Row) -> tuple[Any, ...]:
    return (row["phase"], tuple(row["shape"]), row["window"], row["layout"], row["dtype"], row["memory"])


def _operators(record: Row) -> Table:
    rows = [row for row in record["rows"] if row["contestant"] in cases.OPERATORS]
    return _grid(
        "Operators, relative to PyTorch's",
        rows,
        lambda row: f"{row['phase']}, {row['window']}",
        lambda row: f"{row['layout']} {row['dtype']} {dimensions(row['shape'])}",
        _median,
    )


def _calls(record: Row) -> Table:
    rows = [row for row in record["rows"] if tuple(row["shape"]) == cases.TINY]
    return _grid(
        f"Microseconds of a call on a {dimensions(cases.TINY)} tensor, and relative to F.max_pool2d",
        rows,
        lambda row: str(row["contestant"]),
        lambda row: cases.PHASES[row["phase"]],
        lambda row: f"{figures(row['seconds']['median'] * 1e6)} ({_median(row)})",
    )


def _networks(record: Row) -> Table:
    rows = [row for row in record["rows"] if row["phase"] == cases.NETWORK]
    return Table(
        f"{cases.PHASES[cases.NETWORK].capitalize()}: memory beyond parameters and input",
        ["", "peak MiB", "held for backward MiB", "ms", "relative to max"],
        [
            [
                f"{row['contestant']}, {row['dtype']}",
                f"{row['peak_bytes'] / 2**20:.0f}",
                f"{row['held_bytes'] / 2**20:.0f}",
                figures(row["seconds"]["median"] * 1e3),
                _median(row),
            ]
            for row in rows
        ],
    )
